"""``make test-gpu`` and ``make bench-gpu``: looks for a GPU, installs what can be installed, runs. Standard library only.

    python3 -m benchmarks.gpu.prepare tests|bench

Without a GPU nothing is installed: a line says so, what was not run is listed, and the exit status is 0. With one, an environment
of its own (``.venv-gpu``, which sees what the system's Python has) gets one thing after the other. What cannot be had is said,
with how to get it, and only what needs it is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.devices import Device, NoDeviceError, find_devices
from benchmarks.gpu.parts import PARTS, ROOT, gpu_tests

VENV = ROOT / ".venv-gpu"
RESULTS = ROOT / "benchmarks" / "results"
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.112", "jsonschema>=4.23")
MODULES = ("av", "cv2", "hypothesis", "numpy", "onnx", "onnxruntime", "pydantic", "pytest", "rich", "scipy", "typer", "yaml")
"""without one of these nothing runs"""
_HAS_CUDA = "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()"
RTX = (75, 80, 86, 89, 120, 121)
"""compute capabilities that TensorRT-RTX runs on"""
Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is installed."""

    title: str
    packages: tuple[str, ...]
    probe: str
    """what Python runs without an error where it is there, and works"""
    needed: bool = False
    """without it nothing runs"""


def steps(devices: Sequence[Device]) -> tuple[list[Step], list[str]]:
    """What is to be installed for these GPUs, and what is left out since it does not run on them."""
    wanted = [
        Step("vision-infer", (*TOOLS, "--editable", ".[gpu,demo,evaluate]"), f"import {', '.join(MODULES)}", True),
        Step("ONNX Runtime with CUDA", ("onnxruntime-gpu>=1.20",), _HAS_CUDA),
        Step(
            "CUDA for Python", ("cuda-bindings>=13", "nvidia-cuda-nvrtc>=13", "nvidia-ml-py>=13"), "import cuda.bindings.runtime"
        ),
        Step("PyTorch with CUDA", ("--editable", ".[export]"), "import torchvision, torch; assert torch.cuda.is_available()"),
        Step("TensorRT", ("--editable", ".[tensorrt]"), "import tensorrt"),
    ]
    runs_rtx = any(one.capability in RTX for one in devices)
    if runs_rtx:
        wanted.append(Step("TensorRT-RTX", ("--editable", ".[tensorrt-rtx]"), "import tensorrt_rtx"))
        return wanted, []
    kinds = ", ".join(sorted({f"sm_{one.capability}" for one in devices}))
    return wanted, [f"TensorRT-RTX: does not run on {kinds}"]


def install(step: Step, run: Run) -> str:
    """Install what is not there yet; why not, and how to get it, empty where it is there."""
    python = str(VENV / "bin" / "python")
    probe = [python, "-c", step.probe]
    if not run(probe):
        return ""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    installed = run([*pip, *step.packages]) == 0
    if not run(probe):
        return ""
    what = f"is installed, and does not work ({step.probe})" if installed else "could not be installed"
    return f"{step.title}: {what}; by hand: {VENV.name}/bin/pip install {' '.join(map(_quoted, step.packages))}"


def prepare(devices: Sequence[Device], run: Run) -> tuple[list[str], bool]:
    """Make the environment.

    Returns:
        What is missing, a line each; whether what is needed for anything at all is there.
    """
    wanted, missing = steps(devices)
    there = (VENV / "bin" / "python").exists()
    if not there and run([sys.executable, "-m", "venv", "--system-site-packages", str(VENV)]):
        return [*missing, "Python's venv is missing: install the package python3-venv"], False
    complete = True
    for step in wanted:
        told = install(step, run)
        if told:
            missing.append(told)
            complete = complete and not step.needed
    return missing, complete


def main(what: str, find: Callable[[], tuple[list[Device], str]] = find_devices, run: Run | None = None) -> int:
    """Run ``tests`` or ``bench``; the exit status."""
    target = {"tests": "test-gpu", "bench": "bench-gpu"}[what]
    listed = gpu_tests() if what == "tests" else [f"{name}: {told}" for name, told in PARTS.items()]
    result = RESULTS / f"{target}.json"
    try:
        devices, cuda = find()
    except NoDeviceError as error:
        print(f"make {target}: there is no NVIDIA GPU here ({error}): nothing was installed or run, {len(listed)} are left:")
        print("\n".join(f"  not run: {one}" for one in listed))
        _write(result, {"gpu": None, "why": str(error), "not_run": listed})
        return 0
    print(f"make {target}: {', '.join(f'{one.name} (sm_{one.capability})' for one in devices)}, CUDA {cuda}", flush=True)
    missing, complete = prepare(devices, run or _run)
    for line in missing:
        print(f"  left out: {line}", flush=True)
    facts = {"gpu": [one.to_dict() for one in devices], "cuda": cuda, "left_out": missing}
    if not complete:
        _write(result, {**facts, "not_run": listed})
        return 1
    python = str(VENV / "bin" / "python")
    if what == "bench":
        _write(result, facts)  # the parts add themselves
        return (run or _run)([python, "-m", "benchmarks.gpu", str(result)])
    report = result.with_suffix(".xml")
    files = sorted({one.partition("::")[0] for one in listed})
    status = (run or _run)([python, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}", *files])
    _write(result, {**facts, **(outcomes(report.read_text(encoding="utf-8")) if report.exists() else {"not_run": listed})})
    print(f"written: {result.relative_to(ROOT)}")
    return status


def outcomes(xml: str) -> dict[str, object]:
    """What pytest's report says: passed, failed and skipped tests, the latter with their reasons."""
    passed, failed, skipped = [], {}, {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        left, wrong = case.find("skipped"), [*case.findall("failure"), *case.findall("error")]
        if wrong:
            failed[name] = (wrong[0].get("message") or "").splitlines()[:1]
        elif left is not None:
            skipped[name] = left.get("message")
        else:
            passed.append(name)
    return {"passed": passed, "failed": failed, "not_run": skipped}


def _run(command: Sequence[str]) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output="-c" in command).returncode


def _quoted(word: str) -> str:
    return f"'{word}'" if any(mark in word for mark in "[<>") else word


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
