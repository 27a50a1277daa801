"""``--resume``: continue an interrupted run over the same sources, without lost or duplicate frames.

A run that writes files keeps a journal next to the first of them: a line with its settings, a line for each source that it is
going to read, and a line for each source that was read to its end and whose results were written. After a complete run the
journal is removed, unless the run has ``--resume``: then it stays, so that a later run over a folder with new files reads only
those.

The rows of an unfinished source are in the temporary file of the output, or in the file itself if the run was stopped by a
signal. JSONL has a row for each frame: the source continues after the last complete row. CSV has a row for each detection, so
the last frame may be incomplete: the source continues with that frame. With any other output, or with tracking, the source
starts again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vision_infer.config.run import RunSettings
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.runs.outputs import OutputPlan
from vision_infer.sink.files.output_file import output_error, partial_path
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream.source import SourceSpec

RESUMABLE = ("jsonl", "csv")
"""The kinds of output that can continue in the middle of a source."""

_WITHOUT_EFFECT = frozenset(
    {"sources", "resume", "overwrite", "workers", "threads", "batch", "model_dir", "engine_dir", "device", "telemetry"}
)
"""The settings that may differ: they change neither the results nor their location."""


Identity = list[list[Any]]
"""The path, size and modification time of each file of a source: a file with other content is another source."""


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """The remaining work."""

    finished: frozenset[str] = frozenset()
    """The names of the streams that are complete."""
    first_frame: dict[str, int] = field(default_factory=dict)
    """For each other stream, the first frame whose results are missing."""


@dataclass(frozen=True, slots=True)
class _EarlierRun:
    """The journal entries of an earlier run."""

    begun: dict[str, Identity] = field(default_factory=dict)
    finished: dict[str, Identity] = field(default_factory=dict)


class Journal:
    """The journal of a run.

    Args:
        path: The path of its file.
        settings: The settings on which the results depend.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = settings
        self._noted: set[str] = set()

    def begin(self, sources: Sequence[SourceSpec], resumed: bool) -> None:
        """Add the sources that are going to be read.

        Args:
            sources: All sources that are not finished.
            resumed: Whether to continue the existing journal instead of starting a new one.

        Raises:
            OutputError: The journal cannot be written.
        """
        lines = [{"begun": source.name, "files": identity(source)} for source in sources]
        if not resumed:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write("w", {"settings": self._settings})
        self._write("a", *lines)

    def has(self, source: SourceSpec) -> bool:
        """Return whether this run has added the source as finished."""
        return source.name in self._noted

    def finish(self, source: SourceSpec) -> None:
        """Add a source whose results are all written.

        Raises:
            OutputError: The journal cannot be written.
        """
        self._noted.add(source.name)
        self._write("a", {"finished": source.name, "files": identity(source)})

    def read(self) -> _EarlierRun | None:
        """Return the entries of an earlier run; None when there is no journal.

        Raises:
            UsageError: The journal belongs to a run with other settings.
            OutputError: The journal cannot be read.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise output_error(self.path, error) from error
        entries = list(_whole_lines(lines))
        if not entries or "settings" not in entries[0]:
            return None
        check_same_settings(entries[0]["settings"], self._settings)
        earlier = _EarlierRun()
        for entry in entries[1:]:
            for kind, noted in (("begun", earlier.begun), ("finished", earlier.finished)):
                if kind in entry:
                    noted[entry[kind]] = entry["files"]
        return earlier

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink()

    def _write(self, mode: str, *entries: dict[str, Any]) -> None:
        try:
            with self.path.open(mode, encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
        except OSError as error:
            output = self.path.name.removeprefix(".").removesuffix(".resume")  # the file that the user has given
            raise output_error(self.path.with_name(output), error) from error


def open_journal(settings: RunSettings, model: Path, plan: OutputPlan) -> Journal | None:
    """Return the journal of a run; None when the run writes no files."""
    paths = plan.paths()
    if not paths:
        return None
    first = Path(paths[0])
    return Journal(first.with_name(f".{first.name}.resume"), results_depend_on(settings, model))


def results_depend_on(settings: RunSettings, model: Path) -> dict[str, Any]:
    """Return the settings that must be the same in a resumed run, as plain values."""
    values: dict[str, Any] = json.loads(settings.model_dump_json(exclude=set(_WITHOUT_EFFECT)))
    if settings.region is not None:  # the polygons matter, not the name of their file
        values["region"] = hashlib.sha256(settings.region.read_bytes()).hexdigest()
    if settings.zones is not None:
        values["zones"] = hashlib.sha256(settings.zones.read_bytes()).hexdigest()
    return values | {"model": hashlib.sha256(model.read_bytes()).hexdigest()}


def check_same_settings(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run with settings that change the results.

    Raises:
        UsageError: Names the options that differ.
    """
    if changed := sorted(f"--{name.replace('_', '-')}" for name in {*before, *now} if before.get(name) != now.get(name)):
        what = f"--resume: these options differ from the earlier run: {', '.join(changed)}"
        raise UsageError(what, "Give the same options, or --overwrite instead of --resume to start again.")


