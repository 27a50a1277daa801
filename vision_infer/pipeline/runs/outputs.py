"""What ``--out`` and its like mean: which sinks for which stream."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.sink.files.output_file import check_output
from vision_infer.sink.sink import OutputKind, OutputSpec, Sink
from vision_infer.stream.source import Source, SourceSpec

FORMATS: Mapping[str, OutputKind] = {
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "json": "coco",
    "txt": "mot",
    "mp4": "video",
    "jpg": "pictures",
}
"""what ``--formats`` knows: the suffix, and the sink"""
_SHARED = ("jsonl", "csv", "parquet", "json")
"""suffixes of files that take the rows of all streams"""
_DEFAULT = ("jsonl", "mp4", "jpg")
_KNOWN = "give FILE.jsonl, .csv, .parquet, .json (COCO), .txt (MOT), .mp4, FOLDER/ or -"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What more is said about the outputs."""

    formats: tuple[str, ...] | None = None
    """what a folder gets for each source; None: rows and what is drawn"""
    crops: Path | None = None
    """folder of cut-out detections"""
    preview_fps: float | None = None
    """most frames a second of annotated video"""
    preview_height: int | None = None
    """of annotated video, pixels"""
    rotate_bytes: int | None = None
    """largest JSONL file"""


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """The outputs of a run."""

    shared: tuple[OutputSpec, ...]
    """take the rows of all streams"""
    by_stream: dict[str, tuple[OutputSpec, ...]]

    def specs(self) -> list[OutputSpec]:
        """All outputs."""
        return [*self.shared, *(output for outputs in self.by_stream.values() for output in outputs)]

    def paths(self) -> list[str]:
        """Every file or folder that will be written, standard output left out."""
        return [path for output in self.specs() for path in _paths(output)]


def plan_outputs(
    outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool, options: OutputOptions | None = None
) -> OutputPlan:
    """Find out what to write where, and refuse what could not be written, before any work is done.

    Raises:
        UsageError: an output of no known kind, given twice, one for one source with several, or options that mean nothing here.
        OutputError: it exists already (without ``overwrite``) or cannot be written.
    """
    planner = _Planner(sources, overwrite, options or OutputOptions())
    for out in outs:
        planner.add(out)
    planner.add_crops()
    planner.check_options(outs)
    plan = OutputPlan(tuple(planner.shared), {name: tuple(outputs) for name, outputs in planner.by_stream.items()})
    _check(plan, outs, sources, overwrite)
    return plan


