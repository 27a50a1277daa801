"""The parts of ``make test-gpu`` and ``make bench-gpu``: engines of the CPU replace those of the GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import decoding, engines, pipeline, speed, submit, testing
from benchmarks.gpu.engines import Contender
from benchmarks.gpu.graphs import Inputs
from benchmarks.gpu.plan import Row, Rows, run_parts
from benchmarks.null_device import NullDevice
from tests.benchmarks.gpu_cases import environment
from tests.support.media import H264, clip
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.stream import nvdec

__all__ = ["environment"]


def test_each_test_has_a_row(tmp_path: Path) -> None:
    file = tmp_path / "test_three.py"
    file.write_text(
        "import pytest\npytestmark = pytest.mark.gpu\n"
        "def test_good(): pass\ndef test_bad(): assert 1 == 2\n@pytest.mark.skip(reason='no NVDEC')\ndef test_left(): pass\n"
    )
    rows = Rows(tmp_path / "rows.jsonl")
    assert run_parts({"cuda": partial(testing.steps, [str(file)])}, rows) == 1
    assert [(row.get("test"), row.get("outcome"), row.get("why")) for row in rows.written] == [
        ("test_good", "passed", None),
        ("test_bad", "failed", "assert 1 == 2"),
        ("test_left", "skipped", "no NVDEC"),
        (None, None, None),
    ]
    assert "1 tests failed" in rows.written[-1]["failed"]


def test_a_file_that_cannot_be_collected_fails(tmp_path: Path) -> None:
    file = tmp_path / "test_broken.py"
    file.write_text("import no_such_module\n")
    ((_, measure),) = testing.steps([str(file)])
    with pytest.raises(RuntimeError, match="1 tests failed"):
        list(measure())


def on_the_cpu(name: str, has_graphs: bool = False) -> engines.Make:
    """Return an engine of the CPU in place of one of a GPU."""

    def make(graphs: engines.Graphs) -> Contender:
        path = graphs.graph(name.rpartition("-")[2])
        return Contender(name, lambda _: open_engine(path, EngineRequest("onnxruntime", "cpu", 2, batch=2)), has_graphs)

    make.__doc__ = name
    return make


def missing(_: engines.Graphs) -> Contender:
    """tensorrt, fp32"""
    raise EngineError("TensorRT is not installed", "Run: pip install '.[tensorrt]'")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made = Inputs(tmp_path_factory.mktemp("graphs"))
    assert len(made.frames.pixels) == 40
    made.__dict__["frames"] = made.frames.first(8)
    return made


def test_the_graphs_have_their_precisions(inputs: Inputs) -> None:
    assert [read_graph_facts(inputs.graph(precision)).precision for precision in engines.PRECISIONS] == list(engines.PRECISIONS)


@pytest.mark.slow
def test_speed_opens_each_engine_once_and_measures_all_batch_sizes(inputs: Inputs, tmp_path: Path) -> None:
    opened: list[tuple[str, bool]] = []

    def counted(make: engines.Make) -> engines.Make:
        def made(graphs: engines.Graphs) -> Contender:
            contender = make(graphs)

            def opens(with_graphs: bool) -> Engine:
                opened.append((contender.name, with_graphs))
                return contender.open(with_graphs)

            return Contender(contender.name, opens, contender.has_graphs)

        made.__doc__ = make.__doc__
        return made

    makes = [counted(on_the_cpu("onnxruntime-cuda-fp32")), missing, counted(on_the_cpu("torch-cuda-fp32", True))]
    rows = Rows(tmp_path / "rows.jsonl")
    assert run_parts({"engine": partial(speed.steps, makes, inputs, (1, 2, 4), 1, 0.01)}, rows) == 0
    assert opened == [("onnxruntime-cuda-fp32", True), ("torch-cuda-fp32", True), ("torch-cuda-fp32", False)]
    assert [row["left_out"] for row in rows.written if "left_out" in row] == [
        "TensorRT is not installed. Run: pip install '.[tensorrt]'"
    ]
    compared = [row for row in rows.written if row["step"] == "compare"]
    assert [(row["engine"], row["found_again"], row["as_it_should_be"]) for row in compared] == [
        ("onnxruntime-cuda-fp32", 100.0, True),
        ("torch-cuda-fp32", 100.0, True),
    ]
    ways = [("onnxruntime-cuda-fp32", None), ("torch-cuda-fp32", True), ("torch-cuda-fp32", False)]
    measured = [row for row in rows.written if row["step"].startswith("batch")]
    assert [(row["batch"], row["engine"], row["cuda_graphs"]) for row in measured] == [
        (batch, *way) for batch in (1, 2) for way in ways
    ]
    assert all(row["fps"] > 0 and row["p95_ms"] >= row["p50_ms"] > 0 for row in measured)


def test_fp16_is_compared_with_fp32(inputs: Inputs) -> None:
    with on_the_cpu("x-cuda-fp16")(inputs).open(True) as engine:
        half = speed.compared(inputs, engine, "fp16")
    assert half["as_it_should_be"]
    assert half["found_again"] > 95


def test_the_throughput_is_compared_with_that_of_trtexec(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    plan: Any = type("Plan", (), {"engine": "tensorrt-cuda-fp32"})()

    def with_plan(graphs: engines.Graphs) -> Contender:
        contender = on_the_cpu("tensorrt-cuda-fp32")(graphs)
        return Contender(contender.name, contender.open, plan=plan)

    def figures(_: Any, batch: int) -> Row:
        return {"fps": 10.0} if batch == 1 else {"left_out": "no output"}

    monkeypatch.setattr(speed, "trtexec_row", figures)
    rows = [row for _, measure in speed.steps([with_plan], inputs, (1, 2), 1, 0.01) for row in measure()]
    alone, batched = rows[-2:]
    assert alone["ratio"] == round(alone["engine_fps"] / 10.0, 3)
    assert (batched["ratio"], batched["left_out"]) == (None, "no output")


def test_the_output_of_trtexec_is_parsed() -> None:
    text = """
