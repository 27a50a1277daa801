"""``make test-gpu`` and ``make bench-gpu``: what they install and run, with and without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import prepare
from benchmarks.gpu.devices import NoDeviceError, find_devices
from benchmarks.gpu.parts import PARTS, ROOT, gpu_tests
from tests.benchmarks.gpu_cases import H100, L4, Machine, environment, no_gpu, written

__all__ = ["environment"]


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
    marked = {
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("[!.]*/**/test_*.py") if "mark.gpu" in path.read_text()
    }
    assert marked - {"tests/benchmarks/test_gpu.py", "tests/benchmarks/test_gpu_parts.py"} == files


def test_a_missing_driver_is_reported() -> None:
    with pytest.raises(NoDeviceError, match="not installed"):
        find_devices("libno-such-driver.so.1")


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
