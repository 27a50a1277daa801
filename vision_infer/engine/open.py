"""Chooses and opens the engine for a deployment graph."""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vision_infer.core.errors import EngineError, ModelError, UsageError
from vision_infer.engine.device import available_cpus, load_onnxruntime, missing_runtime, parse_device
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.engine.runtimes.onnxruntime_engine import CUDA_IN_FLIGHT, OnnxRuntimeEngine, OnnxRuntimeSettings
from vision_infer.engine.runtimes.openvino_engine import OpenVinoEngine, OpenVinoSettings

if TYPE_CHECKING:
    from vision_infer.engine.graph_facts import Precision
    from vision_infer.engine.store.cache import EngineCache, OnMessage
    from vision_infer.engine.tensorrt.plan_file import Runtime

RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch", "torchcompile", "null")
PLAN_RUNTIMES = ("tensorrt", "tensorrt-rtx")
COMPUTES = ("auto", "f32", "bf16")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine is wanted; None leaves the choice to the machine."""

    engine: str = "auto"
    """``auto``, one of :data:`RUNTIMES` or a full name such as ``onnxruntime-cpu-fp32``"""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda:N``"""
    workers: int | None = None
    """batches in flight; default: as many as the CPUs allow with ``threads``, 2 on a GPU"""
    threads: int | None = None
    """threads of each batch on the CPU; default 1"""
    batch: int | None = None
    """largest batch; default 1 on the CPU, where larger ones do not pay, 8 on a GPU"""
    compute: str = "auto"
    """type of the arithmetic of a float32 graph: ``f32``, ``bf16``, or ``auto``: as a full name says, else ``f32``"""
    engine_dir: Path | None = None
    """where compiled graphs are kept, as :func:`vision_infer.engine.store.cache.engine_dir` gives it; None: nowhere"""


def open_engine(path: Path, request: EngineRequest, on_message: OnMessage | None = None) -> Engine:
    """Load a deployment graph; the engine is a context manager.

    Args:
        path: the deployment graph.
        request: which engine.
        say: told, in a line, why something takes longer than usual, and what could not be kept.

    Raises:
        EngineError: the runtime is unknown or missing, cannot compute so, or the device is not there; or it has no memory for
            the network, and was named. Where ``device`` is ``auto``, the processor does it then, which is told.
        ModelError: the file is no deployment graph.
        UsageError: the device or the type of the arithmetic is not well named.
    """
    if request.engine == "auto" and request.engine_dir is not None:
        path, request = _known_choice(path, request, on_message or _silent)
    runtime, named_device = _parse_name(request.engine)
    compute = _choose_compute(runtime, request)
    device = _agreed(named_device, request)
    if runtime == "onnxruntime" and find_spec("onnxruntime") is None:
        raise missing_runtime()
    kind, index = _choose_device(runtime, device)
    path = _named_graph(path, request.engine, runtime)
    try:
        return _open(path, request, runtime, (kind, index), compute, on_message or _silent)
    except (EngineError, ModelError) as error:
        given_up = isinstance(error, DeviceMemoryError) or request.engine == "auto"
        if kind != "cuda" or request.device != "auto" or not given_up:
            raise
        (on_message or _silent)(f"cuda:{index} is done without: {error.message}")
        return open_engine(
            path, replace(request, engine="auto", device="cpu", compute="auto", workers=None, batch=None), on_message
        )


