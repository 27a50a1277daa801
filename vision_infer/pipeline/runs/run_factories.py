"""The parts of a run from its settings: engine, lanes, streams, supervisor."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from vision_infer.config.region import RegionFile, read_region
from vision_infer.config.run import RunSettings
from vision_infer.config.settings_base import InferenceSettings
from vision_infer.config.validation_errors import SettingsError, ValidationProblem
from vision_infer.config.zones import LineSettings, SceneSettings, ZoneSettings, ZonesFile, read_zones
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.core.packages import require
from vision_infer.engine.device import available_cpus, devices_of
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.store.cache import engine_dir
from vision_infer.model.catalog import model_inputs, resolve_model
from vision_infer.pipeline.add_stream import add_stream, check_secondary
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.lane import Lane, class_groups, classes_by_number, make_selector, scores_by_class
from vision_infer.pipeline.runs.outputs import OutputOptions
from vision_infer.pipeline.status import StreamEvent
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import LiveOptions, ReadOptions, SourceSpec

SECONDARY_BATCH = 32
"""The maximum batch size of a secondary model, whose input is crops."""
FILES_ONLY = ("track_index", "start", "end", "every", "resume")
CAMERAS_ONLY = ("live", "duration")


def output_options(settings: RunSettings) -> OutputOptions:
    """Return the options of the outputs."""
    rotate_bytes = None if settings.rotate_mb is None else max(1, round(settings.rotate_mb * 1e6))
    return OutputOptions(
        settings.formats,
        settings.crops,
        settings.preview_fps,
        settings.preview_size,
        rotate_bytes,
        settings.draw_labels,
        settings.sample,
        settings.samples,
    )


def read_options(settings: RunSettings) -> ReadOptions:
    """Return the options for reading each source."""
    return ReadOptions(settings.track_index, settings.start, settings.end, settings.keyframes_only, settings.max_pixels)


def check_sources(settings: RunSettings, sources: Sequence[SourceSpec]) -> bool:
    """Check that the settings suit the sources of a run; return whether the sources are live, not files.

    Raises:
        UsageError: There are live sources and files.
        SettingsError: A setting does not apply to this kind of source.
        MissingPackageError: A source needs a package that is not installed.
    """
    kinds = {source.kind == "live" for source in sources}
    if len(kinds) > 1:
        hint = "Run them separately: a run waits until all frames of its files are inferred, and a camera does not wait."
        raise UsageError("cameras and files cannot be read in one run", hint)
    live = True in kinds
    other, where = (FILES_ONLY, "files") if live else (CAMERAS_ONLY, "cameras")
    wrong = [name for name in other if getattr(settings, name) != RunSettings.model_fields[name].default]
    if wrong:
        text = f"{' and '.join(f'`{name}`' for name in wrong)} {'applies' if len(wrong) == 1 else 'apply'} to {where} only"
        better = {"every": "For cameras, use `fps`.", "duration": "For files, use `end`."}
        hint = " ".join(better[name] for name in wrong if name in better)
        raise SettingsError([ValidationProblem((), text)], hint or f"Leave {'it' if len(wrong) == 1 else 'them'} out.")
    if not live and settings.reidentify is not None and settings.reidentify.across:
        problem = ValidationProblem(("reidentify",), "across: applies to cameras only: files are read at different speeds")
        raise SettingsError([problem], "Leave out across. Each file then has its own identities.")
    if settings.zones is not None and any(source.kind == "images" for source in sources):
        hint = "Make a video of the frames first: ffmpeg -framerate 25 -i FOLDER/%06d.jpg frames.mp4"
        raise SettingsError([ValidationProblem(("zones",), "images have no times, which zones and lines need")], hint)
    for source in sources:
        if source.paths[0].startswith("test://"):
            require("the test pattern", "cv2")
        if settings.track and source.kind == "images" and not _is_sequence(source.paths):
            problem = ValidationProblem(("track",), f"the images of {source.name} are not a numbered sequence of frames")
            raise SettingsError([problem], "Leave it out, or name the images frame-0001.jpg, frame-0002.jpg and so on.")
    return live


def _is_sequence(paths: Sequence[str]) -> bool:
    """Return whether images are frames of a video by their names: the same text before numbers with a constant step."""
    names = [re.fullmatch(r"(.*?)([0-9]+)", Path(path).stem) for path in paths]
    found = [(name[1], int(name[2])) for name in names if name is not None]
    steps = {second - first for (_, first), (_, second) in pairwise(found)}
    return len(paths) == 1 or (len(found) == len(paths) and len({text for text, _ in found}) == 1 and len(steps) == 1)


def engine_request(settings: InferenceSettings) -> EngineRequest:
    """Return the request for the engines of the model, on one or more devices."""
    folder = engine_dir(settings.engine_dir, os.environ)
    return EngineRequest(settings.engine, settings.device, settings.workers, settings.threads, settings.batch, engine_dir=folder)


def request_on_one_device(settings: RunSettings) -> EngineRequest:
    """Return the request for one engine of the model: on the first device."""
    return replace(engine_request(settings), device=devices_of(settings.device)[0])


def model_graphs(settings: RunSettings) -> dict[Size, Path]:
    """Return the deployment graphs of the model by input size, its own size first.

    Raises:
        ModelError: There is no such model.
    """
    if settings.model.endswith(".onnx"):
        return {Size(1, 1): resolve_model(settings.model, settings.model_dir)}  # the size is in the file
    return model_inputs(settings.model, settings.model_dir)


def make_lane(engine: Engine, settings: RunSettings, size: Size | None = None) -> Lane:
    """Make a lane of the model.

    Args:
        engine: Runs its batches.
        settings: The settings of the run.
        size: The input size; None: the model's own.
    """
    card = engine.card
    per_class = scores_by_class(card, settings.per_class)
    groups = class_groups(card, settings.compared)
    selector = make_selector(card, settings.confidence, settings.iou, settings.classes, per_class, groups)
    name = "main" if size is None else f"main@{size}"
    return Lane(name, engine, selector, top=settings.top, group="main")


def secondary_request(settings: RunSettings) -> EngineRequest:
    """Return the request for the engine of the secondary model: large batches, because the crops of a frame arrive together."""
    request = engine_request(settings)
    return replace(request, engine="auto", batch=request.batch or SECONDARY_BATCH)


def make_secondary_lane(engine: Engine, settings: RunSettings) -> Lane:
    """Make the lane for the crops of detections.

    Raises:
        ModelError: The model is a detector.
    """
    try:
        check_secondary("secondary model", secondary=engine.card)
    except UsageError as error:
        raise ModelError(error.message, error.hint) from error
    return Lane("secondary", engine, make_selector(engine.card, None, None, None), top=settings.top)


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of a run."""

    region: RegionFile | None = None
    zones: ZonesFile | None = None


