"""The checks of the machine in ``vision-infer doctor``. Each check returns its findings and never raises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError
from vision_infer.core.finding import Finding, Severity
from vision_infer.core.packages import EXTRA_OF, install

if TYPE_CHECKING:
    from vision_infer.config.service.telemetry import TelemetrySettings
    from vision_infer.config.sinks import SinksSettings

GB = 1_000_000_000
MIN_MEMORY, GOOD_MEMORY = 0.4 * GB, 1.5 * GB
MIN_DISK, GOOD_DISK = 0.1 * GB, 2 * GB
MAX_THROTTLED = 0.05
MIN_FILES = 1024
TIME_CODE = 11_259_375
"""The time code in the image of the smoke test: alternating bits and some others."""
NEEDED = ("av", "numpy", "onnx", "lap", "pydantic", "typer", "rich", "yaml")
OPTIONAL = {
    "cv2": "for photographs and drawn output",
    "aiortc": "for serve",
    "pyarrow": "for Parquet files",
    "pycocotools": "for model evaluate",
}
"""The purpose of each module of an extra."""
CONFLICTING = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python-headless", "opencv-python"))
"""Pairs of packages that overwrite each other's files. The first one is for machines without a GPU."""


def check_cpu() -> Iterator[Finding]:
    """Check the cores, the instructions and the limits of the control group."""
    from vision_infer.engine.device import INSTRUCTIONS, available_cpus, cpu_facts
    from vision_infer.telemetry.machine import grants

    name, instructions = cpu_facts()
    granted, usable, total = grants(), available_cpus(), os.cpu_count() or 1
    quota = "" if granted.cpus is None else f", limited to the time of {granted.cpus:.3g} CPUs by a control group"
    facts = {"name": name, "cpus": total, "usable": usable, "granted": granted.cpus, "instructions": instructions}
    known = ", ".join(instructions) or "no known vector instructions"
    yield Finding("cpu", "ok", f"{name}: {usable} of {total} CPUs{quota}; {known}", facts=facts)
    if usable == 1 or (granted.cpus is not None and granted.cpus < 2):
        yield Finding("cpu", "warning", "one CPU: decoding and inference share it", "Use two or more.")
    if granted.throttled is not None and granted.throttled > MAX_THROTTLED:
        text = f"the control group reached its CPU limit in {granted.throttled:.0%} of all periods, so the age of results varies"
        yield Finding("cpu", "warning", text, "Raise the limit (docker --cpus, systemd CPUQuota), or remove it.")
    if any(name in INSTRUCTIONS for name in instructions) or os.uname().machine in ("x86_64", "amd64"):
        if "avx2" not in instructions:
            yield Finding(
                "cpu", "warning", "no AVX2: models run several times slower", "In a virtual machine, pass the host CPU through."
            )
        elif not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(instructions):
            yield Finding("cpu", "note", "no VNNI: INT8 is hardly faster")


def check_memory() -> Iterator[Finding]:
    """Check the memory and the limit of open files."""
    import resource

    from vision_infer.telemetry.machine import memory

    found = memory()
    if found is not None:
        free = found.available_bytes
        severity = _by_amount(free, MIN_MEMORY, GOOD_MEMORY)
        hint = "" if severity == "ok" else "A service with four cameras needs about 0.5 GB."
        yield Finding("memory", severity, f"{free / GB:.1f} of {found.total_bytes / GB:.1f} GB free", hint, asdict(found))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < MIN_FILES:
        text = f"the limit of open files is {files}, which is enough for about {files // 16} cameras"
        yield Finding(
            "memory", "warning", text, "Raise it with ulimit -n 4096, or LimitNOFILE= in systemd.", {"open_files": files}
        )


def check_gpus() -> tuple[list[Finding], bool]:
    """Check the GPUs. Returns the findings, and whether a GPU is usable."""
    from vision_infer.engine.gpu.accelerator import NoGpuError
    from vision_infer.engine.gpu.gpus import list_gpus
    from vision_infer.telemetry.machine import nvidia_devices

    try:
        gpus = list_gpus()
    except NoGpuError as error:
        devices = nvidia_devices()
        if devices and not error.broken:
            return [
                Finding(
                    "gpu", "warning", f"{devices} NVIDIA GPU found on the bus, but {error.message}", "Install the NVIDIA driver."
                )
            ], False
        return [Finding("gpu", "warning" if error.broken else "note", error.message, error.hint)], False
    found = []
    for gpu in gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        memory = f"{gpu.free_bytes / GB:.1f} of {gpu.total_bytes / GB:.1f} GB free"
        mig = ", MIG" if gpu.mig else ""
        found.append(
            Finding(
                "gpu", "ok", f"cuda:{gpu.index} {gpu.name}: {memory}{capability}, driver {gpu.driver}{mig}", facts=asdict(gpu)
            )
        )
    return found, True


