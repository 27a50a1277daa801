"""The description of the machine for result files."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "sve")
"""The instruction sets that decide how fast a model is on a CPU."""
PACKAGES = ("vision-infer", "numpy", "av", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless")


def describe_machine() -> dict[str, object]:
    """Return the CPU and its instruction sets, cores, load, versions, date, commit and command; no host name and no path."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "instructions": _instructions(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "commit": _commit(),
        "command": _command(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _versions(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def source_line(machine: dict[str, object]) -> str:
    """Return the line that belongs above each table of figures: machine, date, commit and command."""
    date = str(machine["date"])[:10]
    return f"{machine['cpu']}, {machine['cores']} cores, {date}, commit {machine['commit']}, `{machine['command']}`."


def _command() -> str:
    """Return the command that runs this benchmark, without the path of the interpreter."""
    return " ".join(("python", *sys.orig_argv[1:]))


def _commit() -> str:
    """Return the short hash of the commit, with a plus sign if tracked files differ from it; empty outside a checkout."""
    words = ("git", "describe", "--always", "--abbrev=9", "--exclude=*", "--dirty=+")
    try:
        found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _instructions() -> list[str]:
    """Return those of :data:`INSTRUCTIONS` that the CPU has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in INSTRUCTIONS if name in flags]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
