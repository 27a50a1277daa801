"""The outputs of a run: which sinks ``--out``, ``--formats`` and ``--crops`` mean for which stream."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_infer.core.card import ModelCard
from vision_infer.core.detections import LabelText
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.pipeline.add_stream import check_secondary
from vision_infer.sink.datasets.sample import Difference
from vision_infer.sink.files.output_file import check_new_folder, check_output
from vision_infer.sink.formats import FORMATS, OutputFormat, format_by_suffix, format_of, known_suffixes
from vision_infer.sink.live_sound import LiveSound
from vision_infer.sink.sink import Draw, OutputSpec, Sink, SinkStream
from vision_infer.stream.source import Source, SourceSpec

_DEFAULT = ("jsonl", "mp4", "jpg")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The options of the outputs."""

    formats: tuple[str, ...] | None = None
    """The formats that a folder gets for each source; None: rows and annotated video or images."""
    crops: Path | None = None
    """The folder for cut-out detections."""
    preview_fps: float | None = None
    """The maximum frame rate of annotated video."""
    preview_height: int | None = None
    """The height of annotated video, pixels."""
    rotate_bytes: int | None = None
    """The maximum size of a JSONL file, bytes."""
    labels: LabelText | None = None
    """The text at the boxes of annotated video and images; None: labels with scores."""
    sample: str | None = None
    """The choice of the frames of datasets; None: all frames."""
    samples: int | None = None
    """The maximum number of chosen frames."""

    def of(self, name: str) -> Any:
        """Return the value for an optional field of :class:`OutputSpec`."""
        values = {
            "rotate_bytes": self.rotate_bytes,
            "fps": self.preview_fps,
            "height": self.preview_height,
            "labels": self.labels,
            "sample": self.sample,
            "samples": self.samples,
        }
        return values[name]


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """The outputs of a run."""

    shared: tuple[OutputSpec, ...]
    """The outputs that take the rows of all streams."""
    by_stream: dict[str, tuple[OutputSpec, ...]]

    def specs(self) -> list[OutputSpec]:
        """Return all outputs."""
        return [*self.shared, *(output for outputs in self.by_stream.values() for output in outputs)]

    def paths(self) -> list[str]:
        """Return every file or folder that will be written, except standard output."""
        return [output.path for output in self.specs() if output.path != "-"]