def check_runtimes(has_gpu: bool) -> Iterator[Finding]:
    """Run a smoke test of each installed runtime: it reads a time code from an image, in a separate process."""
    import numpy as np

    from vision_infer.engine.smoke_test import run_smoke_test
    from vision_infer.model.catalog import bundled_dir
    from vision_infer.stream.time_code_reader import draw

    image = np.zeros((180, 320, 3), np.uint8)
    draw(image, TIME_CODE)
    graph = bundled_dir() / "clock" / "model.onnx"
    works = 0
    for runtime, device in _to_try(has_gpu):
        shown = f"{runtime} on {device}" if device.startswith("cuda") else runtime
        try:
            tried = run_smoke_test(graph, runtime, image, device)
        except EngineError as error:
            yield Finding("runtime", "warning", f"{shown} does not work: {error.message}", error.hint, {"runtime": runtime})
            continue
        if tried.class_id != TIME_CODE:
            text = f"{shown} gives wrong results: {tried.class_id} instead of {TIME_CODE}"
            yield Finding("runtime", "warning", text, "Install another version of it.", asdict(tried))
            continue
        works += 1
        text = f"{tried.engine} works ({runtime} {tried.version.split('-')[0]}, ready in {tried.ready_s:.1f} s)"
        yield Finding("runtime", "ok", text, facts=asdict(tried))
    if not works:
        yield Finding("runtime", "error", "no inference engine works", "Run: pip install '.[cpu]' (or [gpu] with an NVIDIA GPU)")


def _to_try(has_gpu: bool) -> Iterator[tuple[str, str]]:
    from vision_infer.engine.registry import RUNTIMES

    for runtime in RUNTIMES:
        if runtime.smoke_tested and runtime.is_installed():
            for device in runtime.devices:
                if device == "cpu":
                    yield runtime.name, "cpu"
                # Its wheel for GPUs is installed for a GPU: without one, the reason is shown.
                elif has_gpu or (runtime.name == "onnxruntime" and _version("onnxruntime-gpu")):
                    yield runtime.name, "cuda:0"


def check_codecs() -> Iterator[Finding]:
    """Check the decoders for cameras, and the encoders for previews and annotated video."""
    from vision_infer.stream.codecs import check_codecs as look

    states = look()
    for kind in ("decoder", "encoder"):
        good = [codec.name for codec in states if codec.kind == kind and not codec.problem]
        yield Finding("codec", "ok", f"{kind}s: {', '.join(good) or 'none'}", facts={f"{kind}s": good})
    for codec in states:
        if codec.problem:
            severity: Severity = "error" if codec.name == "h264" else "warning"
            yield Finding(
                "codec", severity, f"{codec.kind} {codec.name} {codec.problem}", "Install PyAV from its wheel: pip install av"
            )


def check_packages() -> Iterator[Finding]:
    """Check for missing and conflicting packages."""
    from vision_infer.engine.registry import RUNTIMES

    missing = [name for name in NEEDED if find_spec(name) is None]
    for name in missing:
        yield Finding("package", "error", f"{name} is missing", "Run: pip install --force-reinstall .")
    if not missing:
        yield Finding("package", "ok", f"vision-infer {_version('vision-infer') or '?'} and all its dependencies")
    for first, second in CONFLICTING:
        if _version(first) and _version(second):
            text = f"{first} and {second} are both installed and overwrite each other's files"
            yield Finding("package", "warning", text, f"Run: pip uninstall -y {first} {second}; then install one of them.")
    missing_extras = [(module, EXTRA_OF[module], what) for module, what in OPTIONAL.items() if find_spec(module) is None]
    runtimes = [runtime for runtime in RUNTIMES if runtime.benefit and not runtime.is_installed()]
    missing_extras += [(runtime.title, runtime.extra, runtime.benefit) for runtime in runtimes]
    for name, extra, what in missing_extras:
        yield Finding("package", "note", f"{name} is not installed: {what}", install(extra))