def read_shape_files(settings: RunSettings, sources: Sequence[SourceSpec]) -> Shapes:
    """Read the region, the zones and the lines of a run.

    Raises:
        UsageError: A file cannot be read or is invalid.
    """
    names = [source.name for source in sources]
    return Shapes(
        None if settings.region is None else read_region(settings.region, names),
        None if settings.zones is None else read_zones(settings.zones, names),
    )


def source_command(
    spec: SourceSpec, lane: Lane, settings: RunSettings, shapes: Shapes = Shapes(), outputs: tuple[OutputSpec, ...] = ()
) -> AddStream:
    """Return the command that adds a source to a run with these settings.

    Raises:
        UsageError: The model does not know a class of the settings, or of a zone or line.
    """
    scene = SceneSettings() if shapes.zones is None else shapes.zones.of(spec.name)
    # A camera is asked for sound only if its annotated video is written.
    live = LiveOptions(keyframes_only=settings.keyframes_only, audio=any(output.kind == "video" for output in outputs))
    places: list[ZoneSettings | LineSettings] = [*scene.zones.values(), *scene.lines.values()]
    for place in places:
        classes_by_number(lane.engine.card, place.classes)
    return add_stream(
        replace(spec, decode=settings.decode, live=live),
        lane,
        settings,
        outputs=outputs,
        every=settings.every,
        must_connect=True,
        region=None if shapes.region is None else shapes.region.of(spec.name),
        zones=scene.zones,
        lines=scene.lines,
        counts_interval_s=settings.counts_interval_s,
        secondary=None if settings.secondary is None else "secondary",
    )


def make_supervisor(
    lanes: Sequence[Lane],
    sources: int,
    shared: Sequence[Sink],
    hook: Hook | None = None,
    on_event: Callable[[StreamEvent], None] | None = None,
) -> Supervisor:
    """Make a supervisor for a run, with enough recorded sources open at the same time to keep the machine busy."""
    side_by_side = min(sources, files_at_once())
    decode_threads = max(1, available_cpus() // (2 * side_by_side))
    return Supervisor(lanes, shared, max_active=side_by_side, decode_threads=decode_threads, hook=hook, on_event=on_event)


def files_at_once() -> int:
    """Return the number of open files that keeps the machine busy."""
    return min(max(4, 2 * available_cpus()), 16)
