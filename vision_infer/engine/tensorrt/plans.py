"""Builds plans, and finds them again in the engine cache.

The key of a plan contains the checksum of the graph, the runtime and its version, the target GPUs, and the build options.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.ledger import BUILD_BYTES, build_bytes
from vision_infer.engine.graph_facts import Precision, read_graph_facts, variants
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256
from vision_infer.engine.store.passport import DeviceFacts, Passport, Sources, summarize
from vision_infer.engine.tensorrt.api import Api, load_api
from vision_infer.engine.tensorrt.build_progress import Report, report_lines
from vision_infer.engine.tensorrt.cached_plans import why_not_here
from vision_infer.engine.tensorrt.compile import CompiledPlan, PlanOptions, check_options, compile_plan
from vision_infer.engine.tensorrt.names import PlanRuntime
from vision_infer.engine.tensorrt.plan_file import PlanFile, parse_plan, plan_engine_name
from vision_infer.engine.tensorrt.target import GpuTarget, LocalGpu, choose_target, find_gpu
from vision_infer.engine.tensorrt.timings import read_timings, store_timings, timings_file

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PlanJob:
    """A plan to build or find.

    Raises:
        UsageError: The runtime does not have an option.
    """

    graph: Path
    api: Api
    target: GpuTarget
    """The GPUs that it is for."""
    options: PlanOptions

    def __post_init__(self) -> None:
        check_options(self.api, self.options, read_graph_facts(self.graph).precision)

    def key(self) -> EngineKey:
        """Return the key of the plan; reads the graph from end to end."""
        facts = read_graph_facts(self.graph)
        return EngineKey(
            facts.card.name,
            graph_sha256(self.graph),
            plan_engine_name(self.api.runtime, facts.precision, self.options.tf32),
            "tf32" if self.options.tf32 else "f32",
            self.api.version,
            self.target.describe(),
            max(self.options.batch_sizes),
            self.options.describe(),
        )


def build_plan(
    job: PlanJob,
    cache: EngineCache,
    on_message: OnMessage,
    report: Report = lambda _: None,
    clock: Clock = SYSTEM_CLOCK,
    must_store: bool = True,
) -> tuple[PlanFile, Passport]:
    """Build a plan and store it with its passport, or return the cached one.

    Args:
        on_message: Receives why it is built, that another process builds it already, or that it could not be stored.
        report: Receives the progress, on threads of the runtime.
        must_store: Whether a plan that cannot be stored is an error.

    Raises:
        EngineError: The runtime does not accept the graph or cannot build it, or the plan cannot be stored.
        ModelError: The file is not a deployment graph.
    """
    key = job.key()
    cached = _load(job, key, cache, on_message)
    if cached is not None:
        return cached
    with cache.building(key, on_message) as content:
        # Another process may have built it while this one waited for the lock.
        cached = None if content is None else _load(job, key, cache, on_message)
        if cached is not None:
            return cached
        compiled = _compile(job, cache, on_message, report, clock)
        passport = _passport(job, key, compiled, clock)
        try:
            folder = cache.store(key, compiled.plan.to_bytes(), passport.to_json())
        except EngineError as error:
            if must_store:
                raise
            on_message(f"{error}; the engine runs without it")
            return compiled.plan, passport
        return replace(compiled.plan, file=folder / "engine.bin"), passport


def open_plan(job: PlanJob, gpu: LocalGpu, cache: EngineCache | None, on_message: OnMessage, may_build: bool = True) -> PlanFile:
    """Return a plan for a GPU of this machine: any suitable cached one, else one that is built now, and stored if possible.

    Args:
        job: The plan; one for several GPUs, or for a wider range of batches, is suitable as well.
        cache: The engine cache; None: plans are not cached.
        on_message: As for :func:`build_plan`, whose errors these are too. It also receives the progress of a build.
        may_build: Whether a plan that is not cached is built.

    Raises:
        EngineError: No suitable plan is cached, and it may not be built.
    """
    found = None if cache is None else find_plan(job, gpu, cache, on_message)
    if found is not None:
        return found
    if not may_build:
        message = f"the cache has no complete plan of {job.graph.name} for {gpu.name} and {job.api.title} {job.api.version}"
        raise EngineError(message, "Build one with: vision-infer engine build")
    workspace = job.options.workspace_bytes or build_workspace(job.target.index)
    job = replace(job, options=replace(job.options, workspace_bytes=workspace))
    report = report_lines(job.key().engine, on_message)
    if cache is None:
        return compile_plan(job.graph, job.api, job.target, job.options, report=report).plan
    return build_plan(job, cache, on_message, report, must_store=False)[0]


def build_workspace(index: int) -> int:
    """Return the memory that a build may use on a GPU that runs other engines: a quarter of the free memory, at most 1 GB."""
    from vision_infer.engine.gpu.cuda import cuda_device

    try:
        return build_bytes(cuda_device(index).memory()[0])
    except EngineError:  # TensorRT-RTX builds without a GPU
        return BUILD_BYTES


def plan_for_gpu(
    graph: Path,
    runtime: PlanRuntime,
    options: PlanOptions,
    index: int,
    cache: EngineCache | None,
    on_message: OnMessage,
    may_build: bool = True,
) -> PlanFile:
    """Return a plan of a graph for one of this machine's GPUs: a cached one, else one that is built now.

    Args:
        options: How it is built if none is cached; its batch sizes are required.
        cache: The engine cache; None: plans are not cached.
        on_message: Receives why one is built, the progress, and that it could not be stored.
        may_build: Whether one that is not cached is built; otherwise that is an error.

    Raises:
        EngineError: The runtime or the GPU is missing, or the runtime does not accept the graph or cannot build it.
        ModelError: The file is not a deployment graph.
        UsageError: The runtime does not have an option.
    """
    api, gpu = load_api(runtime), find_gpu(index)
    if gpu is None:
        raise EngineError(f"cuda:{index} does not exist, or has no driver", "See 'nvidia-smi', or use --device cpu.")
    target = choose_target(api, (), anywhere=options.hardware_compatible, index=index, find=lambda _: gpu)
    return open_plan(PlanJob(graph, api, target, options), gpu, cache, on_message, may_build)


def find_plan(job: PlanJob, gpu: LocalGpu, cache: EngineCache, on_message: OnMessage) -> PlanFile | None:
    """Return the most recently used cached plan that is suitable for a GPU of this machine; None if there is none.

    Plans that also fit other versions or GPUs come last: they are slower.
    """
    wanted = job.key()
    for key in sorted((entry.key for entry in cache.entries()), key=lambda key: "-compatible" in key.profile):
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
    """Return the cached plan of a key with its passport; a lost passport is written again, with fewer facts."""
    plan, passport = _read(key, cache, on_message), cache.passport(key)
    if plan is not None and passport is None:
        passport = _passport(job, key, None, SYSTEM_CLOCK)
        cache.store_passport(key, passport.to_json())
    return None if plan is None or passport is None else (plan, passport)


def _read(key: EngineKey, cache: EngineCache, on_message: OnMessage) -> PlanFile | None:
    content = cache.load(key)
    if content is None:
        return None
    file = cache.folder / key.digest() / "engine.bin"
    try:
        return replace(parse_plan(content, str(file)), file=file)
    except EngineError as error:
        on_message(error.message)
        cache.remove(key)
        return None


def _compile(job: PlanJob, cache: EngineCache, on_message: OnMessage, report: Report, clock: Clock) -> CompiledPlan:
    timings = timings_file(cache.folder, job.api, job.target)
    compiled = compile_plan(
        job.graph,
        job.api,
        job.target,
        job.options,
        timings=read_timings(timings) if job.api.has_timings else b"",
        report=report,
        expected_s=_earlier_seconds(job.key(), cache),
        clock=clock,
    )
    try:
        store_timings(timings, compiled.timings, job.api)
    except OSError as error:
        on_message(f"{timings}: the timings cannot be stored: {error.strerror}; the next build will take as long")
    return compiled


def _earlier_seconds(key: EngineKey, cache: EngineCache) -> float | None:
    """Return the build time of a plan of the same model and precision, for any GPU and version; None if there is none."""
    for entry in cache.entries():
        if (entry.key.model, entry.key.engine) == (key.model, key.engine):
            passport = cache.passport(entry.key)
            if passport is not None and passport.build_seconds:
                return passport.build_seconds
    return None


def _passport(job: PlanJob, key: EngineKey, compiled: CompiledPlan | None, clock: Clock) -> Passport:
    facts = read_graph_facts(job.graph)
    return Passport(
        engine=key.engine,
        card=summarize(facts.card),
        sources=Sources(graph=key.graph_sha256, source=facts.card.weights.sha256),
        runtime=job.api.runtime,
        runtime_version=key.runtime_version,
        compute="tf32" if job.options.tf32 else "f32",
        device=DeviceFacts(kind="cuda", name=key.device, compute_capabilities=job.target.capabilities, mig=job.target.mig),
        precision={"graph": facts.precision} | ({} if compiled is None else dict(compiled.layers)),
        build_seconds=None if compiled is None else round(compiled.seconds, 3),
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // _NS_PER_S, datetime.UTC),
    )


def graph_of(path: Path, model: str, precision: Precision) -> Path:
    """Return the graph of a model in a precision: itself, or one next to it.

    Raises:
        EngineError: There is none.
        ModelError: The file is not a deployment graph.
    """
    found = [graph for graph in (path, *variants(path)) if read_graph_facts(graph).precision == precision]
    if not found:
        form = " --form tensorrt" if precision == "int8" else ""
        hint = f"Create one with: vision-infer model quantize {model} --precision {precision}{form} --data VIDEO"
        raise EngineError(f"{model} has no graph in {precision}", hint)
    return min(found, key=lambda graph: "tensorrt" not in graph.name)
