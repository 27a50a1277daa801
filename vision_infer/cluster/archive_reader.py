"""The reader of a node: it keeps one engine, and infers several files of an archive at the same time. It does not know Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision_infer.cluster.archive_files import ArchiveFile, OutputFolder, is_stored
from vision_infer.cluster.archive_plan import failed_mark
from vision_infer.cluster.archive_segments import SEGMENT_S, Copies, can_split, output_of, part_name
from vision_infer.config.run import RunSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import OutputError, VisionInferError
from vision_infer.pipeline.hooks.stage import check_hooks
from vision_infer.pipeline.runs.outputs import OutputPlan, check_task, plan_outputs
from vision_infer.pipeline.runs.run_factories import Shapes, files_at_once, output_options, read_options, source_command
from vision_infer.pipeline.runs.summary import source_summary, unread
from vision_infer.pipeline.runs.wiring import RunLanes, open_lanes, resolve_models
from vision_infer.pipeline.status import StreamEvent
from vision_infer.pipeline.stream_record import StreamRecord, progress_of
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.files.join import JOIN
from vision_infer.stream.files.segments import Segment, cut
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

MAX_FILES_AT_ONCE = 18
"""The maximum of :attr:`Opened.files_at_once`."""
_FOLDER = "vision-infer-archive-"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a reader is, once it is open; errors are plain values because they travel to another process."""

    files_at_once: int = 0
    """The number of files to hand to it: those that it infers, and of object storage two that it copies meanwhile."""
    error: tuple[str, str, int] | None = None
    """The message, the hint and the exit status of the reason why it cannot be used."""


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of a file."""

    source: dict[str, Any]
    """The part of the summary about the file."""
    exit_status: int = 0
    lost: str = ""
    """Why the reader cannot be used any longer; the file has to be read again."""
    segments: tuple[Segment, ...] = ()
    """The file is long and was not read: it has to be read in these segments."""
    read_whole: bool = False
    """Whether the segment could not be read, or was not as expected, so that the file has to be read as a whole."""


class ArchiveReader:
    """Infers files. :meth:`read` is called from several threads.

    Args:
        settings: The settings of the run.
        shapes: The regions, zones and lines.
        out: The path or URL of the folder of the outputs.
        segment_s: The minimum duration of a segment of a long file, seconds.
    """

    def __init__(self, settings: RunSettings, shapes: Shapes, out: str, segment_s: float = SEGMENT_S) -> None:
        self._settings = settings
        self._shapes = shapes
        self._out = out
        self._segment_s = segment_s
        self._splits = False
        self._parts = ExitStack()
        self._ended: dict[str, threading.Event] = {}
        self._lanes: RunLanes
        self._supervisor: Supervisor
        self._folder: OutputFolder
        self._copies: Copies

    def open(self) -> Opened:
        """Open the engine."""
        try:
            self._open()
        except VisionInferError as error:
            self.close()
            return Opened(error=(error.message, error.hint, error.exit_status))
        copied = any(is_stored(source) for source in self._settings.sources)
        return Opened(files_at_once() + (2 if copied else 0))

    def _open(self) -> None:
        from vision_infer.stream.image_size import limit_opencv

        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it; the number of threads is a setting of the run
        limit_opencv(self._settings.max_pixels)  # before cv2 is imported
        _remove_left_folders(Path(tempfile.gettempdir()))
        settings = self._settings
        check_hooks(settings.hook, SYSTEM_CLOCK)
        self._folder = OutputFolder(self._out)
        copies = self._parts.enter_context(tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-"))
        self._copies = Copies(Path(copies))
        models = resolve_models(settings)
        self._lanes = self._parts.enter_context(open_lanes(settings, models, (), lambda _: None))
        with tempfile.TemporaryDirectory() as folder:  # what is wrong with every file is reported once
            spec = SourceSpec("file", "video", ("file.mp4",))
            outputs = self._outputs(spec, Path(folder))
            self._splits = can_split(settings, outputs)
            check_task(outputs, self._lanes.lanes[0].engine.card, models.secondary is not None)
            source_command(spec, self._lanes.lanes[0], settings, self._shapes)
        supervise = self._lanes.supervise(files_at_once(), (), None, threading.Event(), self._on_event)
        self._supervisor = self._parts.enter_context(supervise)

    def read(self, file: ArchiveFile) -> FileOutcome:
        """Infer a file or a segment, and store its outputs, or join those of all segments; :meth:`open` was called."""
        folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        try:
            if file.part is not None:
                return self._read_segment(file, file.segments[file.part], folder)
            return self._join(file, folder) if file.segments and not file.whole else self._read(file, folder)
        except VisionInferError as error:
            source = unread(file.name, redact(file.url), "failed")
            return FileOutcome(source | {"error": str(error)}, error.exit_status, read_whole=file.part is not None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def fractions(self) -> dict[str, float]:
        """Return the approximate fraction of each open file that is decoded, 0–1."""
        return {record.name: progress_of([record]) or 0.0 for record in self._supervisor.records()}

    def close(self) -> None:
        """Stop what runs, and free the engine."""
        self._parts.close()

    def _read(self, file: ArchiveFile, folder: Path) -> FileOutcome:
        with self._copies.of(file) as path:
            spec = SourceSpec(file.name, "video", (path,), read=read_options(self._settings))
            segments = cut(spec, self._segment_s) if self._splits and not file.whole else ()
            if segments:
                self._copies.keep(file)
                return FileOutcome(unread(file.name, redact(file.url), "waiting"), segments=segments)
            record = self._infer(spec, file, folder)
        source = _with_url(source_summary(record), path, redact(file.url))
        if self._supervisor.error is not None:
            return FileOutcome(source, lost=str(self._supervisor.error))
        if record.error is not None:
            self._folder.write(failed_mark(file.name), f"{source['error']}\n".encode())
        for output in record.outputs:
            self._folder.store(Path(output.path))
        if file.segments:
            names = self._output_names(file, folder)
            self._folder.remove(name for name in self._folder.names() if output_of(name) in names)
        return FileOutcome(source, 0 if record.error is None else record.error.exit_status)

    def _read_segment(self, file: ArchiveFile, segment: Segment, folder: Path) -> FileOutcome:
        with self._copies.of(file) as path:
            spec = SourceSpec(file.key, "video", (path,), read=segment.options(read_options(self._settings)))
            record = self._infer(spec, file, folder)
        source = _with_url(source_summary(record), path, redact(file.url))
        if self._supervisor.error is not None:
            return FileOutcome(source, lost=str(self._supervisor.error))
        # The decoder shows whether the file can be separated here. Of a damaged file, the rows next to the damage may differ.
        if record.error is not None or record.decoded != segment.frames or source["gaps"] or source["damaged"]:
            return FileOutcome(source, read_whole=True)
        for output in record.outputs:
            part = Path(output.path)
            self._folder.store(part.rename(part.with_name(part_name(part.name, segment))))
        return FileOutcome(source)

    def _join(self, file: ArchiveFile, folder: Path) -> FileOutcome:
        """Join the outputs of the segments. What is complete already was joined by a reader that was lost meanwhile."""
        done = self._folder.names()
        for name, kind in self._output_names(file, folder).items():
            parts = [part_name(name, segment) for segment in file.segments]
            if done.issuperset(parts):
                for part in parts:
                    self._folder.load(part, folder / part)
                JOIN[kind]([folder / part for part in parts], folder / name)
                self._folder.store(folder / name)
            elif name not in done:
                raise OutputError(f"{name}: the outputs of its segments were removed", "Run again with --resume.")
            self._folder.remove(done.intersection(parts))
        return FileOutcome(unread(file.name, redact(file.url), "ended"))

    def _infer(self, spec: SourceSpec, file: ArchiveFile, folder: Path) -> StreamRecord:
        """Infer a file, or a part of it, and return its record; its outputs are in the folder."""
        outputs = self._outputs(replace(spec, name=file.name), folder).by_stream[file.name]
        ended = self._ended[spec.name] = threading.Event()
        named = replace(spec, name=file.name)
        command = source_command(named, self._lanes.lanes[0], self._settings, self._shapes, outputs)
        self._supervisor.add(replace(command, source=replace(command.source, name=spec.name), row_stream=file.name))
        ended.wait()
        del self._ended[spec.name]
        record = next(record for record in self._supervisor.records() if record.name == spec.name)
        self._supervisor.remove(spec.name, forget=True)
        return record

    def _output_names(self, file: ArchiveFile, folder: Path) -> dict[str, str]:
        """Return the kinds of the outputs of a file, by name."""
        outputs = self._outputs(SourceSpec(file.name, "video", ("file.mp4",)), folder)
        return {Path(output.path).name: output.kind for output in outputs.specs()}

    def _outputs(self, spec: SourceSpec, folder: Path) -> OutputPlan:
        return plan_outputs((f"{folder}/out/",), [spec], True, output_options(self._settings))

    def _on_event(self, event: StreamEvent) -> None:
        ended = self._ended.get(event.stream)
        if event.state.final and ended is not None:
            ended.set()


def _with_url(source: dict[str, Any], path: str, shown: str) -> dict[str, Any]:
    """Return the summary of a source with its URL instead of its copy."""

    def named(text: str | None) -> str | None:
        return None if text is None else text.replace(path, shown)

    return source | {"source": shown, "error": named(source["error"]), "warnings": [named(text) for text in source["warnings"]]}


def _remove_left_folders(parent: Path) -> None:
    """Remove the copies of readers that were killed."""
    for folder in parent.glob(f"{_FOLDER}*"):
        number = folder.name.removeprefix(_FOLDER).partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue
