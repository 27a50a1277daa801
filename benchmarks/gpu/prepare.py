"""``make test-gpu`` and ``make bench-gpu``: find a GPU, install the requirements, run. Standard library only.

    python3 -m benchmarks.gpu.prepare tests|bench

Without a GPU nothing is installed: the program reports this, lists what it did not run, and exits with status 0. With a GPU it
installs the requirements step by step into a separate environment (``.venv-gpu``, which also uses the system's packages). It
reports what cannot be installed, with the command to install it, and leaves out only what depends on it.
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
"""The modules that everything requires."""
_HAS_CUDA = "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()"
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
        Step("vision-infer", (*TOOLS, "--editable", ".[gpu,demo,evaluate]"), f"import {', '.join(MODULES)}", True),
        Step("ONNX Runtime with CUDA", ("onnxruntime-gpu>=1.20",), _HAS_CUDA),
        Step(
            "CUDA for Python", ("cuda-bindings>=13", "nvidia-cuda-nvrtc>=13", "nvidia-ml-py>=13"), "import cuda.bindings.runtime"
        ),
        Step("PyTorch with CUDA", ("--editable", ".[export]"), "import torchvision, torch; assert torch.cuda.is_available()"),
        Step("TensorRT", ("--editable", ".[tensorrt]"), "import tensorrt"),
    ]
    runs_rtx = any(device.capability in RTX for device in devices)
    if runs_rtx:
        wanted.append(Step("TensorRT-RTX", ("--editable", ".[tensorrt-rtx]"), "import tensorrt_rtx"))
        return wanted, []
    kinds = ", ".join(sorted({f"sm_{device.capability}" for device in devices}))
    return wanted, [f"TensorRT-RTX: does not run on {kinds}"]


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
    what = f"is installed but does not work ({step.probe})" if installed else "could not be installed"
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


def main(what: str, find: Callable[[], tuple[list[Device], str]] = find_devices, run: Run | None = None) -> int:
    """Run ``tests`` or ``bench``; return the exit status."""
    target = {"tests": "test-gpu", "bench": "bench-gpu"}[what]
    listed = gpu_tests() if what == "tests" else [f"{name}: {about}" for name, about in PARTS.items()]
    result = RESULTS / f"{target}.json"
    try:
        devices, cuda = find()
    except NoDeviceError as error:
        print(f"make {target}: there is no NVIDIA GPU here ({error}); nothing was installed or run:")
        print("\n".join(f"  not run: {name}" for name in listed))
        _write(result, {"gpu": None, "why": str(error), "not_run": listed})
        return 0
    print(f"make {target}: {', '.join(f'{device.name} (sm_{device.capability})' for device in devices)}, CUDA {cuda}", flush=True)
    missing, complete = prepare(devices, run or _run)
    for line in missing:
        print(f"  left out: {line}", flush=True)
    facts = {"gpu": [device.to_dict() for device in devices], "cuda": cuda, "left_out": missing}
    if not complete:
        _write(result, {**facts, "not_run": listed})
        return 1
    python = str(VENV / "bin" / "python")
    if what == "bench":
        _write(result, facts)  # the parts add their rows
        return (run or _run)([python, "-m", "benchmarks.gpu", str(result)])
    report = result.with_suffix(".xml")
    files = sorted({name.partition("::")[0] for name in listed})
    status = (run or _run)([python, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}", *files])
    _write(result, {**facts, **(outcomes(report.read_text(encoding="utf-8")) if report.exists() else {"not_run": listed})})
    print(f"written: {result.relative_to(ROOT)}")
    return status


def outcomes(xml: str) -> dict[str, object]:
    """Return the passed, failed and skipped tests of a pytest report, the last two with their reasons."""
    passed, failed, skipped = [], {}, {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skip, failures = case.find("skipped"), [*case.findall("failure"), *case.findall("error")]
        if failures:
            failed[name] = (failures[0].get("message") or "").splitlines()[:1]
        elif skip is not None:
            skipped[name] = skip.get("message")
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