def _open(
    path: Path,
    request: EngineRequest,
    runtime: str,
    device: tuple[str, int],
    compute: Literal["f32", "bf16"],
    on_message: OnMessage,
) -> Engine:
    kind, index = device
    threads = request.threads or 1
    if kind == "cuda":
        workers, batch = request.workers or CUDA_IN_FLIGHT, request.batch or 8
    else:
        workers, batch = request.workers or max(1, available_cpus() // threads), request.batch or 1
    engine: Engine
    if runtime == "null":
        engine = NullEngine(read_graph_facts(path).card, batch_sizes=tuple(range(1, batch + 1)), in_flight=workers)
    elif runtime in ("torch", "torchcompile"):
        engine = _open_torch(path, runtime == "torchcompile", device, (workers, threads, batch), on_message)
    elif runtime in PLAN_RUNTIMES:
        engine = _open_tensorrt(
            path, request, "tensorrt" if runtime == "tensorrt" else "tensorrt-rtx", index, (workers, batch), on_message
        )
    elif runtime == "openvino":
        engine = _open_openvino(path, OpenVinoSettings(workers, threads, batch, compute), _cache(request, on_message), on_message)
    else:
        settings = OnnxRuntimeSettings(kind, index, workers, threads, batch)
        engine = _open_onnxruntime(path, settings, _cache(request, on_message) if kind == "cpu" else None, on_message)
    if request.engine not in ("auto", runtime) and request.engine != engine.name:
        with engine:
            hint = f"use --engine {engine.name} or auto"
            precision = request.engine.rpartition("-")[2]
            if precision in ("int8", "fp16"):
                hint += f"; 'vision-infer model quantize' makes a graph in {precision}"
            raise EngineError(f"the model gives the engine {engine.name}, not {request.engine}", hint)
    return engine


def _named_graph(path: Path, name: str, runtime: str) -> Path:
    """The graph that a full name means: the model's own, or the one beside it in that precision, as ``model.int8.onnx``."""
    precision = name.rpartition("-")[2]
    if runtime not in ("onnxruntime", "openvino") or precision not in ("int8", "fp16"):
        return path
    from vision_infer.engine.selection.candidates import variants

    if read_graph_facts(path).precision == precision:
        return path
    beside = [graph for graph in variants(path) if "tensorrt" not in graph.name]  # that form is none for these
    return next((graph for graph in beside if read_graph_facts(graph).precision == precision), path)


def left_open(request: EngineRequest) -> bool:
    """Whether the engine is left to the machine, and will run on its processor.

    Raises:
        EngineError: no runtime is installed, or the device is not there.
        UsageError: the device is not well named.
    """
    if request.engine != "auto" or request.compute != "auto":
        return False
    return _choose_device(_parse_name("auto")[0], request.device)[0] == "cpu"


def _known_choice(path: Path, request: EngineRequest, on_message: OnMessage) -> tuple[Path, EngineRequest]:
    """What passports or an earlier trial say of this machine's processor; the request as it is where they say nothing."""
    assert request.engine_dir is not None
    if not left_open(request):
        return path, request
    from vision_infer.engine.selection.known import known_choice

    choice = known_choice(path, request.engine_dir)
    if choice is None:
        return path, request
    on_message(choice.reason)
    return choice.candidate.graph, replace(request, engine=choice.candidate.engine, device="cpu")


def _open_openvino(path: Path, settings: OpenVinoSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    if cache is None:
        return OpenVinoEngine(path, settings)
    from vision_infer.engine.store.compiled import open_openvino

    return open_openvino(path, settings, cache, on_message)


def _open_onnxruntime(path: Path, settings: OnnxRuntimeSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    if settings.device == "cuda":
        with suppress(EngineError):  # without CUDA for Python, or without a GPU, which the runtime itself tells best
            from vision_infer.engine.gpu.cuda import CudaDevice

            # It makes the device's context as FFmpeg's decoder wants it; the runtime's own would keep that out.
            CudaDevice(settings.device_index)
    if cache is None:
        return OnnxRuntimeEngine(path, settings)
    from vision_infer.engine.store.compiled import open_onnxruntime

    return open_onnxruntime(path, settings, cache, on_message)


def _open_torch(
    path: Path, compiled: bool, device: tuple[str, int], workers_threads_batch: tuple[int, int, int], on_message: OnMessage
) -> Engine:
    if find_spec("torch") is None:
        raise EngineError("PyTorch is not installed", "pip install 'vision-infer[export]', or use another engine")
    from vision_infer.engine.runtimes.torch_engine import TorchEngine, TorchSettings, open_torch_on_cuda

    settings = TorchSettings(*workers_threads_batch, compiled)
    return TorchEngine(path, settings) if device[0] == "cpu" else open_torch_on_cuda(path, settings, device[1], on_message)


def _open_tensorrt(
    path: Path, request: EngineRequest, runtime: Runtime, index: int, workers_batch: tuple[int, int], on_message: OnMessage
) -> Engine:
    from vision_infer.engine.gpu.device_engine import batch_sizes_up_to
    from vision_infer.engine.runtimes.tensorrt_engine import open_tensorrt
    from vision_infer.engine.tensorrt.compile import PlanOptions
    from vision_infer.engine.tensorrt.plans import graph_of, plan_for_gpu

    workers, batch = workers_batch
    if request.engine != runtime:
        precision: Precision = request.engine.rpartition("-")[2]  # type: ignore[assignment]
        path = graph_of(path, read_graph_facts(path).card.name, precision)
    options = PlanOptions(batch_sizes_up_to(batch))
    plan = plan_for_gpu(path, runtime, options, index, _cache(request, on_message), on_message)
    return open_tensorrt(plan, index, batch, workers, on_message)


def _cache(request: EngineRequest, on_message: OnMessage | None) -> EngineCache | None:
    """The cache; without one where its folder cannot be used: an engine that starts slowly is better than none."""
    if request.engine_dir is None:
        return None
    from vision_infer.engine.store.cache import EngineCache

    try:
        return EngineCache(request.engine_dir)
    except EngineError as error:
        (on_message or _silent)(f"engines are not kept: {error}")
        return None


def _silent(_: str) -> None:
    pass


def _parse_name(name: str) -> tuple[str, str | None]:
    if name == "auto":
        if find_spec("onnxruntime") is None and find_spec("openvino") is None:
            raise missing_runtime()
        return "openvino" if find_spec("onnxruntime") is None else "onnxruntime", None
    for runtime in sorted(RUNTIMES, key=len, reverse=True):
        rest = name.removeprefix(runtime).split("-")
        if name.startswith(runtime) and rest[0] == "" and len(rest) in (1, 3):
            return runtime, rest[1] if len(rest) == 3 and runtime != "null" else None
    named = ("onnxruntime-cpu-fp32", "onnxruntime-cuda-fp32", "openvino-cpu-fp32", "openvino-cpu-bf16", "torch-cpu-fp32")
    known = (*RUNTIMES, *named, "tensorrt-cuda-fp16", "tensorrt-rtx-cuda-fp16")
    near = difflib.get_close_matches(name, known, 3, 0.4)
    raise EngineError(f"unknown engine {name!r}", f"use auto, or {' or '.join(near or RUNTIMES)}")


def _choose_compute(runtime: str, request: EngineRequest) -> Literal["f32", "bf16"]:
    if request.compute not in COMPUTES:
        raise UsageError(f"unknown type of arithmetic {request.compute!r}", f"use {', '.join(COMPUTES)}")
    named = request.engine.endswith("-bf16")
    if named and request.compute == "f32":
        raise UsageError(f"{request.engine} does not compute in f32", "leave one of the two out")
    if not named and request.compute != "bf16":
        return "f32"
    if runtime != "openvino" and request.compute != "bf16":
        return "f32"  # the graph itself may be in bfloat16
    if runtime != "openvino":
        raise EngineError(f"{runtime} does not compute a float32 graph in bf16", "use --engine openvino-cpu-bf16")
    return "bf16"


def _agreed(named: str | None, request: EngineRequest) -> str:
    """The device that the name of an engine and the device asked for have in common; the latter may say which of several."""
    if named is None or request.device == "auto":
        return named or request.device
    if parse_device(request.device)[0] != named:
        raise UsageError(f"--engine {request.engine} does not run on --device {request.device}", "name one of them only")
    return request.device


def _choose_device(runtime: str, device: str) -> tuple[str, int]:
    if device != "auto":
        kind, index = parse_device(device)
        if kind == "cuda" and runtime == "openvino":
            raise EngineError("OpenVINO runs on the CPU here", "use --device cpu, or --engine onnxruntime")
        if kind == "cpu" and runtime in PLAN_RUNTIMES:
            raise EngineError(f"{runtime} runs on an NVIDIA GPU only", "use --device cuda:0, or --engine onnxruntime")
        return kind, index
    if runtime in PLAN_RUNTIMES:
        return "cuda", 0
    if runtime != "onnxruntime":
        return "cpu", 0
    return ("cuda", 0) if "CUDAExecutionProvider" in load_onnxruntime().get_available_providers() else ("cpu", 0)
