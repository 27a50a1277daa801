"""Chooses and opens the engine for a deployment graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vision_infer.core.errors import EngineError, ModelError, UsageError, VisionInferError
from vision_infer.engine.device import available_cpus, parse_device
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.graph_facts import read_graph_facts, variants
from vision_infer.engine.registry import auto_runtimes, no_runtime, parse_engine_name
from vision_infer.engine.runtime import Compute, EngineSettings, Runtime
from vision_infer.engine.selection.candidates import EngineCandidate, plan_runtime
from vision_infer.engine.selection.lookup import find_choices
from vision_infer.engine.store.cache import EngineCache, OnMessage

COMPUTES = ("auto", "f32", "bf16")
CUDA_WORKERS, CUDA_BATCH = 2, 8
"""The defaults on a GPU."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine is wanted; None leaves the choice to the machine."""

    engine: str = "auto"
    """``auto``, the name of a runtime, or a full name such as ``onnxruntime-cpu-fp32``."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda:N``."""
    workers: int | None = None
    """The number of batches in flight; default: as many as the CPUs allow with ``threads``, 2 on a GPU."""
    threads: int | None = None
    """The number of threads for each batch on the CPU; default 1."""
    batch: int | None = None
    """The largest batch size; default: 1 on the CPU, where larger ones gain nothing, 8 on a GPU."""
    compute: str = "auto"
    """The type of the arithmetic of a float32 graph: ``f32``, ``bf16``, or ``auto``: by the full name, else ``f32``."""
    engine_dir: Path | None = None
    """The folder of compiled engines, see :func:`vision_infer.engine.store.cache.engine_dir`; None: they are not cached."""
    may_build: bool = True
    """Whether a plan that is not cached is built, which takes minutes."""


def open_engine(path: Path, request: EngineRequest, on_message: OnMessage = lambda _: None) -> Engine:
    """Load a deployment graph; the engine is a context manager.

    Args:
        on_message: Receives a line when something takes longer than usual or cannot be cached.

    Raises:
        EngineError: The runtime is unknown or missing, does not have that type of arithmetic, or the device is not available; or
            the GPU has no memory for the model, and the request names the GPU. If ``device`` is ``auto``, or a plan for the GPU
            can be built later, the CPU is used instead, and ``on_message`` receives the reason.
        ModelError: The file is not a deployment graph.
        UsageError: The name of the device or of the type of arithmetic is wrong.
    """
    auto = auto_device(request, on_message)
    if auto is not None:
        return _open_auto(path, request, auto, on_message)
    runtime, named_device, precision = _parse_engine(request.engine)
    compute = _choose_compute(runtime, precision, request)
    device = _merge_devices(named_device, request)
    if not runtime.is_installed():
        raise runtime.missing()
    kind, index = _choose_device(runtime, device)
    path = _named_graph(path, precision, runtime)
    try:
        return _open(path, request, runtime, (kind, index), compute, precision, on_message)
    except DeviceMemoryError as error:
        if kind != "cuda" or request.device != "auto":
            raise
        return _fall_back(path, request, f"cuda:{index}", error, on_message)


def open_candidate(candidate: EngineCandidate, request: EngineRequest, on_message: OnMessage, may_build: bool = False) -> Engine:
    """Open one certain engine as a request says; arguments and errors are those of :func:`open_engine`.

    Args:
        may_build: Whether a plan that is not cached is built.
    """
    wanted = replace(request, engine=candidate.engine, compute="auto", device=candidate.device, may_build=may_build)
    return open_engine(candidate.graph, wanted, on_message)


def _open_auto(path: Path, request: EngineRequest, device: str, on_message: OnMessage) -> Engine:
    """Open what passports or autotuning chose; else the first runtime, on a GPU if it works there."""
    batch, on_gpu = largest_batch(path, request), device != "cpu"
    choices = [] if request.engine_dir is None else find_choices(path, request.engine_dir, device, batch, on_message=on_message)
    for choice in choices:
        one = choice.candidate
        if not one.is_plan:
            on_message(choice.reason)
            if on_gpu:  # autotuning found no plan that is faster
                break
            return open_candidate(one, request, on_message)
        try:
            engine = open_candidate(one, request, on_message)
        except (EngineError, ModelError) as error:
            on_message(f"{one.engine} is not used: {error.message}")
            continue
        on_message(choice.reason)
        return engine
    kind, index = parse_device(device)
    try:
        return _open(path, request, _parse_engine("auto")[0], (kind, index), "f32", "", on_message)
    except (EngineError, ModelError) as error:
        if not on_gpu or (request.device != "auto" and plan_runtime(index) is None):
            raise
        return _fall_back(path, request, device, error, on_message)


def _fall_back(path: Path, request: EngineRequest, device: str, error: VisionInferError, on_message: OnMessage) -> Engine:
    on_message(f"falling back to the CPU: {device} is not available ({error.message})")
    on_cpu = replace(request, engine="auto", device="cpu", compute="auto", workers=None, batch=None)
    return open_engine(path, on_cpu, on_message)


