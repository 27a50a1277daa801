"""``make test-gpu`` and ``make bench-gpu``, tested without a GPU: engines of the CPU replace those of the GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import bench, decoding, engines, pipeline, prepare, speed, submit, testing
from benchmarks.gpu.devices import Device, NoDeviceError, find_devices
from benchmarks.gpu.engines import Contender
from benchmarks.gpu.graphs import Inputs
from benchmarks.gpu.parts import FIRST, PARTS, ROOT, files_by_part, gpu_tests
from benchmarks.gpu.plan import NO_TIME, Row, Rows, Step, run_parts, tables
from benchmarks.null_device import NullDevice
from tests.support.media import H264, clip
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.stream import nvdec

L4 = Device("NVIDIA L4", 89, 24 * 10**9)
H100 = Device("NVIDIA H100 80GB HBM3", 90, 80 * 10**9)


def no_gpu() -> tuple[list[Device], str]:
    raise NoDeviceError("NVIDIA's driver is not installed")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "VENV", tmp_path / "venv")


def written(folder: Path, target: str = "bench-gpu") -> list[Row]:
    return [json.loads(line) for line in (folder / f"{target}.jsonl").read_text().splitlines()]


class Machine:
    """Records the commands; some requirements cannot be installed, others are installed already: here, or in the environment."""

    def __init__(self, fails: tuple[str, ...] = (), installed: tuple[str, ...] = (), here: tuple[str, ...] = ()) -> None:
        self.commands: list[str] = []
        self._fails = fails
        self._installed = list(installed)
        self._here = here

    def __call__(self, command: Sequence[str]) -> int:
        line = " ".join(command)
        self.commands.append(line)
        if "-c" in command:
            step = next(step for step in prepare.steps([L4])[0] if step.probe == command[-1])
            return 0 if step.title in (self._here if command[0] == sys.executable else self._installed) else 1
        if "pip" in command:
            if any(word in line for word in self._fails):
                return 1
            self._installed += [step.title for step in prepare.steps([L4])[0] if line.endswith(" ".join(step.packages))]
        return 0

    @property
    def installs(self) -> list[str]:
        return [line for line in self.commands if " -m pip " in line or " -m venv " in line]


# Without a GPU


@pytest.mark.parametrize(("what", "target"), [("tests", "test-gpu"), ("bench", "bench-gpu")])
def test_without_a_gpu_everything_is_listed_as_not_run(
    what: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine()
    assert prepare.main(what, out=tmp_path, find=no_gpu, run=machine) == 0
    first, *others = capsys.readouterr().out.splitlines()
    listed = gpu_tests() if what == "tests" else [f"{name}: {about}" for name, about in PARTS.items()]
    assert first.startswith(
        f"make {target}: there is no NVIDIA GPU here (NVIDIA's driver is not installed); nothing was installed"
    )
    assert others == [f"  not run: {name}" for name in listed]
    assert machine.commands == [], "nothing is installed"
    (machine_row,) = written(tmp_path, target)
    assert (machine_row["gpu"], machine_row["not_run"]) == (None, listed)


def test_make_reports_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MAKEFLAGS", raising=False)  # under make itself, a nested make prints its folder
    monkeypatch.delenv("MAKELEVEL", raising=False)
    for target in ("test-gpu", "bench-gpu"):
        command = ["make", target, f"PYTHON={sys.executable}", f"OUT={tmp_path}", "MINUTES=9"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "there is no NVIDIA GPU here" in done.stdout.splitlines()[0]
        assert written(tmp_path, target)[0]["gpu"] is None


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


def test_a_python_that_has_what_is_needed_runs_the_parts_and_installs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(here=("vision-infer", "CUDA for Python", "PyTorch with CUDA"))
    times = iter((0.0, 30.0))
    assert prepare.main("bench", ["facts", "cuda"], 9, tmp_path, lambda: ([H100], "13.0"), machine, lambda: next(times)) == 0
    assert machine.installs == []
    words = f"{sys.executable} -m benchmarks.gpu bench {tmp_path / 'bench-gpu.jsonl'} --parts facts,cuda --minutes 8.50"
    assert machine.commands[-1] == words, "installing counts too"
    out = capsys.readouterr().out
    assert "left out: TensorRT-RTX: does not run on sm_90" in out
    assert "left out: ONNX Runtime with CUDA: is not installed, or does not work" in out
    assert written(tmp_path)[0]["gpu"] == [H100.to_dict()]


@pytest.mark.parametrize("here", [(), ("vision-infer", "CUDA for Python"), ("vision-infer", "PyTorch with CUDA")])
def test_a_python_without_cuda_or_an_engine_is_not_used(here: tuple[str, ...], tmp_path: Path) -> None:
    machine = Machine(here=here)
    prepare.main("bench", out=tmp_path, find=lambda: ([L4], "13.0"), run=machine)
    assert machine.installs[0].endswith("-m venv --system-site-packages " + str(tmp_path / "venv"))
    assert machine.commands[-1].startswith(str(tmp_path / "venv" / "bin" / "python"))


def test_packages_that_were_brought_along_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "brought_along.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert prepare._run([sys.executable, "-c", "import brought_along, benchmarks.gpu"]) == 0


def test_requirements_that_cannot_be_installed_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(fails=("[tensorrt]",))
    assert prepare.main("bench", out=tmp_path, find=lambda: ([L4], "13.0"), run=machine) == 0
    out = capsys.readouterr().out
    assert "make bench-gpu: NVIDIA L4 (sm_89), CUDA 13.0" in out
    assert "left out: TensorRT: could not be installed; by hand: venv/bin/pip install --editable '.[tensorrt]'" in out
    assert [line for line in machine.installs if "[tensorrt-rtx]" in line]
    assert machine.commands[-1].endswith(f"-m benchmarks.gpu bench {tmp_path / 'bench-gpu.jsonl'}")
    (row,) = written(tmp_path)
    assert (row["gpu"], len(row["left_out"])) == ([L4.to_dict()], 1)


def test_tensorrt_rtx_is_not_installed_for_an_h100(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(installed=("PyTorch with CUDA",))
    assert prepare.main("bench", out=tmp_path, find=lambda: ([H100], "13.0"), run=machine) == 0
    assert "left out: TensorRT-RTX: does not run on sm_90" in capsys.readouterr().out
    assert not [line for line in machine.installs if "tensorrt-rtx" in line or "[export]" in line]


def test_without_a_common_requirement_it_stops_and_prints_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(fails=("pip",))
    assert prepare.main("tests", out=tmp_path, find=lambda: ([L4], "13.0"), run=machine) == 1
    assert "vision-infer: could not be installed; by hand: venv/bin/pip install 'pytest>=8.3'" in capsys.readouterr().out
    assert not [line for line in machine.commands if "benchmarks.gpu" in line]
    assert written(tmp_path, "test-gpu")[0]["not_run"] == gpu_tests()


def test_a_part_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.arguments(["tests", "--parts", "cuda_driver"]).parts == ["cuda_driver"]
    with pytest.raises(SystemExit):
        prepare.arguments(["bench", "--parts", "facts,speed"])
    assert "there is no part speed. Use some of: facts, cuda, engine, " in capsys.readouterr().err


# The plan


class Clock:
    """A clock that a step moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(clock: Clock, seconds: float, *rows: Row, fails: bool = False) -> Callable[[], Iterator[Row]]:
    def measure() -> Iterator[Row]:
        clock.now += seconds
        yield from rows
        if fails:
            raise ValueError("no luck")

    return measure


