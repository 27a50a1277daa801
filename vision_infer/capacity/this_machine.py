"""Describe the machine of a benchmark."""

from __future__ import annotations

import platform

from vision_infer.capacity.report import BenchMachine
from vision_infer.engine.device import available_cpus, cpu_facts
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.engine.gpu.gpus import Gpu, list_gpus
from vision_infer.engine.registry import buildable_runtimes
from vision_infer.engine.runtime import package_version
from vision_infer.telemetry.machine import grants, memory


def this_machine() -> BenchMachine:
    """Return a description of this machine."""
    name, instructions = cpu_facts()
    found = memory()
    packages = ("av", "numpy", *(package for runtime in buildable_runtimes() for package in runtime.packages))
    return BenchMachine(
        cpu=name,
        instructions=instructions,
        cores=available_cpus(),
        cpu_limit=grants().cpus,
        memory_bytes=None if found is None else found.total_bytes,
        gpus=tuple(gpu.name for gpu in _gpus()[0]),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={name: version for name in packages if (version := package_version(name))},
    )


def notes_of(machine: BenchMachine) -> tuple[str, ...]:
    """Return notes about the figures, one sentence each."""
    notes: list[str] = []
    if machine.cores == 1:
        notes.append("One core: decoding, conversion and inference cannot run in parallel.")
    if machine.cpu_limit is not None:
        notes.append(
            f"A control group limits CPU time to {machine.cpu_limit:g} CPUs. Work beyond that is paused for a part of each "
            "period, which increases the age of results."
        )
    problem = _gpus()[1]
    if problem:
        notes.append(f"GPUs were not measured: {problem}.")
    return tuple(notes)


def _gpus() -> tuple[list[Gpu], str]:
    try:
        return list_gpus(), ""
    except NoGpuError as error:
        return [], str(error) if error.broken else ""