def plan_outputs(
    outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool, options: OutputOptions | None = None
) -> OutputPlan:
    """Determine what is written where, and refuse what cannot be written, before any work is done.

    Raises:
        UsageError: An output has an unknown format, is given twice, cannot hold several sources, or an option has no effect.
        OutputError: An output exists already (without ``overwrite``) or cannot be written.
    """
    planner = _Planner(sources, overwrite, options or OutputOptions())
    for out in outs:
        planner.add(out)
    planner.add_crops()
    plan = OutputPlan(tuple(planner.shared), {name: tuple(outputs) for name, outputs in planner.by_stream.items()})
    planner.check_options(outs, plan)
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
        found = format_by_suffix(Path(out).suffix.lower()[1:])
        if out == "-":
            self.shared.append(OutputSpec("jsonl", out, self._overwrite))
        elif _is_folder(out):
            for source in self._sources:
                self.by_stream[source.name] += self._set_of(source, out)
            folders = [entry for entry in self._formats if entry.folder]
            self.shared += [self._spec(entry, os.path.join(out, str(entry.suffix)), self._sources) for entry in folders]
        elif found is not None and found.shared:
            self.shared.append(self._spec(found, out, self._sources))
        elif found is not None and found.file is not None:
            self._add_single(found, out)
        else:
            known = ", ".join(f".{entry.suffix}" for entry in FORMATS if entry.shared or entry.file is not None)
            raise UsageError(f"--out {out}: unknown format", f"Write --out FILE{known}, FOLDER/ or -.")

    def add_crops(self) -> None:
        """Plan ``--crops``."""
        folder = self._options.crops
        if folder is not None:
            for source in self._sources:
                self.by_stream[source.name].append(OutputSpec("crops", str(folder), self._overwrite))

    def check_options(self, outs: Sequence[str], plan: OutputPlan) -> None:
        """Refuse an option that has no effect."""
        if self._options.formats is not None and not any(_is_folder(out) for out in outs):
            raise UsageError("--formats: no --out is a folder", "Add --out FOLDER/")
        used = {name for output in plan.specs() if output.path != "-" for name in format_of(output.kind).options}
        for option, name, output, suffix in (
            ("--preview-fps", "fps", "annotated video", "mp4"),
            ("--preview-size", "height", "annotated video", "mp4"),
            ("--draw-labels", "labels", "annotated video or image", "mp4"),
            ("--rotate-mb", "rotate_bytes", "JSONL file", "jsonl"),
            ("--sample", "sample", "dataset", None),
            ("--samples", "samples", "dataset", None),
        ):
            if self._options.of(name) is not None and name not in used:
                hint = f"Add --out FILE.{suffix} or --out FOLDER/" if suffix else "Add --out FOLDER/ --formats yolo"
                raise UsageError(f"{option}: no {output} is written", hint)

    def _add_single(self, found: OutputFormat, out: str) -> None:
        if len(self._sources) != 1:
            formats = "" if found.suffix in _DEFAULT else f" --formats {found.suffix}"
            message = f"{out}: one {found.file} cannot hold {len(self._sources)} sources"
            raise UsageError(message, f"Write --out FOLDER/{formats} for one each.")
        (source,) = self._sources
        if found.sources not in (None, _images_or_video(source)):
            raise UsageError(f"{out}: images have no frame rate", "Write --out FOLDER/ for annotated images.")
        self.by_stream[source.name].append(self._spec(found, out, self._sources))

    def _set_of(self, source: SourceSpec, folder: str) -> list[OutputSpec]:
        base = os.path.join(folder, source.name)
        specs = [
            # The images of a folder go into a folder.
            self._spec(found, base if found.kind == "images" and source.folder else f"{base}.{found.suffix}", [source])
            for found in self._formats
            if found.sources in (None, _images_or_video(source)) and not found.folder
        ]
        if not specs and not any(found.folder for found in self._formats):
            given = ",".join(str(found.suffix) for found in self._formats)
            raise UsageError(f"--formats {given}: gives {source.name} nothing", "mp4 is for videos, jpg for images")
        return specs

    def _spec(self, found: OutputFormat, path: str, sources: Sequence[SourceSpec]) -> OutputSpec:
        of_sources: dict[str, Callable[[Sequence[SourceSpec]], Any]] = {"numbered": _are_numbered, "file_names": _file_names}
        values = {name: of_sources[name](sources) if name in of_sources else self._options.of(name) for name in found.options}
        return OutputSpec(found.kind, path, self._overwrite, **values)


def check_task(plan: OutputPlan, card: ModelCard, secondary: bool) -> None:
    """Refuse outputs that cannot hold the results of a model, before any work is done.

    Args:
        plan: The outputs.
        card: The card of the model.
        secondary: Whether a secondary model is to process its detections.

    Raises:
        UsageError: Names the output, or ``--secondary``.
    """
    if secondary:
        check_secondary("--secondary", card)
    for output in plan.specs():
        if card.task not in format_of(output.kind).tasks:
            raise UsageError(
                f"{output.path}: {output.kind.upper()} cannot hold its results: {card.name} is a model for '{card.task}'",
                "Write --out FILE.jsonl" + " or --out FILE.parquet" * (card.task in format_of("parquet").tasks),
            )


def open_sink(
    output: OutputSpec,
    source: Source | None,
    name: str = "all",
    sound: LiveSound | None = None,
    difference: Difference | None = None,
) -> Sink:
    """Open a sink.

    Args:
        output: The output to open.
        source: The source of its stream; None for a sink of all streams, and for a live stream, which is not connected yet.
        name: The name of a live stream.
        sound: The sound of a live stream.
        difference: For a sink of all streams: compares a result with that of another model.

    Raises:
        OutputError: It cannot be written.
    """
    stream = SinkStream(_draw, name, sound, difference=difference)
    if source is not None:
        info, spec = source.info, source.spec
        stream = SinkStream(_draw, spec.name, spec.paths[0] if info.has_audio else None, info.frame_rate, info.time_base)
    return format_of(output.kind).open(output, stream)


def _draw(labels: LabelText) -> Draw:
    from vision_infer.analyze.draw import Drawer

    return Drawer(labels)


