"""The machine that a bench runs on, and what of it a reader has to know."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from vision_infer.capacity.report import BenchMachine
from vision_infer.engine.device import available_cpus, cpu_facts
from vision_infer.engine.gpu.gpus import Gpu, NoGpuError, list_gpus
from vision_infer.engine.registry import buildable_runtimes
from vision_infer.telemetry.machine import grants, memory


def this_machine() -> BenchMachine:
    """What there is."""
    name, instructions = cpu_facts()
    room = memory()
    return BenchMachine(
        cpu=name,
        instructions=instructions,
        cores=available_cpus(),
        cpu_limit=grants().cpus,
        memory_bytes=None if room is None else room.total_bytes,
        gpus=tuple(gpu.name for gpu in _gpus()[0]),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions=_versions(),
    )


def notes_of(machine: BenchMachine) -> tuple[str, ...]:
    """What a reader of the figures has to know, a sentence each."""
    notes: list[str] = []
    if machine.cores == 1:
        notes.append("One core: decoding, conversion and inference take turns; nothing runs side by side.")
    if machine.cpu_limit is not None:
        notes.append(
            f"A control group grants {machine.cpu_limit:g} CPUs' worth of time: work beyond that is stopped for a part of each "
            "period, which ages show."
        )
    problem = _gpus()[1]
    if problem:
        notes.append(f"GPUs are left out: {problem}.")
    return tuple(notes)


def _gpus() -> tuple[list[Gpu], str]:
    try:
        return list_gpus(), ""
    except NoGpuError as error:
        return [], str(error) if error.broken else ""


def _versions() -> dict[str, str]:
    found = {}
    for name in ("av", "numpy", *(package for runtime in buildable_runtimes() for package in runtime.packages)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