class _Planner:
    def __init__(self, sources: Sequence[SourceSpec], overwrite: bool, options: OutputOptions) -> None:
        self._sources = sources
        self._overwrite = overwrite
        self._options = options
        self._formats = _formats(options.formats)
        self.shared: list[OutputSpec] = []
        self.by_stream: dict[str, list[OutputSpec]] = {source.name: [] for source in sources}

    def add(self, out: str) -> None:
        """Plan one ``--out``."""
        suffix = Path(out).suffix.lower()[1:]
        if out == "-":
            self.shared.append(OutputSpec("jsonl", out, self._overwrite))
        elif _is_folder(out):
            for source in self._sources:
                self.by_stream[source.name] += self._set_of(source, out)
        elif suffix in _SHARED:
            self.shared.append(self._spec(suffix, out, self._sources))
        elif suffix in ("mp4", "txt"):
            self._add_single(suffix, out)
        else:
            raise UsageError(f"--out {out}: no such kind of output", _KNOWN)

    def add_crops(self) -> None:
        """Plan ``--crops``."""
        folder = self._options.crops
        if folder is not None:
            for source in self._sources:
                self.by_stream[source.name].append(OutputSpec("crops", str(folder), self._overwrite))

    def check_options(self, outs: Sequence[str]) -> None:
        """Refuse an option that has no effect: whoever gave it expects one."""
        kinds = {output.kind for outputs in self.by_stream.values() for output in outputs} | {one.kind for one in self.shared}
        files = any(output.kind == "jsonl" and output.path != "-" for output in OutputPlan(tuple(self.shared), {}).specs())
        rows = files or any(one.kind == "jsonl" for outputs in self.by_stream.values() for one in outputs)
        options = self._options
        if options.formats is not None and not any(_is_folder(out) for out in outs):
            raise UsageError("--formats: no --out is a folder", "add --out FOLDER/")
        if options.preview_fps is not None and "video" not in kinds:
            raise UsageError("--preview-fps: no annotated video is written", "add --out FILE.mp4 or --out FOLDER/")
        if options.preview_height is not None and "video" not in kinds:
            raise UsageError("--preview-size: no annotated video is written", "add --out FILE.mp4 or --out FOLDER/")
        if options.rotate_bytes is not None and not rows:
            raise UsageError("--rotate-mb: no JSONL file is written", "add --out FILE.jsonl or --out FOLDER/")

    def _add_single(self, suffix: str, out: str) -> None:
        if len(self._sources) != 1:
            what = "video" if suffix == "mp4" else "MOT file"
            raise UsageError(f"{out}: one {what} cannot hold {len(self._sources)} sources", self._folder_hint(suffix))
        if suffix == "mp4" and self._sources[0].kind != "video":
            raise UsageError(f"{out}: pictures have no frame rate", "write --out FOLDER/ for annotated pictures")
        self.by_stream[self._sources[0].name].append(self._spec(suffix, out, self._sources))

    def _folder_hint(self, suffix: str) -> str:
        return f"write --out FOLDER/{'' if suffix == 'mp4' else f' --formats {suffix}'} for one each"

    def _set_of(self, source: SourceSpec, folder: str) -> list[OutputSpec]:
        base = os.path.join(folder, source.name)
        drawn = "mp4" if source.kind == "video" else "jpg"
        made = []
        for suffix in self._formats:
            if suffix == "jpg" and drawn == "jpg" and source.folder:
                made.append(OutputSpec("pictures", base, self._overwrite))
            elif suffix not in ("mp4", "jpg") or suffix == drawn:
                made.append(self._spec(suffix, f"{base}.{suffix}", [source]))
        if not made:
            given = ",".join(self._formats)
            raise UsageError(f"--formats {given}: gives {source.name} nothing", "mp4 is for videos, jpg for pictures")
        return made

    def _spec(self, suffix: str, path: str, sources: Sequence[SourceSpec]) -> OutputSpec:
        kind, options = FORMATS[suffix], self._options
        return OutputSpec(
            kind,
            path,
            self._overwrite,
            rotate_bytes=options.rotate_bytes if kind == "jsonl" else None,
            fps=options.preview_fps if kind == "video" else None,
            height=options.preview_height if kind == "video" else None,
            numbered=kind == "coco" and _are_numbered(sources),
        )


def check_task(plan: OutputPlan, card: ModelCard, secondary: bool) -> None:
    """Refuse what makes no sense with a network for another task than detection, before any work is done.

    Args:
        plan: must be able to hold its results.
        card: of the network.
        then: whether a second one shall look at its detections.

    Raises:
        UsageError: names the output, or ``--secondary``.
    """
    if card.task == "detect":
        return
    if secondary:
        raise UsageError(f"--secondary: {card.name} is a network for '{card.task}' and finds nothing to look at", "leave it out")
    for output in plan.specs():
        if output.kind in ("coco", "mot", "crops") or (output.kind == "csv" and card.task == "embed"):
            what = "embeddings" if output.kind == "csv" else "results without boxes"
            raise UsageError(
                f"{output.path}: {output.kind.upper()} cannot hold {what}: {card.name} is a network for '{card.task}'",
                "write --out FILE.jsonl or --out FILE.parquet",
            )


def open_sink(output: OutputSpec, source: Source | None) -> Sink:
    """Open a sink.

    Args:
        output: what to open.
        source: the stream that it is for; None for a sink of all streams.

    Raises:
        OutputError: it cannot be written.
    """
    rows = _open_rows(output)
    if rows is not None:
        return rows
    if output.kind == "crops":
        from vision_infer.sink.files.crops import CropsSink

        return CropsSink(output, "all" if source is None else source.spec.name)
    from vision_infer.analyze.draw import Drawer

    if source is None or output.kind == "pictures":
        from vision_infer.sink.files.images import ImagesSink

        return ImagesSink(output, Drawer())
    from vision_infer.sink.files.video import VideoSink

    info = source.info
    return VideoSink(output, Drawer(), source.spec.paths[0] if info.has_audio else None, info.frame_rate, info.time_base)