[I] Throughput: 1234.5 qps
[I] Latency: min = 1.1 ms, max = 2.2 ms, mean = 1.3 ms, median = 1.25 ms, percentile(90%) = 1.4 ms, percentile(95%) = 1.5 ms
[I] GPU Compute Time: min = 0.9 ms, max = 1.9 ms, mean = 1.0 ms, median = 0.95 ms, percentile(90%) = 1.1 ms
"""
    assert speed.trtexec_figures(text, 4) == {"fps": 4938.0, "p50_ms": 1.25, "p95_ms": 1.5, "compute_p50_ms": 0.95}
    assert speed.trtexec_figures("[E] the plan is for another GPU", 1) == {}


def test_decoding_leaves_out_a_gpu_that_cannot_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "_problem", lambda spec, gpu: "no driver")
    rows = [decoding.measured(clip(H264), decode, count, lambda: 0) for decode in ("nvdec", "cpu") for count in (1, 2)]
    assert [(row["decode"], row["streams"]) for row in rows] == [("nvdec", 1), ("nvdec", 2), ("cpu", 1), ("cpu", 2)]
    assert [row.get("left_out") for row in rows] == ["is decoded on the CPU: no driver"] * 2 + [None, None]
    assert all(row["fps"] > 0 for row in rows[2:])


def test_the_plan_has_1_to_64_streams_and_1_to_4_processes(inputs: Inputs) -> None:
    assert {count for decode, count in decoding.CASES if decode == "nvdec"} >= {1, 64}
    cases = pipeline.CASES
    assert {case.streams for case in cases} >= {1, 64}
    assert {case.processes for case in cases} == {1, 2, 4}
    assert {(case.gate, case.track) for case in cases if case.streams == 32} == {
        (gate, track) for gate in (False, True) for track in (False, True)
    }
    names = [name for name, _ in pipeline.steps(inputs.graph("fp32"))]
    assert len(set(names)) == len(cases)
    assert "64 streams in 4, nvdec with tracking" in names


@pytest.mark.slow
def test_the_whole_pipeline_in_two_processes(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.inputs.MEDIA", tmp_path)
    monkeypatch.setattr(pipeline, "clip", lambda _: clip(H264))
    cases = (pipeline.Case(3, 2, "cpu", track=True),)
    ((_, measure),) = pipeline.steps(inputs.graph("fp32"), "onnxruntime", cases, "cpu")
    (row,) = measure()
    assert (row["engine"], row["streams"], row["decoders"]) == ("onnxruntime", 3, ["cpu"])
    assert row["fps"] > 0
    ((_, measure),) = pipeline.steps(inputs.graph("fp32"), "onnxruntime", cases, "cuda:99")
    (wrong,) = measure()
    assert wrong["left_out"].startswith("error: ")


@pytest.mark.parametrize("on_device", [True, False])
def test_the_cost_of_a_batch_is_measured(on_device: bool) -> None:
    row = submit.measured(NullDevice(0), on_device, 1, batches=3)
    assert row["outputs_are_right"]
    assert row["driver_calls"] > 0
    assert all(row[name] > 0 for name in ("write_us", "submit_us", "collect_us"))