def auto_device(request: EngineRequest, on_message: OnMessage = lambda _: None) -> str | None:
    """Return the device that a request of ``auto`` will use, ``cpu`` or ``cuda:N``; None if it does not leave the engine open.

    Args:
        on_message: Receives why an installed runtime cannot be used on the GPU.

    Raises:
        EngineError: No runtime is installed, or the device is not available.
        UsageError: The name of the device is wrong.
    """
    if request.engine != "auto" or request.compute != "auto":
        return None
    kind, index = ("cuda", 0) if request.device == "auto" else parse_device(request.device)
    if kind == "cuda" and plan_runtime(index, on_message) is not None:
        return f"cuda:{index}"
    kind, index = _choose_device(_parse_engine("auto")[0], request.device)
    return "cpu" if kind == "cpu" else f"cuda:{index}"


def largest_batch(path: Path, request: EngineRequest, kind: str = "cuda") -> int:
    """Return the largest batch size of an engine for a request, on the CPU or on a GPU."""
    batch = request.batch or (CUDA_BATCH if kind == "cuda" else 1)
    return min(batch, read_graph_facts(path).card.max_batch or batch)


def _open(
    path: Path,
    request: EngineRequest,
    runtime: Runtime,
    device: tuple[str, int],
    compute: Compute,
    precision: str,
    on_message: OnMessage,
) -> Engine:
    kind, index = device
    threads = request.threads or 1
    workers = request.workers or (CUDA_WORKERS if kind == "cuda" else max(1, available_cpus() // threads))
    batch = largest_batch(path, request, kind)
    settings = EngineSettings(kind, index, workers, threads, batch, compute, precision, request.may_build)
    cache = _open_cache(request, on_message) if kind in runtime.cached_on else None
    engine = runtime.open(path, settings, cache, on_message)
    if request.engine not in ("auto", runtime.name) and request.engine != engine.name:
        with engine:
            hint = f"Use --engine {engine.name} or auto."
            if precision in ("int8", "fp16"):
                hint += f"; 'vision-infer model quantize' makes a graph in {precision}"
            raise EngineError(f"the model gives the engine {engine.name}, not {request.engine}", hint)
    return engine


def _named_graph(path: Path, precision: str, runtime: Runtime) -> Path:
    """Return the graph that a full name means: the model's own, or the one next to it in that precision (``model.int8.onnx``)."""
    if not runtime.in_auto or precision not in ("int8", "fp16") or read_graph_facts(path).precision == precision:
        return path
    others = [graph for graph in variants(path) if "tensorrt" not in graph.name]  # a form that only TensorRT runs
    return next((graph for graph in others if read_graph_facts(graph).precision == precision), path)


def _open_cache(request: EngineRequest, on_message: OnMessage) -> EngineCache | None:
    """Return the cache; None if its folder cannot be used: an engine that starts slowly is better than none."""
    if request.engine_dir is None:
        return None
    try:
        return EngineCache(request.engine_dir)
    except EngineError as error:
        on_message(f"engines are not cached: {error}")
        return None


def _parse_engine(name: str) -> tuple[Runtime, str | None, str]:
    if name != "auto":
        return parse_engine_name(name)
    runtime = next(iter(auto_runtimes()), None) or plan_runtime(0)
    if runtime is None:
        raise no_runtime()
    return runtime, None, ""


def _choose_compute(runtime: Runtime, precision: str, request: EngineRequest) -> Compute:
    if request.compute not in COMPUTES:
        raise UsageError(f"unknown type of arithmetic {request.compute!r}", f"Use {', '.join(COMPUTES)}.")
    if precision == "bf16" and request.compute == "f32":
        raise UsageError(f"{request.engine} does not compute in f32", "Leave one of the two out.")
    if request.compute != "bf16" and (precision != "bf16" or "bf16" not in runtime.computes):
        return "f32"  # a graph that is itself in bfloat16 is not affected
    if "bf16" not in runtime.computes:
        raise EngineError(f"{runtime.title} does not compute a float32 graph in bf16", "Use --engine openvino-cpu-bf16.")
    return "bf16"


def _merge_devices(named: str | None, request: EngineRequest) -> str:
    """Return the device that the engine's name and the requested device agree on; the latter may have a number."""
    if named is None or request.device == "auto":
        return named or request.device
    if parse_device(request.device)[0] != named:
        raise UsageError(f"engine {request.engine} does not run on device {request.device}", "Name one of them only.")
    return request.device


def _choose_device(runtime: Runtime, device: str) -> tuple[str, int]:
    if device == "auto":
        return runtime.choose_device() if runtime.choose_device is not None else runtime.devices[0], 0
    kind, index = parse_device(device)
    if kind in runtime.devices:
        return kind, index
    if kind == "cpu":
        raise EngineError(f"{runtime.title} runs on an NVIDIA GPU only", "Use --device cuda:0, or --engine onnxruntime.")
    raise EngineError(f"{runtime.title} runs on the CPU only", "Use --device cpu, or --engine onnxruntime.")
