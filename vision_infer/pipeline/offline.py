"""A run over files: settings in, results written, the summary out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from vision_infer.analyze.track import selection_confidence
from vision_infer.config.region import RegionFile, read_region
from vision_infer.config.run import RunSettings
from vision_infer.core.errors import ModelError, StreamError, VisionInferError
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.cache import engine_dir
from vision_infer.engine.device import available_cpus, device_of
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.unopened import UnopenedEngine
from vision_infer.model.catalogue import model_inputs, resolve_model
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hook import GuardedHook, load_hook
from vision_infer.pipeline.lane import Lane, make_selector, scores_by_class
from vision_infer.pipeline.outputs import OutputOptions, OutputPlan, check_task, open_sink, plan_outputs
from vision_infer.pipeline.resume import Journal, ResumePlan, check_resumable, open_journal, plan_resume, with_resume
from vision_infer.pipeline.status import StreamRecord, StreamState, StreamStatus
from vision_infer.pipeline.summary import RunSummary, bound_by, busy_fractions, frames_by_engine, source_summary
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.pipeline.upgrade import LaneOpening
from vision_infer.sink.csv_rows import CsvSink
from vision_infer.sink.jsonl import JsonlSink
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.find import Found, NotFoundError, find_sources, size_at_once
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadOptions, SourceSpec
from vision_infer.telemetry.process import cpu_ns, peak_rss_bytes, process_age_s

Progress = Callable[[Sequence[StreamStatus]], None]
PROGRESS_INTERVAL_S = 0.2
SECOND_BATCH = 32
"""crops that go through a second network together"""


def run(settings: RunSettings, stopping: threading.Event, progress: Progress | None = None) -> RunSummary:
    """Read all sources, write all results.

    Args:
        settings: what to do.
        stopping: set it to stop early; what was decoded is still finished and written.
        progress: called a few times a second with the state of every stream.

    Raises:
        VisionInferError: nothing could be run (usage, model, engine, outputs), or something broke that all sources share.
            A source that fails alone is in the summary, and the others go on.
    """
    found = find_sources(settings.sources, settings.recursive, read_options(settings))
    if not found.specs:
        raise found.errors[0] if len(found.errors) == 1 else _nothing_found(found)
    region = None if settings.region is None else read_region(settings.region, [spec.name for spec in found.specs])
    hook = None if settings.hook is None else GuardedHook(load_hook(settings.hook), settings.hook)
    job = _plan(settings, found)
    libraries = threading.Thread(target=_import_libraries, args=(settings, job), name="imports", daemon=True)
    libraries.start()  # the engine loads outside of Python's lock: meanwhile there is time for imports
    reasons: list[str] = []
    with ExitStack() as engines:
        opening = LaneOpening(engines, reasons.append, tuple(spec.paths[0] for spec in job.specs if spec.kind == "video"))
        lanes = _open_lanes(job, settings, opening)
        check_task(job.plan, lanes[0].engine.card, job.then is not None)
        if job.then is not None:
            request = second_request(settings, len(lanes))
            lanes.append(opening.lane(job.then, request, partial(make_second_lane, settings=settings)))
        commands = [
            replace(
                stream_command(spec, lanes[0], settings, region, job.plan.by_stream[spec.name]),
                first_frame=job.todo.first_frame.get(spec.name, 0),
            )
            for spec in job.specs
        ]
        for lane in lanes:
            lane.engine.warm_up()  # one that is opened later is warmed up then
        libraries.join()
        return replace(_run(job, lanes, commands, hook, stopping, progress, opening), engine_reasons=tuple(reasons))


def _open_lanes(job: _Job, settings: RunSettings, opening: LaneOpening) -> list[Lane]:
    """The lanes of the network, its own input size first. One engine is opened: for the first source, if it tells its size."""
    sizes = list(job.models)
    likely = sizes[0]
    if len(sizes) > 1 and job.specs and (picture := size_at_once(job.specs[0])) is not None:
        likely = best_input(picture, sizes)

    def of(size: Size) -> tuple[Path, EngineRequest, Callable[[Engine], Lane]]:
        number = sizes.index(size)
        return (
            job.models[size],
            engine_request(settings, number),
            partial(make_lane, settings=settings, size=size if number else None),
        )

    first = opening.lane(*of(likely))
    return [first if size == likely else opening.late_lane(*of(size), first.engine) for size in sizes]


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be done."""

    found: Found
    specs: tuple[SourceSpec, ...]
    """the sources to read; those that an earlier run has finished are left out"""
    plan: OutputPlan
    models: dict[Size, Path]
    """the deployment graphs by input size, the network's own first"""
    then: Path | None
    """that of the second network"""
    journal: Journal | None
    todo: ResumePlan
    resumed: bool
    """it goes on with the journal of an earlier run"""
    keep_journal: bool

    def begin(self) -> list[Sink]:
        """Open what all sources share, once nothing is refused any more.

        The journal comes first: what an old one says is of files that go now.

        Raises:
            OutputError: it cannot be written.
        """
        if self.journal is not None:
            self.journal.begin(self.specs, self.resumed)
        sinks: list[Sink] = []
        with ExitStack() as opened:
            if self.journal is not None and not self.resumed:
                opened.callback(self.journal.remove)
            for output in self.plan.shared:
                sinks.append(open_sink(output, None))
                opened.callback(sinks[-1].close, False)
            opened.pop_all()
            return sinks


