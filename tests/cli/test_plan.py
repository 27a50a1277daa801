"""``vision-infer bench`` and ``vision-infer plan``: their output and rejected options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.capacity.benches import bench
from vision_infer.capacity import bench as bench_module
from vision_infer.capacity import calibration, charts
from vision_infer.capacity.bench import BenchRequest
from vision_infer.capacity.history import add_to_history
from vision_infer.capacity.report import BenchMachine, BenchReport
from vision_infer.capacity.this_machine import this_machine as look
from vision_infer.cli.app import app
from vision_infer.core.errors import UsageError, VisionInferError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user with a benchmark of this machine."""
    monkeypatch.setenv("VISION_INFER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(calibration, "SIM_S", 1.0)
    monkeypatch.setattr(calibration, "SIM_SEEDS", 1)
    add_to_history(tmp_path / "home" / "bench.jsonl", bench(machine=here()))
    return tmp_path / "home"


def here() -> BenchMachine:
    return look().model_copy(update={"memory_bytes": 16_000_000_000})


def call(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), standalone_mode=False)
    if isinstance(done.exception, VisionInferError):
        raise done.exception
    assert done.exception is None, done.exception
    return done.stdout


PLAN = ("plan", "--model", "net", "--cameras", "12", "--size", "1080p", "--fps", "10", "--target-ms", "200")


