"""``make test-gpu`` and ``make bench-gpu``: find a GPU and a Python with the requirements, run. Standard library only.

    python3 -m benchmarks.gpu.prepare tests|bench [--parts a,b] [--minutes 9] [--out FOLDER]

Without a GPU nothing is installed: the program reports this, lists what it did not run, and exits with status 0. With a GPU, the
Python that runs this program is used if it has what is needed: nothing is installed, and parts that need more are left out.
Otherwise the requirements are installed step by step into a separate environment (``.venv-gpu``, which also uses the system's
packages). What cannot be installed is reported with the command to install it, and what depends on it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.devices import Device, NoDeviceError, find_devices
from benchmarks.gpu.parts import PARTS, ROOT, files_by_part, gpu_tests

VENV = ROOT / ".venv-gpu"
RESULTS = ROOT / "benchmarks" / "results"
TARGETS = {"tests": "test-gpu", "bench": "bench-gpu"}
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.112", "jsonschema>=4.23")
MODULES = "av, cv2, hypothesis, numpy, onnx, onnxruntime, pydantic, pytest, pytest_timeout, rich, scipy, typer, yaml"
"""The modules that everything requires."""
_ONNXRUNTIME = """
import onnxruntime
from onnx import helper
value = lambda name: helper.make_tensor_value_info(name, 1, [1])
graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "probe", [value("a")], [value("b")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
assert session.get_providers()[0] == "CUDAExecutionProvider"
"""
RTX = (75, 80, 86, 89, 120, 121)
"""The compute capabilities that TensorRT-RTX supports."""
Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Step:
    """A requirement to install."""

    title: str
    packages: tuple[str, ...]
    probe: str
    """Python code that runs without an error if the requirement is installed and works."""
    needed: bool = False
    """Whether everything requires it."""


def steps(devices: Sequence[Device]) -> tuple[list[Step], list[str]]:
    """Return the steps for these GPUs, and the reasons for what does not run on them."""
    wanted = [
        Step("vision-infer", (*TOOLS, "--editable", ".[gpu,demo,evaluate]"), f"import {MODULES}", True),
        Step(
            "CUDA for Python", ("cuda-bindings>=13", "nvidia-cuda-nvrtc>=13", "nvidia-ml-py>=13"), "import cuda.bindings.driver"
        ),
        Step("ONNX Runtime with CUDA", ("--editable", ".[gpu]"), _ONNXRUNTIME),
        Step("PyTorch with CUDA", ("--editable", ".[export]"), "import torchvision, torch; assert torch.cuda.is_available()"),
        Step("TensorRT", ("--editable", ".[tensorrt]"), "import tensorrt"),
    ]
    runs_rtx = any(device.capability in RTX for device in devices)
    if runs_rtx:
        wanted.append(Step("TensorRT-RTX", ("--editable", ".[tensorrt-rtx]"), "import tensorrt_rtx"))
        return wanted, []
    kinds = ", ".join(sorted({f"sm_{device.capability}" for device in devices}))
    return wanted, [f"TensorRT-RTX: does not run on {kinds}"]


def found_here(devices: Sequence[Device], run: Run) -> list[str] | None:
    """Look for the requirements in the Python that runs this program.

    Returns:
        What is missing, one line each; None if that is too much: everything needs the modules, CUDA, and one engine on the GPU.
    """
    wanted, missing = steps(devices)
    absent = {step.title for step in wanted if run([sys.executable, "-c", step.probe])}
    common = [step.title for step in wanted[:2]]
    if absent & set(common) or len(absent) == len(wanted) - len(common):
        return None
    return [*missing, *(f"{step.title}: is not installed, or does not work" for step in wanted if step.title in absent)]


def install(step: Step, run: Run) -> str:
    """Install a requirement if it is missing; return the reason of a failure with the command, otherwise an empty text."""
    python = str(VENV / "bin" / "python")
    probe = [python, "-c", step.probe]
    if not run(probe):
        return ""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    installed = run([*pip, *step.packages]) == 0
    if not run(probe):
        return ""
    what = "is installed but does not work" if installed else "could not be installed"
    return f"{step.title}: {what}; by hand: {VENV.name}/bin/pip install {' '.join(map(_quoted, step.packages))}"


def prepare(devices: Sequence[Device], run: Run) -> tuple[list[str], bool]:
    """Create the environment.

    Returns:
        What is missing, one line each; and whether everything that all parts require is installed.
    """
    wanted, missing = steps(devices)
    exists = (VENV / "bin" / "python").exists()
    if not exists and run([sys.executable, "-m", "venv", "--system-site-packages", str(VENV)]):
        return [*missing, "Python's venv is missing: install the package python3-venv"], False
    complete = True
    for step in wanted:
        reason = install(step, run)
        if reason:
            missing.append(reason)
            complete = complete and not step.needed
    return missing, complete


def main(
    what: str,
    parts: Sequence[str] = (),
    minutes: float | None = None,
    out: Path = RESULTS,
    find: Callable[[], tuple[list[Device], str]] = find_devices,
    run: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run ``tests`` or ``bench``; return the exit status.

    Args:
        parts: The names of the parts to run; none: all.
        minutes: The time for everything, also for installing; None: no limit.
        out: The folder of the results.
    """
    run, began, target = run or _run, clock(), TARGETS[what]
    listed = gpu_tests() if what == "tests" else [f"{name}: {about}" for name, about in PARTS.items()]
    result = out / f"{target}.jsonl"
    try:
        devices, cuda = find()
    except NoDeviceError as error:
        print(f"make {target}: there is no NVIDIA GPU here ({error}); nothing was installed or run:")
        print("\n".join(f"  not run: {name}" for name in listed))
        _add(result, {"gpu": None, "why": str(error), "not_run": listed})
        return 0
    print(f"make {target}: {', '.join(f'{device.name} (sm_{device.capability})' for device in devices)}, CUDA {cuda}", flush=True)
    python, complete, missing = sys.executable, True, found_here(devices, run)
    if missing is None:
        python = str(VENV / "bin" / "python")
        missing, complete = prepare(devices, run)
    for line in missing:
        print(f"  left out: {line}", flush=True)
    facts = {"gpu": [device.to_dict() for device in devices], "cuda": cuda, "left_out": missing}
    _add(result, facts if complete else {**facts, "not_run": listed})
    if not complete:
        return 1
    command = [python, "-m", "benchmarks.gpu", what, str(result)]
    if parts:
        command += ["--parts", ",".join(parts)]
    if minutes is not None:
        command += ["--minutes", f"{max(0.0, minutes - (clock() - began) / 60):.2f}"]
    return run(command)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command.

    Raises:
        SystemExit: A part is not known.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(TARGETS))
    parser.add_argument("--parts", default="", help="The parts to run, such as facts,cuda. Defaults to all.")
    parser.add_argument("--minutes", type=float, help="The time after which no step begins. Defaults to no limit.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="The folder of the results.")
    found = parser.parse_args(words)
    found.parts = [part for part in found.parts.split(",") if part]
    known = files_by_part() if found.what == "tests" else PARTS
    unknown = [part for part in found.parts if part not in known]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}. Use some of: {', '.join(known)}")
    return found


def _run(command: Sequence[str]) -> int:
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output="-c" in command).returncode


def _quoted(word: str) -> str:
    return f"'{word}'" if any(mark in word for mark in "[<>") else word


def _add(path: Path, facts: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"part": "machine", **facts}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    given = arguments()
    sys.exit(main(given.what, given.parts, given.minutes, given.out))