def _plan(settings: RunSettings, found: Found) -> _Job:
    # Before anything takes time, what could not be written is refused.
    options = output_options(settings)
    plan = plan_outputs(settings.out, found.specs, settings.overwrite or settings.resume, options)
    models = model_graphs(settings)
    model = next(iter(models.values()))
    then = None if settings.then is None else resolve_model(settings.then, settings.model_dir)
    journal = open_journal(settings, model, plan)
    if settings.resume:
        check_resumable(plan)
        todo = None if journal is None else plan_resume(journal, found.specs, plan, settings.track or settings.gate is not None)
        if journal is not None and todo is not None:
            left = tuple(spec for spec in found.specs if spec.name not in todo.finished)
            return _Job(found, left, with_resume(plan, todo), models, then, journal, todo, resumed=True, keep_journal=True)
        # There was no earlier run: nothing of what is there is ours to replace.
        plan = plan_outputs(settings.out, found.specs, settings.overwrite, options)
    return _Job(found, found.specs, plan, models, then, journal, ResumePlan(), resumed=False, keep_journal=settings.resume)


def output_options(settings: RunSettings) -> OutputOptions:
    """The part of the settings that says more about the outputs."""
    rotate_bytes = None if settings.rotate_mb is None else max(1, round(settings.rotate_mb * 1e6))
    return OutputOptions(settings.formats, settings.crops, settings.preview_fps, settings.preview_size, rotate_bytes)


def read_options(settings: RunSettings) -> ReadOptions:
    """The part of the settings that says what is read of each source."""
    return ReadOptions(settings.track_index, settings.start, settings.end, settings.keyframes, settings.max_pixels)


def engine_request(settings: RunSettings, number: int = 0) -> EngineRequest:
    """The part of the settings that chooses an engine.

    Args:
        settings: of the run.
        number: how many engines there are before it.

    Raises:
        UsageError: the devices are not well named.
    """
    folder, device = engine_dir(settings.engine_dir, os.environ), device_of(settings.device, number)
    return EngineRequest(settings.engine, device, settings.workers, settings.threads, settings.batch, engine_dir=folder)


def model_graphs(settings: RunSettings) -> dict[Size, Path]:
    """The deployment graphs of the model by input size, its own first.

    Raises:
        ModelError: there is no such model.
    """
    if settings.model.endswith(".onnx"):
        return {Size(1, 1): resolve_model(settings.model, settings.model_dir)}  # its size is in the file
    return model_inputs(settings.model, settings.model_dir)