def run(
    parts: dict[str, list[Step]], folder: Path, minutes: float | None = None, clock: Clock | None = None
) -> tuple[int, list[Row]]:
    rows = Rows(folder / "bench-gpu.jsonl")
    failed = run_parts({name: partial(iter, steps) for name, steps in parts.items()}, rows, minutes, clock or Clock())
    assert written(folder) == rows.written
    return failed, rows.written


def test_the_parts_are_in_this_order() -> None:
    assert list(PARTS) == [
        *("facts", "cuda", "engine", "decoding", "pipeline", "submit", "onnxruntime", "tensorrt", "torchcompile"),
    ]
    assert list(program.parts_of("bench")) == list(PARTS)
    tests = program.parts_of("tests")
    assert tuple(tests)[: len(FIRST)] == FIRST
    assert len(tests) == len({name.partition("::")[0] for name in gpu_tests()}), "a part for each file"
    assert [name for name, _ in bench.cuda()] == [files_by_part()[name] for name in FIRST]


def test_a_step_or_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    def broken() -> Iterator[Step]:
        raise ImportError("no torch")

    clock = Clock()
    rows = Rows(tmp_path / "bench-gpu.jsonl")
    parts: dict[str, Any] = {
        "facts": lambda: [("a", step(clock, 1, {"fps": 1}, fails=True)), ("b", step(clock, 1, {"fps": 2}))],
        "engine": broken,
        "decoding": lambda: [("c", step(clock, 1, {"fps": 3}))],
    }
    assert run_parts(parts, rows, clock=clock) == 2
    assert rows.written == [
        {"part": "facts", "step": "a", "fps": 1},
        {"part": "facts", "step": "a", "failed": "ValueError: no luck"},
        {"part": "facts", "step": "b", "fps": 2},
        {"part": "engine", "failed": "ImportError: no torch"},
        {"part": "decoding", "step": "c", "fps": 3},
    ]


