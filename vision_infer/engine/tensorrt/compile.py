"""Compiles a deployment graph into a plan: one call of the runtime's builder, which reports progress and can be canceled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.graph_facts import Precision, read_graph_facts
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.tensorrt.api import Api, created
from vision_infer.engine.tensorrt.build_progress import Phases, Report
from vision_infer.engine.tensorrt.network import ParsedNetwork, layer_precisions, parse_network
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.target import GpuTarget, use_gpu

_NS_PER_S = 1_000_000_000
BUILD_VERSION = 2
"""The version of how plans are built. Increase it with every change of :func:`_configure`: older plans are then not used."""
GIVE_UP_S = 0.5
"""The time to wait for a canceled builder, seconds: TensorRT-RTX may not check for seconds."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a plan is built."""

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """The batch sizes that it runs, ascending; see :func:`profiles_of`."""
    workspace_bytes: int | None = None
    """The GPU memory for intermediate results of a layer, bytes; None: all."""
    version_compatible: bool = False
    """TensorRT only: whether later versions with the same major number can load it."""
    hardware_compatible: bool = False
    """TensorRT only: whether every GPU from Ampere (sm_80) on can run it."""
    tf32: bool = False
    """Whether products of FP32 values are computed in TF32: faster, with their mantissas rounded to ten bits."""

    def describe(self) -> str:
        """Return all options that make plans different, as the cache key contains them; TF32 is in the engine's name."""
        parts = [f"batches {' '.join(map(str, self.batch_sizes))}"]
        parts += [] if self.workspace_bytes is None else [f"workspace {self.workspace_bytes / 1e6:g} MB"]
        parts += ["version-compatible"] if self.version_compatible else []
        parts += ["hardware-compatible"] if self.hardware_compatible else []
        parts.append(_built_now())
        return ", ".join(parts)


def is_built_alike(description: str) -> bool:
    """Return whether a plan was built in the way of this version of the program, by its :meth:`PlanOptions.describe`."""
    return description.endswith(_built_now())


def _built_now() -> str:
    return f"build version {BUILD_VERSION}"


def check_options(api: Api, options: PlanOptions, precision: Precision) -> None:
    """Refuse options that a runtime, or a graph of that precision, does not have.

    Raises:
        UsageError: An option is not valid for them.
    """
    if options.tf32 and precision != "fp32":
        raise UsageError(f"--tf32 is not valid for {precision}", "It applies to plans in fp32.")
    if api.builds_ahead and options.version_compatible:
        raise UsageError(
            f"--version-compatible is not valid for {api.title}: a plan fits the version that built it", "Leave it out."
        )
    if api.builds_ahead and options.hardware_compatible:
        raise UsageError(f"--hardware-compatible is not valid for {api.title}", "Name the GPUs instead: --for sm_86 --for sm_89.")


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """The result of a build."""

    plan: PlanFile
    layers: Mapping[str, str]
    """The precisions of the layers, see :func:`vision_infer.engine.tensorrt.network.layer_precisions`."""
    timings: bytes
    """The updated timing cache; empty if the runtime has none."""
    seconds: float


