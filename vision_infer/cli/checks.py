"""What ``vision-infer doctor`` looks at: each check gives what it found, and none of them raises."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError, StreamError
from vision_infer.core.finding import Finding, Severity

if TYPE_CHECKING:
    from vision_infer.stream.source import LiveOptions

GB = 1_000_000_000
MIN_MEMORY, MEMORY_BETTER = 0.4 * GB, 1.5 * GB
MIN_DISK, DISK_BETTER = 0.1 * GB, 2 * GB
MAX_THROTTLED = 0.05
MIN_FILES = 1024
CAMERAS_AT_ONCE = 4
"""more, and their decoding would show in each other's jitter"""
MOMENT = 11_259_375
"""what the trial picture says: every second bit, and some"""
NEEDED = ("av", "cv2", "onnx", "scipy", "supervision", "fastapi", "uvicorn", "websockets", "prometheus_client", "aiortc")
EXTRAS = {
    "pyarrow": ("parquet", "for Parquet files"),
    "pycocotools": ("evaluate", "for model evaluate"),
}
"""module: extra, and what it is for"""
OVERWRITING = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python-headless", "opencv-python"))
"""packages that put their files over each other's; the first is the one that is wanted where there is no GPU"""


def check_cpu() -> Iterator[Finding]:
    """Cores, instructions, and what a control group grants."""
    from vision_infer.engine.device import INSTRUCTIONS, available_cpus, cpu_facts
    from vision_infer.telemetry.machine import grants

    name, instructions = cpu_facts()
    granted, usable, there = grants(), available_cpus(), os.cpu_count() or 1
    quota = "" if granted.cpus is None else f", of which a control group grants {granted.cpus:.3g} CPUs' time"
    facts = {"name": name, "cpus": there, "usable": usable, "granted": granted.cpus, "instructions": instructions}
    known = ", ".join(instructions) or "no vector instructions that are known here"
    yield Finding("cpu", "ok", f"{name}: {usable} of {there} CPUs{quota}; {known}", facts=facts)
    if usable == 1 or (granted.cpus is not None and granted.cpus < 2):
        yield Finding("cpu", "warning", "one CPU: decoding and inference wait for each other", "give it two or more")
    if granted.throttled is not None and granted.throttled > MAX_THROTTLED:
        text = f"its control group had used up its time in {granted.throttled:.0%} of all periods: ages jump"
        yield Finding("cpu", "warning", text, "raise the limit (docker --cpus, systemd CPUQuota), or leave it out")
    if any(one in INSTRUCTIONS for one in instructions) or os.uname().machine in ("x86_64", "amd64"):
        if "avx2" not in instructions:
            yield Finding(
                "cpu", "warning", "no AVX2: networks run several times slower", "in a virtual machine: pass the host's CPU on"
            )
        elif not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(instructions):
            yield Finding("cpu", "note", "no VNNI: INT8 gains little here")


def check_memory() -> Iterator[Finding]:
    """Memory, and how many files may be open."""
    import resource

    from vision_infer.telemetry.machine import memory

    found = memory()
    if found is not None:
        free = found.available_bytes
        severity = _by_amount(free, MIN_MEMORY, MEMORY_BETTER)
        hint = "" if severity == "ok" else "a service with four cameras takes about half a gigabyte"
        yield Finding("memory", severity, f"{free / GB:.1f} of {found.total_bytes / GB:.1f} GB are free", hint, asdict(found))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < MIN_FILES:
        text = f"{files} files may be open: enough for about {files // 16} cameras"
        yield Finding("memory", "warning", text, "ulimit -n 4096, or LimitNOFILE= of systemd", {"open_files": files})


def check_gpus() -> tuple[list[Finding], bool]:
    """GPUs; and whether there is one to be used."""
    from vision_infer.engine.gpu.gpus import NoGpuError, list_gpus
    from vision_infer.telemetry.machine import nvidia_devices

    try:
        gpus = list_gpus()
    except NoGpuError as error:
        there = nvidia_devices()
        if there and not error.broken:
            return [
                Finding("gpu", "warning", f"{there} NVIDIA GPU is on the bus: {error.message}", "install NVIDIA's driver")
            ], False
        return [Finding("gpu", "warning" if error.broken else "note", error.message, error.hint)], False
    found = []
    for gpu in gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        memory = f"{gpu.free_bytes / GB:.1f} of {gpu.total_bytes / GB:.1f} GB free"
        mig = ", in MIG instances" if gpu.mig else ""
        found.append(
            Finding(
                "gpu", "ok", f"cuda:{gpu.index} {gpu.name}: {memory}{capability}, driver {gpu.driver}{mig}", facts=asdict(gpu)
            )
        )
    return found, True


