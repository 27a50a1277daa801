"""A run of the command line over files or cameras: read all sources, write all results, return the summary."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from vision_infer import __version__
from vision_infer.config.run import RunSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import StreamError, UsageError
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hooks.stage import check_hooks
from vision_infer.pipeline.runs.counts import write_counts
from vision_infer.pipeline.runs.job import Job, import_libraries, plan_job
from vision_infer.pipeline.runs.outputs import check_task
from vision_infer.pipeline.runs.run_factories import check_sources, read_options, read_shape_files, source_command
from vision_infer.pipeline.runs.summary import RunSummary, Spent, summarize
from vision_infer.pipeline.runs.wiring import RunLanes, open_lanes
from vision_infer.pipeline.status import StreamState, StreamStatus
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.datasets.sample import Difference
from vision_infer.sink.files.csv_rows import CsvSink
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.files.output_file import check_output
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import FoundSources, find_sources
from vision_infer.telemetry.process import cpu_ns, peak_rss_bytes, process_age_s

Progress = Callable[[Sequence[StreamStatus]], None]
PROGRESS_INTERVAL_S = 0.2


def run(
    settings: RunSettings,
    stopping: threading.Event,
    progress: Progress | None = None,
    difference: Difference | None = None,
) -> RunSummary:
    """Read all sources and write all results.

    Args:
        settings: What to do.
        stopping: Stops the run early when it is set; frames that are decoded already are still finished and written.
        progress: Called a few times a second with the status of every stream.
        difference: For the samples ``disagree``, compares a result with that of another model.

    Raises:
        VisionInferError: The run could not start (usage, model, engine, outputs), or something failed that all sources share.
            A source that fails alone is in the summary, and the others continue.
    """
    found = find_sources(settings.sources, settings.recursive, read_options(settings), settings.live)
    if not found.specs:
        raise found.errors[0] if len(found.errors) == 1 else _nothing_found(found)
    check_sources(settings, found.specs)
    shapes = read_shape_files(settings, found.specs)
    if settings.counts is not None:
        check_output(settings.counts, settings.overwrite)
    check_hooks(settings.hook, SYSTEM_CLOCK)
    job = plan_job(settings, found)
    libraries = threading.Thread(target=import_libraries, args=(settings, job), name="imports", daemon=True)
    libraries.start()  # loading an engine releases the GIL: the imports run meanwhile
    reasons: list[str] = []

    def check(engine: Engine) -> None:
        check_task(job.outputs, engine.card, job.models.secondary is not None)

    with (
        _frame_traces(settings.telemetry) as traces,
        open_lanes(settings, job.models, job.specs, reasons.append, check) as lanes,
    ):
        commands = [
            replace(
                source_command(spec, lanes.lanes[0], settings, shapes, job.outputs.by_stream[spec.name]),
                first_frame=job.todo.first_frame.get(spec.name, 0),
            )
            for spec in job.specs
        ]
        libraries.join()

        def sinks() -> Sequence[Sink]:
            return [*job.begin(difference), *traces]  # the traces last, to see how long the others take

        summary, records = _run(job, lanes, commands, stopping, progress, settings.duration, sinks)
        if settings.counts is not None:
            write_counts(settings.counts, settings.overwrite, records)
            summary = replace(summary, outputs=(*summary.outputs, str(settings.counts)))
        return replace(summary, engine_reasons=tuple(reasons))


def _run(
    job: Job,
    lanes: RunLanes,
    commands: Sequence[AddStream],
    stopping: threading.Event,
    progress: Progress | None,
    duration_s: float | None,
    open_shared: Callable[[], Sequence[Sink]],
) -> tuple[RunSummary, list[StreamRecord]]:
    with ExitStack() as stack:
        shared = open_shared()
        for sink in shared:
            stack.callback(sink.close, False)
        startup_s = process_age_s()
        cpu_before = cpu_ns()
        with lanes.supervise(len(job.specs), shared, None, stopping) as supervisor:
            for command in commands:
                supervisor.add(command)
            noted = partial(_note_finished, job, supervisor, shared)
            interrupted = _wait(supervisor, stopping, progress, noted, duration_s)
        _note_finished(job, supervisor, ())
        spent = Spent(startup_s or 0.0, (cpu_ns() - cpu_before) / 1e9, peak_rss_bytes())
    if supervisor.error is not None:
        raise supervisor.error
    complete = not interrupted and not any(record.error for record in supervisor.records())
    if job.journal is not None and not job.keep_journal and complete:
        job.journal.remove()
    return summarize(job, supervisor, lanes.lanes, shared, spent, interrupted), supervisor.records()


@contextmanager
def _frame_traces(file: Path | None) -> Iterator[Sequence[Sink]]:
    """Send traces of frames with the settings of a file; yield the sink that takes the frames, or nothing without a file."""
    if file is None:
        yield ()
        return
    from vision_infer.config.serve_file import load_settings

    settings = load_settings(file, (), os.environ, {}).telemetry
    if settings.endpoint is None:
        raise UsageError(f"--telemetry {file}: has no telemetry.endpoint", "Write telemetry: {endpoint: 'http://HOST:4318'}.")
    from vision_infer.sink.otlp.telemetry import Telemetry  # its package is optional

    telemetry = Telemetry(settings, {"service.version": __version__})
    telemetry.start()
    try:
        yield (telemetry.frames,)
    finally:
        telemetry.close()


def _note_finished(job: Job, supervisor: Supervisor, shared: Sequence[Sink]) -> None:
    """Add the sources that have ended meanwhile to the journal, once their rows in shared files are on disk."""
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
    supervisor: Supervisor,
    stopping: threading.Event,
    progress: Progress | None,
    note_finished: Callable[[], None],
    duration_s: float | None,
) -> bool:
    """Wait for the end, or until the run is stopped; return whether it was stopped: then the supervisor still runs."""
    end_ns = None if duration_s is None else SYSTEM_CLOCK.monotonic_ns() + round(duration_s * 1e9)
    interval_s = PROGRESS_INTERVAL_S
    while not supervisor.wait(interval_s):
        if stopping.is_set():
            return True
        if end_ns is not None:
            left_s = (end_ns - SYSTEM_CLOCK.monotonic_ns()) / 1e9
            if left_s <= 0:
                supervisor.end_live()
            interval_s = min(PROGRESS_INTERVAL_S, max(0.001, left_s))
        note_finished()
        if progress is not None:
            progress(supervisor.statuses())
    if progress is not None:
        progress(supervisor.statuses())
    return False


def _nothing_found(found: FoundSources) -> StreamError:
    return StreamError(f"nothing to read: {'; '.join(error.message for error in found.errors)}", "Give video files or images.")