def identity(source: SourceSpec) -> Identity:
    """Return the identity of a source. A path that is not a file has no size and no time."""
    files: Identity = []
    for path in source.paths:
        try:
            status = os.stat(path)
            files.append([path, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([path, None, None])
    return files


def plan_resume(journal: Journal, sources: Sequence[SourceSpec], plan: OutputPlan, remembers: bool) -> ResumePlan | None:
    """Determine the remaining work, and remove rows of incomplete frames from the outputs.

    Args:
        journal: The journal of the run.
        sources: All sources.
        plan: The outputs.
        remembers: Whether results depend on earlier frames (tracking, motion gate): then a source cannot continue in the middle.

    Returns:
        The remaining work; None when there was no earlier run.

    Raises:
        UsageError: The settings differ, or an output cannot be continued.
        OutputError: An output cannot be read or changed.
    """
    check_resumable(plan)
    earlier = journal.read()
    if earlier is None:
        return None
    known = {source.name: identity(source) for source in sources}
    finished = frozenset(name for name, files in known.items() if earlier.finished.get(name) == files)
    first_frame: dict[str, int] = {}
    for output in plan.shared:
        _take_back(output)
    for source in sources:
        if source.name in finished:
            continue
        own = plan.by_stream[source.name]
        for output in own:
            _take_back(output)
        outputs = (*own, *plan.shared)
        continues = earlier.begun.get(source.name) == known[source.name] and not remembers
        if continues and all(output.kind in RESUMABLE for output in outputs):
            first_frame[source.name] = min(_next_frame(output, source.name) for output in outputs)
        else:
            first_frame[source.name] = 0
    own_outputs = [output for name in first_frame for output in plan.by_stream[name]]
    for output in (*plan.shared, *own_outputs):
        if output.kind in RESUMABLE and partial_path(Path(output.path)).exists():
            # A stream that is no longer among the sources keeps its rows.
            _keep_rows(output, lambda name, frame: name not in first_frame or frame < first_frame[name])
    return ResumePlan(finished, first_frame)


def check_resumable(plan: OutputPlan) -> None:
    """Refuse outputs that cannot be continued.

    Raises:
        UsageError: Names the output.
    """
    if not plan.paths():
        raise UsageError("--resume: no file is written", "Add --out FILE.jsonl or --out FOLDER/")
    for output in plan.shared:
        if output.path == "-":
            raise UsageError("--resume: standard output cannot be continued", "Write --out FILE.jsonl")
        if output.kind not in RESUMABLE:
            raise UsageError(f"--resume: {output.path} cannot be continued", "Leave it out, or write rows to --out FOLDER/.")
    if any(output.rotate_bytes is not None for output in plan.specs()):
        raise UsageError("--resume: cannot be combined with --rotate-mb", "Leave one of them out.")


def _take_back(output: OutputSpec) -> None:
    """Rename the file of a run that was stopped back to its temporary name."""
    path = Path(output.path)
    if output.kind in RESUMABLE and path.exists() and not partial_path(path).exists():
        try:
            os.replace(path, partial_path(path))
        except OSError as error:
            raise output_error(path, error) from error


def _next_frame(output: OutputSpec, stream: str) -> int:
    """Return the first frame of a stream whose results are not complete in an output."""
    last = -1
    for _, name, frame in _rows(output):
        if name == stream:
            last = max(last, frame)
    # A CSV row does not show whether it is the last one of its frame.
    return last + 1 if output.kind == "jsonl" else max(0, last)


def _keep_rows(output: OutputSpec, keep: Callable[[str, int], bool]) -> None:
    partial = partial_path(Path(output.path))
    shorter = partial.with_name(f"{partial.name}.cut")
    try:
        with shorter.open("w", encoding="utf-8", newline="") as file:
            if output.kind == "csv":
                file.write(_csv_header(partial))
            file.writelines(line for line, name, frame in _rows(output) if keep(name, frame))
        os.replace(shorter, partial)
    except OSError as error:
        raise output_error(output.path, error) from error


def _rows(output: OutputSpec) -> Iterator[tuple[str, str, int]]:
    """Yield each complete row of an unfinished output: its text, its stream, its frame."""
    partial = partial_path(Path(output.path))
    try:
        file = partial.open(encoding="utf-8", newline="")
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(output.path, error) from error
    with file:
        yield from _json_rows(file, output.path) if output.kind == "jsonl" else _csv_rows(file)


def _json_rows(file: Any, where: str) -> Iterator[tuple[str, str, int]]:
    for number, line in enumerate(file, 1):
        if not line.endswith("\n"):
            return
        try:
            row = json.loads(line)
            yield line, str(row["stream"]), int(row["frame"])
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{where}: line {number} is not a result", "The file was changed. Start again with --overwrite."
            ) from error


def _csv_rows(file: Any) -> Iterator[tuple[str, str, int]]:
    pending: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            pending.append(line)
            yield line

    reader = csv.reader(lines())
    header = next(reader, [])
    pending.clear()
    for row in reader:
        text = "".join(pending)
        pending.clear()
        if not text.endswith("\n") or len(row) != len(header):
            return
        values = dict(zip(header, row, strict=True))
        yield text, values["stream"], int(values["frame"])


def _csv_header(partial: Path) -> str:
    with partial.open(encoding="utf-8", newline="") as file:
        return file.readline()


def _whole_lines(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            return  # the run was interrupted while it wrote this line
        if isinstance(entry, dict):
            yield entry


def with_resume(plan: OutputPlan, todo: ResumePlan) -> OutputPlan:
    """Return the outputs of the remaining work: those that can continue do so, the others start again."""

    def again(output: OutputSpec) -> OutputSpec:
        return replace(output, overwrite=True, resume=output.kind in RESUMABLE)

    shared = tuple(again(output) for output in plan.shared)
    return OutputPlan(shared, {name: tuple(again(output) for output in plan.by_stream[name]) for name in todo.first_frame})
