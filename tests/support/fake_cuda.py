"""A stand-in for NVIDIA's driver library, compiled here, and child processes in which the real bindings load it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.media import ROOT

SOURCE = Path(__file__).with_name("fake_libcuda") / "fake_libcuda.c"
VIOLATION = 70
"""The exit status of a process that broke a rule of the stand-in."""
_RUN = "import importlib, sys; module, name = sys.argv[1].split(':'); getattr(importlib.import_module(module), name)()"


@dataclass(frozen=True, slots=True)
class OnFake:
    """A process that has ended."""

    status: int
    out: str
    err: str
    calls: tuple[str, ...]
    """The names of the driver's functions, in the order of their calls."""
    left: str
    """What the process did not free."""


class FakeCuda:
    """The compiled library.

    Args:
        folder: The folder for the library.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run([*command, "-o", str(folder / "libcuda.so.1"), str(SOURCE), "-lm"], check=True)

    def run(self, case: str, **settings: str) -> OnFake:
        """Call a function in a child process, with the settings of ``fake_libcuda.c`` or other environment variables.

        Args:
            case: The module and the function, such as ``tests.engine.gpu.cuda_cases:copies``.
        """
        log = self._folder / "calls.log"
        log.write_text("", encoding="utf-8")
        mine = {"LD_LIBRARY_PATH": str(self._folder), "FAKE_CUDA_LOG": str(log), "PYTHONPATH": str(ROOT)}
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        command = [sys.executable, "-c", _RUN, case]
        environment = inherited | mine | settings
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
        lines = log.read_text(encoding="utf-8").splitlines()
        left = lines.pop().removeprefix("left: ") if lines and lines[-1].startswith("left: ") else ""
        return OnFake(done.returncode, done.stdout, done.stderr, tuple(lines), left)
