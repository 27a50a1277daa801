"""``make test-gpu`` and ``make bench-gpu``, tested without a GPU: engines of the CPU replace those of the GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as bench
from benchmarks.gpu import correctness, decoding, engines, pipeline, prepare, speed
from benchmarks.gpu.devices import Device, NoDeviceError, find_devices
from benchmarks.gpu.engines import Contender
from benchmarks.gpu.graphs import precisions, sample_images
from benchmarks.gpu.parts import PARTS, ROOT, gpu_tests
from benchmarks.inputs import graph
from tests.support.media import H264, clip
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.precision.frames import FrameSet
from vision_infer.stream import nvdec

L4 = Device("NVIDIA L4", 89, 24 * 10**9)
H100 = Device("NVIDIA H100 80GB HBM3", 90, 80 * 10**9)


def no_gpu() -> tuple[list[Device], str]:
    raise NoDeviceError("NVIDIA's driver is not installed")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepare, "RESULTS", tmp_path)
    monkeypatch.setattr(prepare, "VENV", tmp_path / "venv")
    return tmp_path


class Machine:
    """Records the commands; some requirements cannot be installed, others are installed already."""

    def __init__(self, fails: tuple[str, ...] = (), installed: tuple[str, ...] = ()) -> None:
        self.commands: list[str] = []
        self._fails = fails
        self._installed = list(installed)

    def __call__(self, command: Sequence[str]) -> int:
        line = " ".join(command)
        self.commands.append(line)
        if "-c" in command:
            step = next(step for step in prepare.steps([L4])[0] if step.probe == command[-1])
            return 0 if step.title in self._installed else 1
        if "pip" in command:
            if any(word in line for word in self._fails):
                return 1
            self._installed += [step.title for step in prepare.steps([L4])[0] if line.endswith(" ".join(step.packages))]
        return 0


# Without a GPU


@pytest.mark.parametrize(("what", "target"), [("tests", "test-gpu"), ("bench", "bench-gpu")])
def test_without_a_gpu_everything_is_listed_as_not_run(
    what: str, target: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine()
    assert prepare.main(what, no_gpu, machine) == 0
    first, *others = capsys.readouterr().out.splitlines()
    listed = gpu_tests() if what == "tests" else [f"{name}: {about}" for name, about in PARTS.items()]
    assert first.startswith(
        f"make {target}: there is no NVIDIA GPU here (NVIDIA's driver is not installed); nothing was installed"
    )
    assert others == [f"  not run: {name}" for name in listed]
    assert machine.commands == [], "nothing is installed"
    written = json.loads((results / f"{target}.json").read_text())
    assert (written["gpu"], written["not_run"]) == (None, listed)


def test_make_reports_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MAKEFLAGS", raising=False)  # under make itself, a nested make prints its folder
    monkeypatch.delenv("MAKELEVEL", raising=False)
    before = prepare.VENV.exists()
    for target in ("test-gpu", "bench-gpu"):
        done = subprocess.run(["make", target, f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "there is no NVIDIA GPU here" in done.stdout.splitlines()[0]
    assert prepare.VENV.exists() == before


@pytest.mark.slow
def test_the_listed_tests_are_those_that_pytest_collects() -> None:
    files = sorted({name.partition("::")[0] for name in gpu_tests()})
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert found == set(gpu_tests())


def test_every_file_with_the_mark_is_listed() -> None:
    files = {name.partition("::")[0] for name in gpu_tests()}
    marked = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()}
    assert marked - {"tests/benchmarks/test_gpu.py"} == files


def test_a_missing_driver_is_reported() -> None:
    with pytest.raises(NoDeviceError, match="not installed"):
        find_devices("libno-such-driver.so.1")


# With a GPU


def test_requirements_that_cannot_be_installed_are_left_out(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(fails=("[tensorrt]",))
    assert prepare.main("bench", lambda: ([L4], "13.0"), machine) == 0
    out = capsys.readouterr().out
    assert "make bench-gpu: NVIDIA L4 (sm_89), CUDA 13.0" in out
    assert "left out: TensorRT: could not be installed; by hand: venv/bin/pip install --editable '.[tensorrt]'" in out
    assert machine.commands[0].endswith("-m venv --system-site-packages " + str(results / "venv"))
    assert [line for line in machine.commands if "[tensorrt-rtx]" in line]
    assert machine.commands[-1].endswith(f"-m benchmarks.gpu {results / 'bench-gpu.json'}")
    written = json.loads((results / "bench-gpu.json").read_text())
    assert (written["gpu"], len(written["left_out"])) == ([L4.to_dict()], 1)


def test_tensorrt_rtx_is_not_installed_for_an_h100(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(installed=("PyTorch with CUDA",))
    assert prepare.main("bench", lambda: ([H100], "13.0"), machine) == 0
    assert "left out: TensorRT-RTX: does not run on sm_90" in capsys.readouterr().out
    assert not [line for line in machine.commands if "tensorrt-rtx" in line or "[export]" in line]


def test_without_a_common_requirement_it_stops_and_prints_the_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(fails=("pip",))
    assert prepare.main("tests", lambda: ([L4], "13.0"), machine) == 1
    assert "vision-infer: could not be installed; by hand: venv/bin/pip install 'pytest>=8.3'" in capsys.readouterr().out
    assert not [line for line in machine.commands if "-m pytest" in line]
    assert json.loads((results / "test-gpu.json").read_text())["not_run"] == gpu_tests()


def test_the_report_of_pytest_is_stored_as_json() -> None:
    xml = """<testsuites><testsuite>
        <testcase classname="a" name="good"/>
        <testcase classname="a" name="bad"><failure message="assert 1 == 2&#10;more">long</failure></testcase>
        <testcase classname="a" name="left"><skipped message="needs an NVIDIA GPU for tensorrt-rtx"/></testcase>
        <testcase classname="a" name="broken"><error message="fixture"/></testcase>
    </testsuite></testsuites>"""
    assert prepare.outcomes(xml) == {
        "passed": ["a::good"],
        "failed": {"a::bad": ["assert 1 == 2"], "a::broken": ["fixture"]},
        "not_run": {"a::left": "needs an NVIDIA GPU for tensorrt-rtx"},
    }


# The parts


def on_the_cpu(path: Path, name: str = "onnxruntime-cpu-fp32", has_graphs: bool = False) -> Contender:
    """Return an engine of the CPU in place of one of a GPU."""

    def opened(workers: int, graphs: bool) -> Engine:
        return open_engine(path, EngineRequest("onnxruntime", "cpu", workers, batch=2))

    return Contender(name, path, opened, has_graphs)


@pytest.fixture(scope="module")
def frames() -> FrameSet:
    found, description = sample_images(read_graph_facts(graph("nanodet")).card)
    assert description.startswith("40 ")
    return found.first(8)


@pytest.fixture(scope="module")
def graphs(frames: FrameSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return precisions(tmp_path_factory.mktemp("graphs"), frames)


def test_engines_are_compared_with_fp32(graphs: dict[str, Path], frames: FrameSet) -> None:
    found = [on_the_cpu(graphs["fp32"]), on_the_cpu(graphs["fp16"], "x-cuda-fp16")]
    with engines.reference(graphs) as fp32:
        same, half = correctness.compare(fp32, frames, found)
    assert (same["found_again"], same["mean_iou"], same["as_it_should_be"]) == (100.0, 1.0, True)
    assert half["as_it_should_be"]
    assert half["found_again"] > 95


def test_the_graphs_have_their_precisions(graphs: dict[str, Path]) -> None:
    assert [read_graph_facts(path).precision for path in graphs.values()] == list(graphs)


def test_speed_has_a_row_for_each_batch_size_and_engine(graphs: dict[str, Path], frames: FrameSet) -> None:
    found = [on_the_cpu(graphs["fp32"]), on_the_cpu(graphs["fp32"], "torch-cuda-fp32", has_graphs=True)]
    rows = list(speed.by_batch(found, frames, (2, 4), rounds=1, round_s=0.01))
    ways = [("onnxruntime-cpu-fp32", None), ("torch-cuda-fp32", True), ("torch-cuda-fp32", False)]
    assert [(row["batch"], row["engine"], row["cuda_graphs"]) for row in rows] == [(2, *way) for way in ways]
    assert all(row["fps"] > 0 and row["p95_ms"] >= row["p50_ms"] > 0 for row in rows)


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
    rows = list(decoding.by_streams(clip(H264), (1, 2)))
    assert [(row["decode"], row["streams"]) for row in rows] == [("nvdec", 1), ("nvdec", 2), ("cpu", 1), ("cpu", 2)]
    assert [row.get("left_out") for row in rows] == ["is decoded on the CPU: no driver"] * 2 + [None, None]
    assert all(row["fps"] > 0 for row in rows[2:])


@pytest.mark.slow
def test_the_whole_pipeline_by_streams(graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.inputs.MEDIA", tmp_path)
    found = [on_the_cpu(graphs["fp32"]), on_the_cpu(graphs["fp32"], "torchcompile-cuda-fp32")]
    (row,) = pipeline.by_streams(clip(H264), found, tmp_path, (2,), ("cpu",), "cpu")
    assert (row["engine"], row["streams"], row["decoders"]) == ("onnxruntime-cpu-fp32", 2, ["cpu"])
    assert row["fps"] > 0
    (wrong,) = pipeline.by_streams(clip(H264), found, tmp_path, (1,), ("cpu",), "cuda:99")
    assert wrong["left_out"].startswith("error: ")


def test_engines_that_cannot_be_opened_are_left_out_with_their_reasons(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Contender:
        """tensorrt-cuda-fp32"""
        raise EngineError("TensorRT is not installed", "Run: pip install '.[tensorrt]'")

    monkeypatch.setattr(engines, "_plans", lambda _: [broken])
    for name in ("_torch", "_compiled", "_onnxruntime"):
        monkeypatch.setattr(engines, name, lambda _: on_the_cpu(graphs["fp32"]))
    left_out: list[str] = []
    assert len(list(engines.contenders(graphs, left_out))) == 3
    assert left_out == ["tensorrt-cuda-fp32: TensorRT is not installed. Run: pip install '.[tensorrt]'"]


def test_the_other_parts_run_after_one_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks() -> Any:
        yield {"engine": "a", "fps": 1.0}
        raise RuntimeError("broken")

    result = tmp_path / "bench-gpu.json"
    result.write_text('{"gpu": ["x"]}')
    parts = {"correctness": breaks, "speed": lambda: [{"engine": "b", "p50_ms": 2.0}]}
    assert bench.run_parts(parts, result, {"pictures": "40"}) == 1
    written = json.loads(result.read_text())
    assert written["gpu"] == ["x"]
    assert written["parts"]["correctness"] == {"rows": [{"engine": "a", "fps": 1.0}], "failed": "RuntimeError: broken"}
    assert written["parts"]["speed"]["rows"] == [{"engine": "b", "p50_ms": 2.0}]
    assert "failed: RuntimeError: broken" in capsys.readouterr().out