def make_lane(engine: Engine, settings: RunSettings, size: Size | None = None) -> Lane:
    """The lane of a run, or one of its lanes: a picture goes into the one whose input fits it.

    Args:
        engine: runs its batches.
        settings: what counts.
        size: of the input; None: it is the network's own.
    """
    least = shown_confidence(engine, settings)
    per_class = scores_by_class(engine.card, settings.per_class)
    if settings.track:  # a tracker finds lost objects again by their detections of low score
        least = selection_confidence(least)
        per_class = {number: selection_confidence(score) for number, score in per_class.items()}
    selector = make_selector(engine.card, least, settings.iou, settings.classes, per_class)
    name = "main" if size is None else f"main@{size.height}x{size.width}"
    return Lane(name, engine, selector, top=settings.top, group="main")


def second_request(settings: RunSettings, number: int = 0) -> EngineRequest:
    """The engine of the second network: large batches, for the crops of a frame come together."""
    request = engine_request(settings, number)
    return replace(request, engine="auto", batch=request.batch or SECOND_BATCH)


def make_second_lane(engine: Engine, settings: RunSettings) -> Lane:
    """The lane where the crops of detections go.

    Raises:
        ModelError: its network is none for classification or embeddings.
    """
    card = engine.card
    if card.task == "detect":
        raise ModelError(f"--then {card.name}: is a network for 'detect'", "name one for classification or embeddings")
    return Lane("then", engine, make_selector(card, None, None, None), top=settings.top)


def shown_confidence(engine: Engine, settings: RunSettings) -> float:
    """Least score of a detection that becomes a result without belonging to a track."""
    return engine.card.confidence if settings.confidence is None else settings.confidence


def stream_command(
    spec: SourceSpec, lane: Lane, settings: RunSettings, region: RegionFile | None = None, outputs: tuple[OutputSpec, ...] = ()
) -> AddStream:
    """The command that adds a source to a run with these settings."""
    engine = lane.engine
    return AddStream(
        replace(spec, decode=settings.decode),
        lane.group,
        outputs,
        settings.every,
        shown_confidence(engine, settings) if settings.track else None,
        track_per_class=scores_by_class(engine.card, settings.per_class),
        min_size=settings.min_size,
        region=None if region is None else region.of(spec.name),
        fps=settings.fps,
        then=None if settings.then is None else "then",
        gate_heartbeat_s=None if settings.gate is None else settings.gate_heartbeat,
    )