def test_it_stops_when_the_time_is_used_up_and_lists_the_remaining_steps(tmp_path: Path) -> None:
    clock = Clock()
    parts: dict[str, list[Step]] = {
        "decoding": [("1", step(clock, 20, {"fps": 1})), ("2", step(clock, 30, {"fps": 2})), ("3", step(clock, 30, {"fps": 3}))],
        "pipeline": [("4", step(clock, 5, {"fps": 4})), ("5", step(clock, 6, {"fps": 5})), ("6", step(clock, 6, {"fps": 6}))],
    }
    failed, rows = run(parts, tmp_path, 1, clock)
    assert (failed, clock.now) == (0, 55), "the third step needs 30 s as the second did, but 10 s are left"
    assert [(row["step"], row.get("fps"), row.get("left_out")) for row in rows] == [
        *(("1", 1, None), ("2", 2, None), ("3", None, NO_TIME)),
        *(("4", 4, None), ("5", None, NO_TIME), ("6", None, NO_TIME)),
    ]


def test_the_rows_survive_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from benchmarks.gpu.plan import Rows, run_parts
def measure():
    yield {{"fps": 1}}
    yield {{"fps": 2}}
    os.kill(os.getpid(), signal.SIGKILL)
run_parts({{"engine": lambda: [("a", measure)]}}, Rows(Path({str(tmp_path)!r}) / "bench-gpu.jsonl"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert [row["fps"] for row in written(tmp_path)] == [1, 2]


def test_later_runs_add_to_the_file(tmp_path: Path) -> None:
    for _ in range(2):
        Rows(tmp_path / "bench-gpu.jsonl").add({"part": "machine"})
    assert len(written(tmp_path)) == 2


def test_the_table_has_a_column_for_each_value() -> None:
    rows: list[Row] = [
        {"part": "decoding", "step": "a", "fps": 1.5, "stages": {"decode": 1}},
        {"part": "decoding", "step": "bb", "left_out": NO_TIME},
        {"part": "cuda", "step": "x", "why": "long " * 30},
    ]
    text = tables(rows)
    assert text.startswith("decoding\nstep  fps  left_out\na     1.5\nbb         the time is used up\n\ncuda\n")
    assert max(map(len, text.splitlines())) < 70


def test_parts_are_selected_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    for name in PARTS:
        monkeypatch.setattr(bench, name, lambda name=name: [(name, step(clock, 1, {"fps": 1}, fails=name == "cuda"))])
    result = str(tmp_path / "bench-gpu.jsonl")
    assert program.main(["bench", result, "--parts", "submit,facts"]) == 0
    assert [row["step"] for row in written(tmp_path)] == ["host", "facts", "submit"], "in the order of the plan"
    assert "submit\nstep    fps\nsubmit  1" in capsys.readouterr().out
    assert program.main(["bench", result, "--minutes", "0"]) == 0
    assert [row.get("left_out") for row in written(tmp_path)[-9:]] == [NO_TIME] * 9
    assert program.main(["bench", result]) == 1


# The parts


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