def check_disks() -> Iterator[Finding]:
    """Check the disks of models and engines, of temporary files, and of outputs."""
    from vision_infer.model.catalog import home_dir
    from vision_infer.telemetry.machine import disk

    for what, folder in (("home", home_dir(os.environ)), ("temporary files", Path(gettempdir())), ("outputs", Path.cwd())):
        found = disk(folder)
        facts = {"path": str(folder), "free_bytes": found.free_bytes, "writable": not found.problem}
        if found.problem:
            hint = "Set VISION_INFER_HOME to a writable folder." if what == "home" else ""
            yield Finding(
                "disk",
                "error" if what == "home" else "warning",
                f"{what}: {folder} is not writable: {found.problem}",
                hint,
                facts,
            )
        else:
            severity = _by_amount(found.free_bytes, MIN_DISK, GOOD_DISK)
            yield Finding(
                "disk",
                severity,
                f"{what}: {found.free_bytes / GB:.1f} GB free at {folder}",
                "free some space" * (severity != "ok"),
                facts,
            )


def check_clock() -> Iterator[Finding]:
    """Check whether the clock is synchronized, because results contain times."""
    from vision_infer.telemetry.machine import clock_synchronized

    synchronized = clock_synchronized()
    facts = {"synchronized": synchronized}
    if synchronized is None:
        yield Finding("clock", "note", "this system does not report whether its clock is synchronized", facts=facts)
    elif synchronized:
        yield Finding("clock", "ok", "the clock is synchronized", facts=facts)
    else:
        text = "the clock is not synchronized according to the kernel, so the times of results will drift"
        yield Finding(
            "clock", "warning", text, "Run timedatectl set-ntp true, in a container or virtual machine on the host.", facts
        )


def check_sinks(sinks: SinksSettings) -> Iterator[Finding]:
    """Connect to the brokers and message buses of the configuration, without sending anything."""
    from vision_infer.core.clock import SYSTEM_CLOCK
    from vision_infer.sink.delivery.carrier import CarrierContext, UndeliveredError, carrier_of
    from vision_infer.sink.delivery.stream_images import no_image

    with TemporaryDirectory() as folder:
        context = CarrierContext(Path(folder), tuple, no_image, SYSTEM_CLOCK)
        for kind, name, settings in [(kind, *item) for kind, by_name in sinks for item in by_name.items()]:
            shown = f"{kind} {name}"
            try:
                reached = carrier_of(kind, settings, context).check()
            except UndeliveredError as error:
                yield Finding("sink", "error", f"{shown}: {error.message}", error.hint)
            except ImportError as error:
                extra = EXTRA_OF.get(error.name or "", "serve")
                yield Finding("sink", "error", f"{shown} needs the package {error.name}", install(extra))
            else:
                text = "connected" if reached else "not checked: only rows show whether the receiver accepts them"
                yield Finding("sink", "ok" if reached else "note", f"{shown}: {text}")


def check_telemetry(settings: TelemetrySettings) -> Iterator[Finding]:
    """Send messages without content to the OTLP receiver of the configuration."""
    if settings.endpoint is None:
        return
    from vision_infer.sink.delivery.carrier import UndeliveredError
    from vision_infer.sink.otlp.telemetry import OtlpClient

    try:
        OtlpClient(settings).check()
    except UndeliveredError as error:
        yield Finding("otlp", "error", error.message, error.hint)
    else:
        yield Finding("otlp", "ok", f"{settings.host} accepts traces and metrics")


def check_home() -> Iterator[Finding]:
    """Check the user's models and engines, and look for leftovers."""
    from vision_infer.engine.store.cache import EngineCache, engine_dir
    from vision_infer.model.catalog import home_dir, list_models

    home, engines = home_dir(os.environ), engine_dir(None, os.environ)
    entries = list_models()
    for entry in entries:
        if entry.error:
            yield Finding("home", "warning", f"model {entry.name} is invalid: {entry.error}", "Import it again or remove it.")
    kept = 0
    if engines.is_dir():
        try:
            kept = len(EngineCache(engines).entries())
        except (EngineError, OSError) as error:
            hint = error.hint if isinstance(error, EngineError) else ""
            message = error.message if isinstance(error, EngineError) else str(error)
            yield Finding("home", "warning", f"engines cannot be stored: {message}", hint)
    left = [path for pattern in ("models/.importing-*", "engines/*.tmp-*", "downloads/*/*.part") for path in home.glob(pattern)]
    if left:
        text = (
            f"{len(left)} unfinished downloads or builds: "
            f"{', '.join(str(path.relative_to(home)) for path in left[:3])}{' …' * (len(left) > 3)}"
        )
        yield Finding("home", "note", text, f"If no download or build is running, remove them from {home}.")
    usable = sum(not entry.error for entry in entries)
    yield Finding(
        "home", "ok", f"{home}: {usable} models, {kept} engines", facts={"path": str(home), "models": usable, "engines": kept}
    )


def _by_amount(amount: float, minimum: float, good: float) -> Severity:
    return "error" if amount < minimum else "warning" if amount < good else "ok"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