def _open_rows(output: OutputSpec) -> Sink | None:
    """The sink of an output that needs no pictures."""
    if output.kind == "jsonl":
        from vision_infer.sink.files.jsonl import JsonlSink

        return JsonlSink(output)
    if output.kind == "csv":
        from vision_infer.sink.files.csv_rows import CsvSink

        return CsvSink(output)
    if output.kind == "parquet":
        from vision_infer.sink.files.parquet import ParquetSink

        return ParquetSink(output)
    if output.kind == "coco":
        from vision_infer.sink.files.coco import CocoSink

        return CocoSink(output)
    if output.kind == "mot":
        from vision_infer.sink.files.mot import MotSink

        return MotSink(output)
    return None


def _formats(given: tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return _DEFAULT
    names = [name.lower().lstrip(".") for name in given]
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"--formats {name}: no such format", f"there are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out)


def _are_numbered(sources: Sequence[SourceSpec]) -> bool:
    """Whether every picture's own name is a whole number, each another: then they are the numbers that COCO knows them by."""
    from vision_infer.sink.files.coco import whole_number

    if any(source.kind != "images" for source in sources):
        return False
    numbers = [whole_number(path) for source in sources for path in source.paths]
    alone = all(whole_number(source.name) is not None for source in sources if not source.folder)
    return alone and None not in numbers and len(set(numbers)) == len(numbers)


def _paths(output: OutputSpec) -> list[str]:
    if output.path == "-":
        return []
    if output.kind == "coco":
        from vision_infer.sink.files.coco import images_path

        return [output.path, images_path(output.path)]
    return [output.path]


def _check(plan: OutputPlan, outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool) -> None:
    inputs = {os.path.realpath(path) for source in sources for path in source.paths}
    seen: set[str] = set()
    if list(outs).count("-") > 1:
        raise UsageError("--out -: given twice", "give it once")
    folders = {
        output.path for source in sources if source.folder for output in plan.by_stream[source.name] if output.kind == "pictures"
    }
    read_from = {os.path.dirname(path) for path in inputs}
    for path in [path for output in plan.specs() if output.kind != "crops" for path in _paths(output)]:
        real = os.path.realpath(path)
        if path in folders and real in read_from:
            raise UsageError(f"--out {path}: the pictures of this run are read from there", "choose another folder")
        if real in seen:
            raise UsageError(f"--out {path}: given twice", "give each output once")
        if real in inputs:
            raise UsageError(f"--out {path}: is a source of this run", "choose another name")
        seen.add(real)
        if path not in folders:
            check_output(Path(path), overwrite)
    if any(output.kind == "parquet" for output in plan.specs()):
        from vision_infer.sink.files.parquet import require_pyarrow

        require_pyarrow()
    for source in sources:
        for output in plan.by_stream[source.name]:
            if output.kind == "crops":
                _check_crops(output, source.name, inputs, overwrite)
            elif output.kind == "jsonl" and output.rotate_bytes is not None:
                _check_second_part(output)
    for output in plan.shared:
        if output.rotate_bytes is not None:
            _check_second_part(output)
    _check_parts(plan)


def _check_crops(output: OutputSpec, stream: str, inputs: set[str], overwrite: bool) -> None:
    from vision_infer.sink.files.crops import crops_folder

    folder = crops_folder(output.path, stream)
    real = os.path.realpath(folder)
    if any(path.startswith(real + os.sep) for path in inputs):
        raise UsageError(f"--crops {output.path}: the pictures of this run are read from {folder}", "choose another folder")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise OutputError(f"{folder}: exists already", "add --overwrite to write into it, or choose another --crops")
    check_output(folder / "label" / "crop.jpg", overwrite)


def _check_parts(plan: OutputPlan) -> None:
    """Refuse that a part of one output has the name of another: of two sources called clip the second is clip-2."""
    others = {os.path.realpath(path) for path in plan.paths()}
    for output in plan.specs():
        if output.rotate_bytes is not None:
            path = Path(os.path.realpath(output.path))
            part = re.compile(re.escape(f"{path.parent / path.stem}-") + r"[0-9]+" + re.escape(path.suffix))
            for other in filter(part.fullmatch, others):
                raise UsageError(
                    f"--rotate-mb: a part of {output.path} would be called {os.path.basename(other)}, as another output is",
                    "leave --rotate-mb out, or run these sources apart",
                )


def _check_second_part(output: OutputSpec) -> None:
    from vision_infer.sink.files.jsonl import rotated

    check_output(Path(rotated(output.path, 2)), output.overwrite)