def test_a_plan_is_written_with_its_page_json_and_charts(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = call(*PLAN, "--price", "this machine=0.10", "--currency", "EUR", "--detections", "3", "--out", str(out))
    assert "this machine" in said
    page = (out / "plan.md").read_text(encoding="utf-8")
    assert page.startswith("# 12 cameras, h264 1920×1080 at 15 frames/s, 10 results/s each, 99% within 200 ms\n\n**")
    for heading in ("## Devices", "## Bottleneck of this machine", "## Alternatives", "## Requirements and choices", "## Method"):
        assert f"\n{heading}\n" in page
    for image in ("plan-ages.png", "plan-what-if.png"):
        assert f"]({image})" in page
        assert (out / image).read_bytes()[:4] == b"\x89PNG"
    assert "The simulation compared with the runs of the benchmark" in page
    found = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    best = found["machines"][0]["best"]
    assert found["need"]["cameras"] == 12
    assert best["money"]["month"] == pytest.approx(0.1 * best["devices"] * 730)
    assert json.loads(call(*PLAN, "--json"))["machines"][0]["best"]["most"] == best["most"]
    assert call(*PLAN).startswith("# 12 cameras"), "without --out it is printed"


def test_options_override_the_file(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "need.yaml"
    file.write_text("model: net\ncameras: 3\nvideo: {fps: 25}\ntarget: {fps: 5}\n", encoding="utf-8")
    found = json.loads(call("plan", str(file), "--cameras", "7", "--json"))["need"]
    assert (found["cameras"], found["video"]["fps"], found["target"]["fps"]) == (7, 25, 5)


def test_another_machine_is_named_after_the_folder_of_its_benchmark(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "edge-box" / "bench.json"
    file.parent.mkdir()
    file.write_text(bench().model_dump_json(), encoding="utf-8")
    found = json.loads(call(*PLAN, "--bench", str(file), "--price", "edge-box=1", "--json"))
    assert [one["name"] for one in found["machines"]] == ["this machine", "edge-box"]
    assert found["machines"][1]["best"]["money"]["month"] > 0
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is not a bench.json of this version. Create one with: vision-infer bench --out DIR"):
        call(*PLAN, "--bench", str(file))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--model", "other"),
            r"there is no benchmark of other on this machine. Run: vision-infer bench --model other",
        ),
        (("--price", "this machine=0"), "prices: the price of this machine is 0; leave it out if it is unknown"),
        (("--price", "this machine=-1"), "the price of this machine is -1"),
        (("--price", "cheap"), "--price cheap: is not a valid price. Write 'this machine=0.12'."),
        (("--price", "=3"), "has no device"),
        (("--price", "oven=3"), r"--price: unknown device 'oven': the devices are: this machine, nvidia-t4"),
        (("--size", "huge"), "'huge' is not a valid video size. Write 1920x1080"),
        (("--fps", "0"), "target.fps"),
        (("--margin", "1"), "margin"),
        (("--gate-saves", "60"), "what_if.gate_saves"),
        (("--codec", "av1"), "video.codec"),
        (("--precision", "fp4"), "precision"),
        (("--runtime", "tensorrt"), "no engine of net qualifies"),
        (("--devices", "none.yaml"), "none.yaml: cannot be read"),
        (("--bench", "none.json"), "none.json: cannot be read"),
    ],
)
def test_an_impossible_plan_is_a_one_line_error(home: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(*PLAN, *words)


def test_without_matplotlib_charts_are_skipped_with_a_message(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, [*PLAN, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "charts are skipped because matplotlib is not installed. Run: pip install '.[plot]'" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plan.json", "plan.md"]


def benched(report: BenchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> BenchReport:
        return report

    monkeypatch.setattr(bench_module, "run_bench", run)


def test_a_benchmark_is_stored_and_compared_with_the_last(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = bench(machine=here())
    slower = report.decode[0].model_copy(update={"cpu_ms": report.decode[0].cpu_ms.model_copy(update={"low": 5.9, "high": 6.1})})
    benched(bench(machine=here(), decode=(slower,)), monkeypatch)
    done = CliRunner().invoke(app, ["bench", "--quick", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "decoding h264 1920x1080 (cpu) is" in done.stderr
    assert "decode h264 1920x1080" in done.stdout
    assert BenchReport.model_validate_json((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert len((home / "bench.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(("size", "graph"), [("1280x720", "model-256x416.onnx"), ("640x640", "model.onnx")])
def test_a_benchmark_measures_the_input_that_fits_the_video(
    home: Path, monkeypatch: pytest.MonkeyPatch, size: str, graph: str
) -> None:
    asked: list[BenchRequest] = []

    def run(request: BenchRequest, *_: Any) -> BenchReport:
        asked.append(request)
        return bench(machine=here(), settings=request.settings)

    monkeypatch.setattr(bench_module, "run_bench", run)
    call("bench", "--quick", "--size", size)
    assert asked[0].graph.name == graph
    assert set(asked[0].settings.inputs) == {(416, 416), (416, 256)}


def test_the_plan_uses_the_benchmark_of_the_matching_input(home: Path) -> None:
    right = bench(machine=here()).settings.model_copy(update={"inputs": ((416, 416), (416, 256)), "width": 640, "height": 640})
    slower = (
        bench(machine=here())
        .engines[0]
        .model_copy(update={"cpu_ms": bench().engines[0].cpu_ms.model_copy(update={"median": 200.0})})
    )
    add_to_history(home / "bench.jsonl", bench(machine=here(), settings=right, engines=(slower,)))
    wide = right.model_copy(update={"width": 1920, "height": 1080})
    add_to_history(home / "bench.jsonl", bench(machine=here(), settings=wide, other_cores=3.0))
    found = json.loads(call(*PLAN, "--json"))
    assert found["machines"][0]["best"]["most"] > 2, "that of the other input is the only one in which a picture takes 200 ms"


def test_a_disturbed_benchmark_is_not_compared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benched(bench(machine=here(), other_cores=64.0, notes=("Other programs used 64 cores.",)), monkeypatch)
    done = CliRunner().invoke(app, ["bench", "--quick"], standalone_mode=False)
    assert "note: Other programs used 64 cores." in done.stdout
    assert "since" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "1921x1080"), "'1921x1080' is not a valid video size"),
        (("--codec", "av1"), "--codec av1: no sample can be generated. Use h264 or hevc."),
        (("--model", "nonsense"), "unknown model 'nonsense'"),
    ],
)
def test_invalid_benchmark_options_are_rejected(home: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(VisionInferError, match=message):
        call("bench", "--quick", *words)