def compile_plan(
    graph: Path,
    api: Api,
    target: GpuTarget,
    options: PlanOptions,
    *,
    timings: bytes = b"",
    report: Report = lambda _: None,
    expected_s: float | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> CompiledPlan:
    """Compile a deployment graph.

    The runtime works on its own thread, so that Ctrl-C works at once: the builder is canceled, and abandoned if it does not end
    within half a second.

    Args:
        report: Receives the progress, on threads of the runtime.
        expected_s: The duration of an earlier build, seconds.

    Raises:
        EngineError: The runtime does not accept the graph, or cannot build it.
        ModelError: The file is not a deployment graph.
    """
    facts = read_graph_facts(graph)
    canceled = threading.Event()
    phases = Phases(report, clock, expected_s, estimates_by_steps=api.has_timings)
    started_ns = clock.monotonic_ns()

    def work() -> tuple[bytes, OutputShapes, Mapping[str, str], bytes]:
        if target.index:  # a builder works on the GPU of its thread, by default the first one
            use_gpu(target.index)
        parsed = parse_network(api, graph, facts.card)
        config = _configure(api, parsed, target, options)
        cache = _use_timings(api, config, timings)
        config.progress_monitor = _monitor(api, phases, canceled)
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        if plan is None:
            lack = parsed.messages.lack_of_memory()
            why = lack or parsed.messages.last_error() or "the builder gives no reason"
            kind, hint = (DeviceMemoryError, "Close other programs on the GPU, or t") if lack else (EngineError, "T")
            raise kind(f"{graph}: {api.title} cannot build it: {why}", f"{hint}ry a smaller --batch or another precision.")
        return bytes(plan), parsed.outputs, layer_precisions(parsed), b"" if cache is None else bytes(cache.serialize())

    plan, outputs, layers, new_timings = _run_on_thread(work, canceled)
    phases.end()
    made = PlanFile(
        plan,
        facts.card,
        graph_sha256(graph),
        api.runtime,
        api.version,
        target.capabilities,
        facts.precision,
        options.batch_sizes,
        outputs,
        options.version_compatible,
        "" if options.hardware_compatible else target.gpu,
        options.hardware_compatible,
        options.tf32,
    )
    return CompiledPlan(made, layers, new_timings, (clock.monotonic_ns() - started_ns) / _NS_PER_S)


def _configure(api: Api, parsed: ParsedNetwork, target: GpuTarget, options: PlanOptions) -> Any:
    trt, config = api.module, created(api, parsed.messages, parsed.builder.create_builder_config())
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)  # on by default; FP32 is the reference
    config.max_aux_streams = 0  # streams of the runtime's own could not be recorded next to decoders, which use another stream
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: otherwise the plan may allocate while it is recorded
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if api.builds_ahead:
        config.num_compute_capabilities = len(target.capabilities)
        for index, capability in enumerate(target.capabilities):
            config.set_compute_capability(trt.ComputeCapability.__members__[capability.replace("sm_", "SM")], index)
    height, width = parsed.network.get_input(0).shape[1:3]
    for batches in profiles_of(api, options.batch_sizes):
        profile = created(api, parsed.messages, parsed.builder.create_optimization_profile())
        profile.set_shape("images", *[(batch, height, width, 3) for batch in batches])
        config.add_optimization_profile(profile)
    return config


def profiles_of(api: Api, batch_sizes: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return for each optimization profile the smallest batch, the one that it is tuned for, and the largest.

    The last one is tuned for the largest batch: under high load batches are full. TensorRT, which chooses kernels when it builds,
    gets another one for a single image; TensorRT-RTX compiles them for each batch size when the plan runs.
    """
    first, *others = batch_sizes
    last = batch_sizes[-1]
    if api.has_timings and first == 1 and others:
        return ((1, 1, 1), (others[0], last, last))
    return ((first, last, last),)


def _use_timings(api: Api, config: Any, timings: bytes) -> Any:
    """Return the timing cache that the build reads and extends; None if the runtime has none."""
    if not api.has_timings:
        return None
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):  # False: refuse timings of another GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(api: Api, phases: Phases, canceled: threading.Event) -> Any:
    trt = api.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Passes progress on. Its methods must not raise: the runtime, which calls them, does not catch Python exceptions."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._forward(lambda: phases.start(phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self._forward(lambda: phases.step(phase, step))
            return not canceled.is_set()

        def phase_finish(self, phase: str) -> None:
            self._forward(lambda: phases.finish(phase))

        def _forward(self, report: Callable[[], None]) -> None:
            try:
                report()
            except Exception:  # noqa: BLE001 — the report may write to a broken pipe, for instance
                canceled.set()

    return Monitor()


def _run_on_thread(work: Callable[[], _T], canceled: threading.Event) -> _T:
    """Run a function on a new thread; an interrupt of the wait sets ``canceled``, and abandons the thread after a short wait."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 — the waiting thread raises it
            errors.append(error)

    thread = threading.Thread(target=run, name="plan builder", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        canceled.set()
        thread.join(GIVE_UP_S)
        raise
    if errors:
        raise errors[0]
    return results[0]