def make_supervisor(lanes: Sequence[Lane], sources: int, shared: Sequence[Sink], hook: GuardedHook | None = None) -> Supervisor:
    """A supervisor for recorded sources: as many side by side as keep the machine busy."""
    cpus = available_cpus()
    side_by_side = min(sources, max(4, 2 * cpus), 16)
    decode_threads = max(1, cpus // (2 * side_by_side))
    return Supervisor(lanes, shared, max_active=side_by_side, decode_threads=decode_threads, hook=hook)


def _import_libraries(settings: RunSettings, job: _Job) -> None:
    """Import what the run will use, so that no frame waits for it."""
    import_module("vision_infer.stream.video_file")
    if any(spec.kind == "images" for spec in job.specs):
        import_module("vision_infer.stream.images")
    kinds = {output.kind for output in job.plan.specs()}
    if kinds & {"video", "pictures"}:
        import_module("vision_infer.sink.video")
        import_module("supervision")
    if "crops" in kinds:
        import_module("vision_infer.sink.crops")
    if "parquet" in kinds:
        import_module("pyarrow.parquet")
    if settings.track:
        import_module("scipy.optimize")


def _run(
    job: _Job,
    lanes: Sequence[Lane],
    commands: Sequence[AddStream],
    hook: GuardedHook | None,
    stopping: threading.Event,
    progress: Progress | None,
    opening: LaneOpening,
) -> RunSummary:
    with ExitStack() as stack:
        shared = job.begin()
        for sink in shared:
            stack.callback(sink.close, False)
        startup_s = process_age_s()
        cpu_before = cpu_ns()
        supervisor = stack.enter_context(make_supervisor(lanes, max(1, len(job.specs)), shared, hook))
        with opening.going_on(supervisor, stopping):
            for command in commands:
                supervisor.add(command)
            interrupted = _wait(supervisor, stopping, progress, lambda: _note_finished(job, supervisor, shared))
            supervisor.close()  # the end of a child takes a moment, which is not the run's
        _note_finished(job, supervisor, ())
        cpu = cpu_ns() - cpu_before
    if supervisor.error is not None:
        raise supervisor.error
    records = supervisor.records()
    if job.journal is not None and not job.keep_journal and not interrupted and not any(record.error for record in records):
        job.journal.remove()
    written = [one for sink in shared for one in sink.outputs] + [one for record in records for one in record.outputs]
    work = supervisor.work()
    engine = next(lane.engine for lane in lanes if not isinstance(lane.engine, UnopenedEngine))
    return RunSummary(
        frames=sum(record.results for record in records),
        decoded=sum(record.decoded for record in records),
        detections=sum(record.detections for record in records),
        seconds=(supervisor.last_written_ns - supervisor.first_open_ns) / 1e9,
        startup_seconds=startup_s or 0.0,
        cpu_seconds=cpu / 1e9,
        peak_rss_bytes=peak_rss_bytes(),
        bound_by=bound_by(work),
        busy=busy_fractions(work),
        stages=supervisor.account().summary(),
        sources=(
            *(_finished_earlier(spec) for spec in job.found.specs if spec.name in job.todo.finished),
            *(source_summary(record) for record in records),
            *(_not_found(error) for error in job.found.errors),
        ),
        model=engine.card.name,
        engine=engine.name,
        frames_by_engine=frames_by_engine(records),
        outputs=tuple(dict.fromkeys(one.path for one in written)),
        encoders={one.path: one.how for one in written if one.how},
        exit_status=max((error.exit_status for error in (*job.found.errors, *_errors(records))), default=0),
        padded=supervisor.padded,
        interrupted=interrupted,
    )


def _note_finished(job: _Job, supervisor: Supervisor, shared: Sequence[Sink]) -> None:
    """Put the sources that have ended since into the journal, once the rows that they share a file for are safe."""
    if job.journal is None:
        return
    ended = {record.name for record in supervisor.records() if record.state is StreamState.ENDED}
    new = [spec for spec in job.specs if spec.name in ended and not job.journal.has(spec)]
    if not new:
        return
    for sink in shared:
        if isinstance(sink, JsonlSink | CsvSink):
            sink.flush()
    for spec in new:
        job.journal.finish(spec)


def _wait(
    supervisor: Supervisor, stopping: threading.Event, progress: Progress | None, note_finished: Callable[[], None]
) -> bool:
    """Wait for the end, or for the wish to stop; True when it was stopped."""
    interrupted = False
    while not supervisor.wait(PROGRESS_INTERVAL_S):
        if stopping.is_set() and not interrupted:
            interrupted = True
            supervisor.stop()
        note_finished()
        if progress is not None:
            progress(supervisor.statuses())
    if progress is not None:
        progress(supervisor.statuses())
    return interrupted


def _nothing_found(found: Found) -> StreamError:
    return StreamError(f"nothing to read: {'; '.join(error.message for error in found.errors)}", "give video files or pictures")


def _errors(records: Sequence[StreamRecord]) -> list[VisionInferError]:
    return [record.error for record in records if record.error is not None]


def _not_found(error: NotFoundError) -> dict[str, object]:
    return _unread(error.source, error.source, "failed") | {"error": str(error)}


def _finished_earlier(spec: SourceSpec) -> dict[str, object]:
    return _unread(spec.name, redact(spec.paths[0]), "finished earlier")


def _unread(name: str, source: str, state: str) -> dict[str, object]:
    return {
        "name": name,
        "source": source,
        "state": state,
        "frames": 0,
        "decoded": 0,
        "detections": 0,
        "gaps": 0,
        "gap_times": [],
        "damaged": 0,
        "warnings": [],
        "decoder": None,
        "dropped": {},
        "hook_errors": 0,
        "error": None,
    }
