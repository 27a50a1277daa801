"""A machine without a GPU, or with one, for the tests of ``make test-gpu`` and ``make bench-gpu``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu import prepare
from benchmarks.gpu.devices import Device, NoDeviceError
from benchmarks.gpu.plan import Row

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
