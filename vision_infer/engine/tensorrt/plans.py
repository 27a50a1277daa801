"""Plans of the engine cache: built once, and found again.

A plan belongs to the checksum of the graph, the runtime and its version, the GPUs that it was built for, and how it was built.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError
from vision_infer.engine.graph_facts import Precision, read_graph_facts, variants
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256
from vision_infer.engine.store.passport import DeviceFacts, Passport, Sources, parse_passport, summarise
from vision_infer.engine.tensorrt.api import Api, load_api
from vision_infer.engine.tensorrt.build_progress import Report
from vision_infer.engine.tensorrt.cached_plans import entry_passport, why_not_here
from vision_infer.engine.tensorrt.compile import Compiled, PlanOptions, check_options, compile_plan
from vision_infer.engine.tensorrt.names import PlanRuntime
from vision_infer.engine.tensorrt.plan_file import PlanFile, parse_plan
from vision_infer.engine.tensorrt.target import GpuTarget, LocalGpu, choose_target, find_gpu
from vision_infer.engine.tensorrt.timings import keep_timings, read_timings, timings_file

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PlanJob:
    """A plan that is wanted.

    Raises:
        UsageError: the runtime has no such option.
    """

    graph: Path
    """the deployment graph"""
    api: Api
    target: GpuTarget
    options: PlanOptions

    def __post_init__(self) -> None:
        check_options(self.api, self.options)

    def key(self) -> EngineKey:
        """What the plan is kept under; reads the graph from end to end."""
        facts = read_graph_facts(self.graph)
        return EngineKey(
            facts.card.name,
            graph_sha256(self.graph),
            f"{self.api.runtime}-cuda-{facts.precision}",
            "f32",
            self.api.version,
            self.target.told(),
            max(self.options.batch_sizes),
            self.options.told(),
        )


def build_plan(
    job: PlanJob, cache: EngineCache, on_message: OnMessage, report: Report = lambda _: None, clock: Clock = SYSTEM_CLOCK
) -> tuple[PlanFile, Passport]:
    """Build a plan and keep it with its passport, or take the one that is kept.

    Args:
        job: what is wanted.
        cache: where it is kept.
        say: told why it is built, and that another process does so already.
        report: told how far it is, on threads of the runtime.
        clock: of the progress and of the passport's date.

    Raises:
        EngineError: the runtime does not take the graph or cannot build it, or the plan cannot be kept.
        ModelError: the file is no deployment graph.
    """
    key = job.key()
    kept = _load(job, key, cache, on_message)
    if kept is not None:
        return kept
    with cache.building(key, on_message) as content:
        # The lock was waited for while another process built it.
        kept = None if content is None else _load(job, key, cache, on_message)
        if kept is not None:
            return kept
        compiled = _compile(job, cache, on_message, report, clock)
        passport = _passport(job, key, compiled, clock)
        cache.store(key, compiled.plan.to_bytes(), passport.to_json())
        return compiled.plan, passport


def open_plan(
    job: PlanJob,
    gpu: LocalGpu,
    cache: EngineCache | None,
    on_message: OnMessage,
    report: Report = lambda _: None,
    clock: Clock = SYSTEM_CLOCK,
) -> PlanFile:
    """A plan to run on a GPU of this machine: any that is kept and does, else one that is built now, and kept if it can be.

    Args:
        job: what is wanted; a plan for several GPUs, or for a wider range of batches, does as well.
        gpu: that it is to run on.
        cache: where plans are kept; None: nowhere.
        say: told why one is built, and that it could not be kept.
        report: told how far it is, on threads of the runtime.
        clock: of the progress and of the passport's date.

    Raises:
        EngineError: the runtime does not take the graph or cannot build it.
        ModelError: the file is no deployment graph.
    """
    if cache is None:
        return compile_plan(job.graph, job.api, job.target, job.options, report=report, clock=clock).plan
    found = find_plan(job, gpu, cache, on_message)
    if found is not None:
        return found
    key = job.key()
    with cache.building(key, on_message) as content:
        kept = None if content is None else _load(job, key, cache, on_message)
        if kept is not None:
            return kept[0]
        compiled = _compile(job, cache, on_message, report, clock)
        try:
            cache.store(key, compiled.plan.to_bytes(), _passport(job, key, compiled, clock).to_json())
        except EngineError as error:
            on_message(f"{error}; it runs nevertheless")
        return compiled.plan


def plan_for_gpu(
    graph: Path, runtime: PlanRuntime, options: PlanOptions, index: int, cache: EngineCache | None, on_message: OnMessage
) -> PlanFile:
    """A plan of a graph to run on one of this machine's GPUs: one that is kept, else one that is built now.

    Args:
        graph: the deployment graph.
        runtime: which.
        options: how it is built where none is kept; its batch sizes are those that are wanted.
        index: of the GPU, as CUDA counts them.
        cache: where plans are kept; None: nowhere.
        say: told why one is built, and that it could not be kept.

    Raises:
        EngineError: the runtime or the GPU is missing, or the runtime does not take the graph or cannot build it.
        ModelError: the file is no deployment graph.
        UsageError: the runtime has no such option.
    """
    api, gpu = load_api(runtime), find_gpu(index)
    if gpu is None:
        raise EngineError(f"there is no cuda:{index} here, or no driver for it", "see 'nvidia-smi', or use --device cpu")
    target = choose_target(api, (), anywhere=options.hardware_compatible, index=index, find=lambda _: gpu)
    return open_plan(PlanJob(graph, api, target, options), gpu, cache, on_message)


def find_plan(job: PlanJob, gpu: LocalGpu, cache: EngineCache, on_message: OnMessage) -> PlanFile | None:
    """A kept plan that does for a GPU of this machine, the one that was used last first; None where there is none."""
    wanted = job.key()
    for entry in cache.entries():
        key = entry.key
        if (key.model, key.graph_sha256, key.engine) != (wanted.model, wanted.graph_sha256, wanted.engine):
            continue
        if why_not_here(key, job.api.version, gpu) or key.batch < wanted.batch:
            continue
        plan = _read(key, cache, on_message)
        sizes = () if plan is None else plan.batch_sizes
        if plan is None or min(sizes) > min(job.options.batch_sizes):
            continue
        if not plan.why_not(job.api.runtime, job.api.version, gpu.capability, gpu.name):
            return plan
    return None


def _load(job: PlanJob, key: EngineKey, cache: EngineCache, on_message: OnMessage) -> tuple[PlanFile, Passport] | None:
    """What is kept under a key, with its passport; one that was lost is written anew, knowing less."""
    plan, text = _read(key, cache, on_message), cache.passport(key)
    if plan is None:
        return None
    try:
        return plan, parse_passport(text or "", str(cache.folder))
    except EngineError:
        passport = _passport(job, key, None, SYSTEM_CLOCK)
        cache.store_passport(key, passport.to_json())
        return plan, passport


def _read(key: EngineKey, cache: EngineCache, on_message: OnMessage) -> PlanFile | None:
    content = cache.load(key)
    if content is None:
        return None
    try:
        return parse_plan(content, str(cache.folder / key.digest() / "engine.bin"))
    except EngineError as error:
        on_message(error.message)
        cache.remove(key)
        return None


def _compile(job: PlanJob, cache: EngineCache, on_message: OnMessage, report: Report, clock: Clock) -> Compiled:
    timings = timings_file(cache.folder, job.api, job.target)
    compiled = compile_plan(
        job.graph,
        job.api,
        job.target,
        job.options,
        timings=read_timings(timings) if job.api.keeps_timings else b"",
        report=report,
        expected_s=_earlier_seconds(job.key(), cache),
        clock=clock,
    )
    try:
        keep_timings(timings, compiled.timings, job.api)
    except OSError as error:
        on_message(f"{timings}: the timings cannot be kept: {error.strerror}; the next build takes as long")
    return compiled


def _earlier_seconds(key: EngineKey, cache: EngineCache) -> float | None:
    """How long a like plan took: of the same model and precision, for whatever GPU and version."""
    for entry in cache.entries():
        if (entry.key.model, entry.key.engine) == (key.model, key.engine):
            passport = entry_passport(entry, cache)
            if passport is not None and passport.build_seconds:
                return passport.build_seconds
    return None


def _passport(job: PlanJob, key: EngineKey, compiled: Compiled | None, clock: Clock) -> Passport:
    facts = read_graph_facts(job.graph)
    return Passport(
        engine=key.engine,
        card=summarise(facts.card),
        sources=Sources(graph=key.graph_sha256, source=facts.card.weights.sha256),
        runtime=job.api.runtime,
        runtime_version=key.runtime_version,
        device=DeviceFacts(kind="cuda", name=key.device, compute_capabilities=job.target.capabilities, mig=job.target.mig),
        precision={"graph": facts.precision} | ({} if compiled is None else dict(compiled.facts.precisions())),
        build_seconds=None if compiled is None else round(compiled.seconds, 3),
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // _NS_PER_S, datetime.UTC),
    )


def graph_of(path: Path, model: str, precision: Precision) -> Path:
    """The graph of a model in a precision: itself, or one beside it.

    Args:
        path: the model's deployment graph.
        model: as the user calls it, for the hint.
        precision: that is wanted.

    Raises:
        EngineError: there is none.
        ModelError: the file is no deployment graph.
    """
    found = [graph for graph in (path, *variants(path)) if read_graph_facts(graph).precision == precision]
    if not found:
        form = " --form tensorrt" if precision == "int8" else ""
        hint = f"vision-infer model quantize {model} --precision {precision}{form} --data VIDEO makes one"
        raise EngineError(f"{model} has no graph in {precision}", hint)
    return min(found, key=lambda graph: "tensorrt" not in graph.name)
