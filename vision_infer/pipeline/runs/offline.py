"""A run over files: settings in, results written, the summary out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from vision_infer.config.region import read_region
from vision_infer.config.run import RunSettings
from vision_infer.core.errors import StreamError, VisionInferError
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.unopened import UnopenedEngine
from vision_infer.model.catalogue import resolve_model
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hook import GuardedHook, load_hook
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.upgrade import LaneOpening
from vision_infer.pipeline.runs.outputs import OutputPlan, check_task, open_sink, plan_outputs
from vision_infer.pipeline.runs.resume import Journal, ResumePlan, check_resumable, open_journal, plan_resume, with_resume
from vision_infer.pipeline.runs.run_parts import (
    engine_request,
    make_lane,
    make_second_lane,
    make_supervisor,
    model_graphs,
    output_options,
    read_options,
    second_request,
    stream_command,
)
from vision_infer.pipeline.runs.summary import RunSummary, bound_by, busy_fractions, frames_by_engine, source_summary
from vision_infer.pipeline.status import StreamRecord, StreamState, StreamStatus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.files.csv_rows import CsvSink
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import Found, NotFoundError, find_sources, size_at_once
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec
from vision_infer.telemetry.process import cpu_ns, peak_rss_bytes, process_age_s

Progress = Callable[[Sequence[StreamStatus]], None]
PROGRESS_INTERVAL_S = 0.2


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
        check_task(job.plan, lanes[0].engine.card, job.secondary is not None)
        if job.secondary is not None:
            request = second_request(settings, len(lanes))
            lanes.append(opening.lane(job.secondary, request, partial(make_second_lane, settings=settings)))
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
    if len(sizes) > 1 and job.specs and (image := size_at_once(job.specs[0])) is not None:
        likely = best_input(image, sizes)

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
    secondary: Path | None
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
    secondary = None if settings.secondary is None else resolve_model(settings.secondary, settings.model_dir)
    journal = open_journal(settings, model, plan)
    if settings.resume:
        check_resumable(plan)
        todo = None if journal is None else plan_resume(journal, found.specs, plan, settings.track or settings.gate is not None)
        if journal is not None and todo is not None:
            left = tuple(spec for spec in found.specs if spec.name not in todo.finished)
            return _Job(found, left, with_resume(plan, todo), models, secondary, journal, todo, resumed=True, keep_journal=True)
        # There was no earlier run: nothing of what is there is ours to replace.
        plan = plan_outputs(settings.out, found.specs, settings.overwrite, options)
    return _Job(found, found.specs, plan, models, secondary, journal, ResumePlan(), resumed=False, keep_journal=settings.resume)


def _import_libraries(settings: RunSettings, job: _Job) -> None:
    """Import what the run will use, so that no frame waits for it."""
    import_module("vision_infer.stream.files.video_file")
    if any(spec.kind == "images" for spec in job.specs):
        import_module("vision_infer.stream.files.images")
    kinds = {output.kind for output in job.plan.specs()}
    if kinds & {"video", "pictures"}:
        import_module("vision_infer.sink.files.video")
        import_module("supervision")
    if "crops" in kinds:
        import_module("vision_infer.sink.files.crops")
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