def check_runtimes(has_gpu: bool) -> Iterator[Finding]:
    """Every runtime that is installed reads a time code from a picture, in a process of its own."""
    import numpy as np

    from vision_infer.engine.smoke_test import run_smoke_test
    from vision_infer.model.catalogue import bundled_dir
    from vision_infer.stream.time_code import draw

    image = np.zeros((180, 320, 3), np.uint8)
    draw(image, MOMENT)
    graph = bundled_dir() / "clock" / "model.onnx"
    works = 0
    for runtime, device in _to_try(has_gpu):
        shown = f"{runtime} on {device}" if device.startswith("cuda") else runtime
        try:
            tried = run_smoke_test(graph, runtime, image, device)
        except EngineError as error:
            yield Finding("runtime", "warning", f"{shown} does not work: {error.message}", error.hint, {"runtime": runtime})
            continue
        if tried.class_id != MOMENT:
            text = f"{shown} gives wrong results: {tried.class_id} where {MOMENT} is right"
            yield Finding("runtime", "warning", text, "install another version of it", asdict(tried))
            continue
        works += 1
        text = f"{tried.engine} works ({runtime} {tried.version.split('-')[0]}, ready in {tried.ready_s:.1f} s)"
        yield Finding("runtime", "ok", text, facts=asdict(tried))
    if not works:
        yield Finding(
            "runtime", "error", "no inference engine works", "pip install 'vision-infer[cpu]' (or [gpu] with an NVIDIA GPU)"
        )


def _to_try(has_gpu: bool) -> Iterator[tuple[str, str]]:
    from vision_infer.engine.registry import RUNTIMES

    for runtime in RUNTIMES:
        if runtime.smoke_tested and runtime.is_installed():
            for device in runtime.devices:
                if device == "cpu":
                    yield runtime.name, "cpu"
                elif has_gpu:
                    yield runtime.name, "cuda:0"


def check_codecs() -> Iterator[Finding]:
    """Decoders of what cameras send, and the encoders of previews and drawn video."""
    from vision_infer.stream.codecs import check_codecs as look

    states = look()
    for kind in ("decoder", "encoder"):
        good = [one.name for one in states if one.kind == kind and not one.problem]
        yield Finding("codec", "ok", f"{kind}s: {', '.join(good) or 'none'}", facts={f"{kind}s": good})
    for one in states:
        if one.problem:
            severity: Severity = "error" if one.name == "h264" else "warning"
            yield Finding(
                "codec", severity, f"{one.kind} {one.name} {one.problem}", "install PyAV from its wheel: pip install av"
            )


def check_packages() -> Iterator[Finding]:
    """What is missing, and the command that mends it."""
    from vision_infer.engine.registry import RUNTIMES

    missing = [name for name in NEEDED if find_spec(name) is None]
    for name in missing:
        yield Finding("package", "error", f"{name} is missing", "pip install --force-reinstall vision-infer")
    if not missing:
        yield Finding("package", "ok", f"vision-infer {_version('vision-infer') or '?'}, and all that it needs")
    for one, other in OVERWRITING:
        if _version(one) and _version(other):
            text = f"{one} and {other} are both installed: they overwrite each other's files"
            yield Finding("package", "warning", text, f"pip uninstall -y {one} {other}, then install one of them")
    missing_extras = [(module, extra, what) for module, (extra, what) in EXTRAS.items() if find_spec(module) is None]
    runtimes = [runtime for runtime in RUNTIMES if runtime.benefit and not runtime.is_installed()]
    missing_extras += [(runtime.title, runtime.extra, runtime.benefit) for runtime in runtimes]
    for name, extra, what in missing_extras:
        yield Finding("package", "note", f"{name} is not installed: {what}", f"pip install 'vision-infer[{extra}]'")


def check_disks() -> Iterator[Finding]:
    """Where is written: the home of models and engines, the folder for temporary files, the current one."""
    from vision_infer.model.catalogue import home_dir
    from vision_infer.telemetry.machine import disk

    for what, folder in (("home", home_dir(os.environ)), ("temporary files", Path(gettempdir())), ("outputs", Path.cwd())):
        found = disk(folder)
        facts = {"path": str(folder), "free_bytes": found.free_bytes, "writable": not found.problem}
        if found.problem:
            hint = "set VISION_INFER_HOME to a folder that is yours" if what == "home" else ""
            yield Finding(
                "disk",
                "error" if what == "home" else "warning",
                f"{what}: {folder} cannot be written: {found.problem}",
                hint,
                facts,
            )
        else:
            severity = _by_amount(found.free_bytes, MIN_DISK, DISK_BETTER)
            yield Finding(
                "disk",
                severity,
                f"{what}: {found.free_bytes / GB:.1f} GB free at {folder}",
                "make room" * (severity != "ok"),
                facts,
            )


