"""Short benchmarks with real clips, a real engine and the real pipeline."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.capacity.benches import MACHINE, SETTINGS, bench, engine_row, run_row
from tests.support import raw_networks as raw
from tests.support.media import MEDIA, ROOT
from vision_infer.capacity import pipeline_benchmark
from vision_infer.capacity.bench import QUICK, BenchRequest, run_bench
from vision_infer.capacity.charts import draw_bench
from vision_infer.capacity.engines import EnginePlan, measure_engines
from vision_infer.capacity.pipeline_benchmark import Offered, run_streams, search_most
from vision_infer.capacity.report import BenchReport, PipelineRow
from vision_infer.capacity.stages import measure_decode
from vision_infer.capacity.this_machine import notes_of, this_machine
from vision_infer.cli.capacity.bench_table import print_bench, verdict
from vision_infer.core.errors import EngineError, StreamError
from vision_infer.core.geometry import Size
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.stream.files.sample_clip import SECONDS, ClipSpec, sample_clip
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec

GRAPH = ROOT / "models" / "nanodet-416" / "model.onnx"
SMALL = ClipSpec("h264", Size(320, 180), 10)
SHORT = replace(QUICK, sizes=(SMALL.size,), batches=(1,), rounds=1, round_s=0.02, stream_s=0.5, settle_s=0.1, deadline_s=20.0)
ASKED = SETTINGS.model_copy(
    update={"model": "nanodet-416", "width": 320, "height": 180, "source_fps": 10, "engine": "onnxruntime-cpu-fp32"}
)
REQUEST = BenchRequest(GRAPH, ASKED, MEDIA, None, SHORT)


def null() -> NullEngine:
    return NullEngine(read_graph_facts(GRAPH).card, in_flight=2)


def test_a_sample_matches_its_specification_and_is_cached(tmp_path: Path) -> None:
    path = sample_clip(SMALL, tmp_path)
    with open_source(SourceSpec("clip", "video", (str(path),))) as source:
        frames = [(frame.image.size, frame.pts_s) for frame in source.frames()]
        assert source.report.gaps == 0
        assert source.info.codec == "h264"
    assert len(frames) == SECONDS * SMALL.fps
    assert frames[-1][0] == SMALL.size
    assert frames[-1][1] == pytest.approx(SECONDS - 0.1)
    assert 0.4 < path.stat().st_size * 8 / SECONDS / SMALL.bit_rate < 2
    before = path.stat().st_mtime_ns
    assert sample_clip(SMALL, tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_sample_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StreamError, match="cannot create a sample clip of h264 320x180"):
        sample_clip(SMALL, tmp_path / "file")


@pytest.mark.slow
def test_each_stage_and_the_complete_pipeline_are_measured(tmp_path: Path) -> None:
    said: list[str] = []
    report = run_bench(REQUEST, said.append, threading.Event())
    assert not report.interrupted
    assert [(row.codec, row.width, row.where) for row in report.decode] == [("h264", 320, "cpu")]
    assert report.decode[0].fps.median > 0
    assert [(row.width, row.input_width) for row in report.convert] == [(320, 416)]
    (engine,) = report.engines
    assert (engine.engine, engine.batch, engine.model, engine.loss_points) == ("onnxruntime-cpu-fp32", 1, "nanodet-416", 0.0)
    assert engine.p99_ms >= engine.p50_ms > 0
    assert engine.cpu_ms.median > 0
    assert report.pipeline
    row = report.pipeline[0]
    assert (row.streams, row.wanted_per_s) == (1, 10)
    assert row.age_p99_ms >= row.age_p50_ms > 0
    assert row.stream_ms > 0
    assert BenchReport.model_validate_json(report.model_dump_json()) == report
    assert "decoding: h264 320x180" in said
    pictures = draw_bench(report, tmp_path)
    assert [path.read_bytes()[:4] for path in pictures] == [b"\x89PNG"] * 2
    print_bench(report)


@pytest.mark.parametrize("at", ["decoding", "engines", "streams"])
def test_an_interrupted_benchmark_keeps_its_measurements(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()

    def on_message(line: str) -> None:
        if line.startswith(at):
            stop.set()

    report = run_bench(REQUEST, on_message, stop)
    assert report.interrupted
    assert not report.comparable
    parts = [bool(part) for part in (report.convert, report.engines, report.pipeline)]
    assert parts == [at != "decoding", at == "streams", False]
    print_bench(report)
    assert "interrupted; the measurements so far are kept" in capsys.readouterr().out


def test_an_unavailable_engine_fails_before_any_measurement() -> None:
    said: list[str] = []
    settings = REQUEST.settings.model_copy(update={"engine": "onnxruntim"})
    with pytest.raises(EngineError, match=r"unknown engine 'onnxruntim'\. Use auto, onnxruntime, "):
        run_bench(replace(REQUEST, settings=settings, streams=False), said.append, threading.Event())
    assert not said


def test_streams_run_open_loop_and_missing_results_count() -> None:
    clip = sample_clip(SMALL, MEDIA)
    offered = Offered(clip, source_fps=10, fps=5, target_ms=5000, settle_s=0.2, seconds=1.0)
    with null() as engine:
        row = run_streams(engine, 3, offered, threading.Event())
    assert row is not None
    assert row.wanted_per_s == 15
    assert 5 < row.results_per_s < 25
    # A result that is due at the edge of the second may belong to the next one, once for each stream.
    assert row.delivered == pytest.approx(min(1.0, row.results_per_s / 15), abs=3 / 15)


@pytest.mark.slow  # 5 s
def test_results_that_are_due_after_the_end_are_not_missing() -> None:
    clip = sample_clip(SMALL, MEDIA)
    offered = Offered(clip, source_fps=10, fps=0.7, target_ms=5000, settle_s=0.2, seconds=1.0)
    with null() as engine:
        row = run_streams(engine, 3, offered, threading.Event())
    assert row is not None
    assert row.results_per_s > 0
    assert row.delivered == 1.0


def test_the_cost_of_key_frames_is_measured() -> None:
    clip = sample_clip(SMALL, MEDIA)
    (row,) = measure_decode([(SMALL, clip)], cores=1, rounds=1, round_s=0.01)
    assert len(row.pattern) == SMALL.frames_per_group == 20
    assert sum(row.pattern) / len(row.pattern) == pytest.approx(1, abs=0.01)
    assert row.pattern[0] > 1.5, "the key frame"


def test_the_search_finds_the_maximum_and_confirms_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def run(engine: object, streams: int, offered: object, stop: object) -> PipelineRow:
        tried.append(streams)
        return run_row(streams, holds=streams < 7 or (streams == 7 and tried.count(7) == 1))

    monkeypatch.setattr(pipeline_benchmark, "run_streams", run)
    offered = Offered(Path("clip"), 10, 10, 200)
    with null() as engine:
        rows = search_most(engine, offered, guess=5, most=256, confirm=True, stop=threading.Event())
        assert tried[:2] == [1, 5]
        held = {row.streams: row.holds for row in rows}
        assert held[7] is False, "it held once and broke once"
        assert bench(pipeline=tuple(rows)).carries == 5
        assert {row.streams: row.repeats for row in rows}[7] == 3
        tried.clear()
        late = search_most(engine, offered, guess=5, most=256, confirm=False, stop=threading.Event(), late=lambda: True)
    assert [row.streams for row in late] == [1], "at the time limit, one number is still measured"


def test_the_verdict_mentions_untested_numbers() -> None:
    report = bench(pipeline=(run_row(1), run_row(4), run_row(8, holds=False)))
    assert verdict(report).endswith("within 200 ms (8 were too many, fewer were not tried).")
    assert verdict(bench(pipeline=(run_row(1, holds=False),))).startswith(
        "The machine does not support a single stream of h264 1920x1080"
    )
    assert verdict(bench(pipeline=())) == "The number of supported streams was not measured."


def test_one_core_and_a_cpu_limit_are_noted() -> None:
    (one, limit) = notes_of(MACHINE.model_copy(update={"cores": 1, "cpu_limit": 0.5}))
    assert one.startswith("One core: decoding, conversion and inference cannot run in parallel")
    assert limit.startswith("A control group limits CPU time to 0.5 CPUs")
    assert this_machine().cores >= 1


def test_at_the_time_limit_engines_are_measured_at_the_first_batch_size_only() -> None:
    hasty = replace(REQUEST, effort=replace(SHORT, batches=(1, 2, 4), deadline_s=0.0), streams=False)
    report = run_bench(hasty, lambda _: None, threading.Event())
    assert [row.batch for row in report.engines] == [1]
    assert not report.interrupted
    assert "The time limit was reached before everything was measured." in report.notes


def test_a_model_with_a_fixed_batch_is_measured_at_batch_1_only(tmp_path: Path) -> None:
    net = raw.Network(batch=1)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    file = net.save(tmp_path / "raw.onnx", {"logits": net.reshape(net.reshape(net.linear(pooled, 16, 10), -1), 1, 10)})
    graph = import_model(ImportRequest(file, "mine", head="classify", model_dir=tmp_path / "models"))
    notes: list[str] = []
    rows = measure_engines(EnginePlan(graph, None, (1, 2), 1, 0.02, 0, "onnxruntime-cpu-fp32", notes), lambda _: None)
    assert [row.batch for row in rows] == [1]
    assert notes == []


def test_the_tables_fit_into_80_columns() -> None:
    engines = (
        engine_row("tensorrt-rtx-cuda-fp16", batch=8, ms=1.2, loss=0.43, memory=4_321_000_000),
        engine_row(batch=4, ms=123.4, loss=None),
    )
    wide = {
        "results_per_s": 1234.5,
        "age_p50_ms": 1100.0,
        "age_p95_ms": 1200.0,
        "age_p99_ms": 1300.0,
        "rss_bytes": 12_345_000_000,
    }
    rows = (run_row(128, holds=False, cpu_cores=15.91, other_cores=10.25, delivered=0.98, **wide),)
    console = Console(file=io.StringIO(), width=80)
    print_bench(bench(engines=engines, pipeline=rows), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    for figure in ("0.43", "4321", "tensorrt-rtx-cuda-fp16", "1234.5", "missed", "10.25", "12345"):
        assert figure in text