def _formats(given: tuple[str, ...] | None) -> list[OutputFormat]:
    found = []
    for name in _DEFAULT if given is None else dict.fromkeys(name.lower().lstrip(".") for name in given):
        entry = format_by_suffix(name)
        if entry is None:
            known = ", ".join(known_suffixes())
            raise UsageError(f"--formats {name}: unknown format", f"the formats are {known}")
        found.append(entry)
    return found


def _images_or_video(source: SourceSpec) -> str:
    return "images" if source.kind == "images" else "video"


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out)


def _are_numbered(sources: Sequence[SourceSpec]) -> bool:
    """Return whether the name of every image is a different whole number: COCO's number of the image."""
    from vision_infer.sink.files.coco import whole_number

    if any(source.kind != "images" for source in sources):
        return False
    numbers = [whole_number(path) for source in sources for path in source.paths]
    alone = all(whole_number(source.name) is not None for source in sources if not source.folder)
    return alone and None not in numbers and len(set(numbers)) == len(numbers)


def _file_names(sources: Sequence[SourceSpec]) -> dict[str, str]:
    """Return the file names of the sources that are single images, by stream."""
    return {source.name: Path(source.paths[0]).name for source in sources if source.kind == "images" and not source.folder}


def _check(plan: OutputPlan, outs: Sequence[str], sources: Sequence[SourceSpec], overwrite: bool) -> None:
    """Refuse outputs that collide with each other, with a source, or with what exists."""
    if list(outs).count("-") > 1:
        raise UsageError("--out -: given twice", "Give it once.")
    inputs = {os.path.realpath(path) for source in sources for path in source.paths}
    folders = {
        output.path for source in sources if source.folder for output in plan.by_stream[source.name] if output.kind == "images"
    }
    datasets = {output.path for output in plan.shared if format_of(output.kind).folder}
    seen: set[str] = set()
    for path in [output.path for output in plan.specs() if output.kind != "crops" and output.path != "-"]:
        _check_path(path, inputs, seen, is_folder=path in folders)
        if path in datasets:
            check_new_folder(Path(path))
        elif path not in folders:
            check_output(Path(path), overwrite)
    for source in sources:
        for output in plan.by_stream[source.name]:
            if output.kind == "crops":
                _check_crops(output, source.name, inputs, overwrite)
    for output in plan.specs():
        format_of(output.kind).load()
        if output.rotate_bytes is not None:
            _check_parts(output, plan)


def _check_path(path: str, inputs: set[str], seen: set[str], is_folder: bool) -> None:
    real = os.path.realpath(path)
    if is_folder and real in {os.path.dirname(source) for source in inputs}:
        raise UsageError(f"--out {path}: the images of this run are read from there", "Choose another folder.")
    if real in seen:
        raise UsageError(f"--out {path}: given twice", "Give each output once.")
    if real in inputs:
        raise UsageError(f"--out {path}: is a source of this run", "Choose another name.")
    seen.add(real)


def _check_crops(output: OutputSpec, stream: str, inputs: set[str], overwrite: bool) -> None:
    from vision_infer.sink.files.crops import crops_folder

    folder = crops_folder(output.path, stream)
    real = os.path.realpath(folder)
    if any(path.startswith(real + os.sep) for path in inputs):
        raise UsageError(f"--crops {output.path}: the images of this run are read from {folder}", "Choose another folder.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise OutputError(f"{folder}: exists already", "Add --overwrite to write into it, or choose another --crops.")
    check_output(folder / "label" / "crop.jpg", overwrite)


def _check_parts(output: OutputSpec, plan: OutputPlan) -> None:
    """Refuse a second part that exists, or that has the name of another output: of two sources called clip one is clip-2."""
    from vision_infer.sink.files.jsonl import rotated

    check_output(Path(rotated(output.path, 2)), output.overwrite)
    path = Path(os.path.realpath(output.path))
    part = re.compile(re.escape(f"{path.parent / path.stem}-") + r"[0-9]+" + re.escape(path.suffix))
    for other in filter(part.fullmatch, sorted(os.path.realpath(path) for path in plan.paths())):
        raise UsageError(
            f"--rotate-mb: a part of {output.path} would be called {os.path.basename(other)}, as another output is",
            "Leave --rotate-mb out, or run these sources separately.",
        )