def check_clock() -> Iterator[Finding]:
    """Whether times in results mean something."""
    from vision_infer.telemetry.machine import clock_synchronised

    kept = clock_synchronised()
    facts = {"synchronised": kept}
    if kept is None:
        yield Finding("clock", "note", "this system does not tell whether its clock is kept right", facts=facts)
    elif kept:
        yield Finding("clock", "ok", "the clock is kept right", facts=facts)
    else:
        text = "nothing keeps this machine's clock right, as the kernel says: times of results, and of cameras beside them, drift"
        yield Finding(
            "clock", "warning", text, "timedatectl set-ntp true; in a container or a virtual machine: on the host", facts
        )


def check_home() -> Iterator[Finding]:
    """Models and engines of the user's: those that cannot be used, and what was left lying."""
    from vision_infer.engine.store.cache import EngineCache, engine_dir
    from vision_infer.model.catalogue import home_dir, list_models

    home, engines = home_dir(os.environ), engine_dir(None, os.environ)
    entries = list_models()
    for entry in entries:
        if entry.error:
            yield Finding("home", "warning", f"model {entry.name} cannot be used: {entry.error}", "import it again, or remove it")
    kept = 0
    if engines.is_dir():
        try:
            kept = len(EngineCache(engines).entries())
        except (EngineError, OSError) as error:
            hint = error.hint if isinstance(error, EngineError) else ""
            message = error.message if isinstance(error, EngineError) else str(error)
            yield Finding("home", "warning", f"engines cannot be kept: {message}", hint)
    left = [path for pattern in ("models/.importing-*", "engines/*.tmp-*", "downloads/*/*.part") for path in home.glob(pattern)]
    if left:
        text = f"{len(left)} unfinished: {', '.join(str(path.relative_to(home)) for path in left[:3])}{' …' * (len(left) > 3)}"
        yield Finding("home", "note", text, f"where nothing is running that makes them, remove them from {home}")
    usable = sum(not entry.error for entry in entries)
    yield Finding(
        "home", "ok", f"{home}: {usable} models, {kept} engines", facts={"path": str(home), "models": usable, "engines": kept}
    )


def check_cameras(urls: Sequence[str], live: LiveOptions, limit_s: float) -> list[Finding]:
    """Open each camera and watch it, a few at a time; in the order in which they were given."""
    with ThreadPoolExecutor(CAMERAS_AT_ONCE) as pool:
        looks = [pool.submit(_camera, number, url, live, limit_s) for number, url in enumerate(urls, 1)]
        return [one for look in looks for one in look.result()]


def _camera(number: int, url: str, live: LiveOptions, limit_s: float) -> list[Finding]:
    from vision_infer.config.stream_url import check_url, is_file
    from vision_infer.stream.discovery.probe import ProbeError, probe
    from vision_infer.stream.discovery.probe_findings import find_in_failure, find_in_probe
    from vision_infer.stream.redact import redact

    try:  # no message holds a part of it: what is mistyped may be the password
        check_url(url)
    except ValueError as error:
        return [Finding("camera", "error", f"camera {number}: its URL: {error}")]
    if is_file(url) and not os.path.lexists(url.removeprefix("file://")):
        text = f"camera {number}: is no URL, and there is no such file or device"
        return [Finding("camera", "error", text, "write rtsp://USER:PASSWORD@HOST/PATH, as the camera's manual tells")]
    try:
        return find_in_probe(probe(url.removeprefix("file://"), live, limit_s=limit_s))
    except ProbeError as error:
        return [find_in_failure(redact(url), error)]


def check_network(wait_s: float) -> list[Finding]:
    """Cameras that answer to ONVIF's discovery."""
    from vision_infer.stream.discovery.discover import discover

    try:
        devices = discover(wait_s)
    except StreamError as error:
        return [Finding("network", "warning", error.message, error.hint)]
    if not devices:
        text = f"no camera has answered within {wait_s:g} s"
        return [
            Finding(
                "network",
                "note",
                text,
                "is ONVIF on in the cameras, and this machine in their network? routers pass no multicast on",
            )
        ]
    return [
        Finding(
            "network",
            "ok",
            " ".join(filter(None, (one.address, one.name, one.hardware, one.location, *one.services))),
            facts=asdict(one),
        )
        for one in devices
    ]


def _by_amount(amount: float, least: float, better: float) -> Severity:
    return "error" if amount < least else "warning" if amount < better else "ok"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
