"""Compiles a deployment graph into a plan: one call of the runtime's builder, that tells how far it is and can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.build_progress import Phases, Report
from vision_infer.engine.tensorrt.network import NetworkFacts, Parsed, inspect_network, parse_network
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.target import GpuTarget, use_gpu

_NS_PER_S = 1_000_000_000
GIVE_UP_S = 0.5
"""how long a builder that is told to end is waited for: TensorRT-RTX may say nothing for seconds"""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a plan is built."""

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """that it is to run, ascending. Its one optimisation profile reaches from the first to the last and is tuned for the last:
    where there is so much to do that batches are full, their time counts"""
    workspace_bytes: int | None = None
    """GPU memory that a layer may use for intermediate results; None: all"""
    version_compatible: bool = False
    """of TensorRT: for later versions with the same major number too"""
    hardware_compatible: bool = False
    """of TensorRT: for every GPU from Ampere (sm_80) on"""

    def told(self) -> str:
        """All of it that makes two plans different, in words."""
        parts = [f"batches {' '.join(map(str, self.batch_sizes))}"]
        parts += [] if self.workspace_bytes is None else [f"workspace {self.workspace_bytes / 1e6:g} MB"]
        parts += ["version-compatible"] if self.version_compatible else []
        parts += ["hardware-compatible"] if self.hardware_compatible else []
        return ", ".join(parts)


def check_options(api: Api, options: PlanOptions) -> None:
    """Refuse what a runtime does not have.

    Raises:
        UsageError: an option is not for this runtime.
    """
    if api.builds_ahead and options.version_compatible:
        raise UsageError(f"--version-compatible: a plan of {api.title} fits the version that built it", "leave it out")
    if api.builds_ahead and options.hardware_compatible:
        raise UsageError(f"--hardware-compatible is not for {api.title}", "name the GPUs instead: --for sm_86 --for sm_89")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a build gave."""

    plan: PlanFile
    facts: NetworkFacts
    timings: bytes
    """the timing cache as it is now; empty where the runtime keeps none"""
    seconds: float
    """of parsing and building"""


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
) -> Compiled:
    """Compile a deployment graph.

    The runtime works on a thread of its own, so that Ctrl-C is heeded at once: the builder is told to end, and left behind if it
    does not within half a second.

    Args:
        graph: the deployment graph.
        api: the runtime.
        target: the GPUs that it is for.
        options: how it is built.
        timings: the timing cache of earlier builds.
        report: told how far it is, on threads of the runtime.
        expected_s: how long an earlier build took.
        clock: of the progress.

    Raises:
        EngineError: the runtime does not take the graph, or cannot build it.
        ModelError: it is no deployment graph.
    """
    known = read_graph_facts(graph)
    cancelled = threading.Event()
    phases = Phases(report, clock, expected_s, steps_tell=api.keeps_timings)
    started_ns = clock.monotonic_ns()

    def work() -> tuple[bytes, OutputShapes, NetworkFacts, bytes]:
        if target.index:  # a builder works on the GPU of its thread, the first one where nobody says another
            use_gpu(target.index)
        parsed = parse_network(api, graph, known.card)
        config = _configure(api, parsed, target, options)
        cache = _give_timings(api, config, timings)
        config.progress_monitor = _monitor(api, phases, cancelled)
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        if plan is None:
            why = parsed.messages.last_error() or "the builder does not say why"
            raise EngineError(f"{graph}: {api.title} cannot build it: {why}", "a smaller --batch or another precision may do")
        return bytes(plan), parsed.outputs, inspect_network(parsed), b"" if cache is None else bytes(cache.serialize())

    plan, outputs, facts, kept = _on_a_thread(work, cancelled)
    phases.end()
    made = PlanFile(
        plan,
        known.card,
        graph_sha256(graph),
        api.runtime,
        api.version,
        target.capabilities,
        known.precision,
        options.batch_sizes,
        outputs,
        options.version_compatible,
        "" if options.hardware_compatible else target.gpu,
        options.hardware_compatible,
    )
    return Compiled(made, facts, kept, (clock.monotonic_ns() - started_ns) / _NS_PER_S)


def _configure(api: Api, parsed: Parsed, target: GpuTarget, options: PlanOptions) -> Any:
    trt, config = api.module, parsed.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is the reference: it is not to round to ten bits
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
    profile = parsed.builder.create_optimization_profile()
    profile.set_shape("images", *[(batch, height, width, 3) for batch in profile_of(options.batch_sizes)])
    config.add_optimization_profile(profile)
    return config


def profile_of(batch_sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """The least batch of the optimisation profile, the one that it is tuned for, and the largest."""
    return min(batch_sizes), max(batch_sizes), max(batch_sizes)


def _give_timings(api: Api, config: Any, timings: bytes) -> Any:
    """The timing cache that the build reads and fills; None where the runtime keeps none."""
    if not api.keeps_timings:
        return None
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):  # False: what was timed on another GPU is refused
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(api: Api, phases: Phases, cancelled: threading.Event) -> Any:
    trt = api.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """An error of ours must not get into the runtime: there is nobody to catch it."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._tell(lambda: phases.start(phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(lambda: phases.step(phase, step))
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            self._tell(lambda: phases.finish(phase))

        def _tell(self, tell: Callable[[], None]) -> None:
            try:
                tell()
            except Exception:  # noqa: BLE001 — a broken pipe behind the report, for instance
                cancelled.set()

    return Monitor()


def _on_a_thread(work: Callable[[], _T], cancelled: threading.Event) -> _T:
    """Run something on a thread of its own; what interrupts the wait sets ``cancelled``, and leaves the thread behind."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 — told to whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, name="plan builder", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        cancelled.set()
        thread.join(GIVE_UP_S)
        raise
    if errors:
        raise errors[0]
    return results[0]
