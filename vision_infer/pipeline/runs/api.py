"""The Python interface: ``Detector`` for images, ``Pipeline`` for video."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

import numpy as np

from vision_infer.analyze.describe import TOP
from vision_infer.analyze.region import Filter
from vision_infer.analyze.tiling import Tiling
from vision_infer.config.region import read_region
from vision_infer.config.run import DEFAULT_MODEL, RunSettings, run_settings
from vision_infer.config.zones import read_zones
from vision_infer.core.detections import Detection as Detection
from vision_infer.core.detections import Detections
from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import open_engine
from vision_infer.engine.registry import parse_engine_name
from vision_infer.model.catalog import model_card, resolve_model
from vision_infer.pipeline.add_stream import check_embeddings, check_secondary
from vision_infer.pipeline.channel import ResultChannel
from vision_infer.pipeline.hooks.frame import HookFrame as HookFrame
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.lane import Lane, make_selector, scores_by_class
from vision_infer.pipeline.runs.detect import detect, detect_tiles
from vision_infer.pipeline.runs.image_input import ImageInput, image_of
from vision_infer.pipeline.runs.results import Results
from vision_infer.pipeline.runs.run_factories import (
    Shapes,
    check_sources,
    make_lane,
    read_shape_files,
    request_on_one_device,
    source_command,
)
from vision_infer.pipeline.runs.wiring import open_lanes, resolve_models
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.find import FoundSources, find_sources

_log = logging.getLogger("vision_infer.pipeline")
_LOST = (StreamState.STALLED, StreamState.BACKING_OFF, StreamState.REFUSED, StreamState.FAILED)


AnyImage = TypeVar("AnyImage", bound=ImageInput)
"""One kind of image: to a type checker, a ``list[NDArray]`` is not a ``list[ImageInput]``."""


class Detector:
    """Detects objects in images.

    The first call loads the engine. :meth:`close`, or the end of the context manager, frees it. Calls from several threads run
    one after the other.

    Args:
        model: The name of a model, or the path of a deployment graph (.onnx).
        confidence: The minimum confidence. Defaults to the model card's value.
        iou: The IoU threshold for non-maximum suppression. Defaults to the model card's value.
        classes: The labels of the classes to report, or one label. Defaults to all.
        per_class: The minimum confidence of single classes, higher or lower than ``confidence``: ``{"person": 0.5}``.
        min_size: The minimum width and height of a box, pixels of the image.
        region: A YAML file with polygons to include and to ignore. A ``Pipeline`` also uses the polygons of single streams.
        tiles: Cut each image into tiles, to find small objects: the size of a tile in pixels, ``"2x3"`` (rows and columns), or
            ``{"size": 640, "overlap": 0.2, "whole": True}``.
        crop_region: Whether to infer only the rectangle around the polygons to include, with a margin.
        device: ``auto``, ``cpu``, ``cuda:N``, several such as ``cuda:0,cuda:1``, or ``all`` GPUs. Images go to the first.
        engine: ``auto``, or the name of an engine.
        threads: The number of CPU threads for each image. Defaults to all CPUs, for the lowest latency.
        model_dir: The folder of your models. Defaults to ``VISION_INFER_HOME``/models.

    Raises:
        VisionInferError: A setting is invalid: it is out of its range, or the model, a class, the region file, the device or the
            engine does not exist.
    """

    def __init__(
        self,
        model: str | PathLike[str] = DEFAULT_MODEL,
        *,
        confidence: float | None = None,
        iou: float | None = None,
        classes: str | Sequence[str] | None = None,
        per_class: Mapping[str, float] | None = None,
        min_size: float = 0.0,
        region: str | PathLike[str] | None = None,
        tiles: int | str | Mapping[str, float] | None = None,
        crop_region: bool = False,
        device: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        model_dir: Path | None = None,
    ) -> None:
        self.settings = run_settings(
            sources=("-",),
            model=str(model),
            model_dir=model_dir,
            confidence=confidence,
            iou=iou,
            classes=(classes,) if isinstance(classes, str) else None if classes is None else tuple(classes),
            per_class=dict(per_class or {}),
            min_size=min_size,
            region=None if region is None else Path(region),
            tiles=tiles,
            crop_region=crop_region,
            device=device,
            engine=engine,
            threads=threads,
        )
        self.path = resolve_model(self.settings.model, model_dir)
        self._card = model_card(self.settings.model, model_dir)
        self._keep, self._tiling = self._check()
        self._engine: Engine | None = None
        self._lane: Lane | None = None
        # Guards the engine, which runs one batch at a time. A call holds it until its detections are complete.
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the model by class number; empty if it has none."""
        return self._card.labels or ()

    @overload
    def __call__(self, images: ImageInput) -> Detections: ...
    @overload
    def __call__(self, images: list[AnyImage] | tuple[AnyImage, ...]) -> list[Detections]: ...

    def __call__(self, images: ImageInput | list[AnyImage] | tuple[AnyImage, ...]) -> Detections | list[Detections]:
        """Detect objects in one image, or in each of several images.

        Args:
            images: An array uint8 [H, W, 3] RGB, a path or a PIL image, or a list or tuple of them.

        Returns:
            One ``Detections`` for one image, a list for several.

        Raises:
            VisionInferError: An image cannot be read, or the engine fails.
            ValueError: An array is not uint8 [H, W, 3].
        """
        if isinstance(images, (list, tuple)):
            return self._each([image_of(image) for image in images])
        if isinstance(images, np.ndarray) and images.ndim == 4:
            raise ValueError(f"a batch is a list of [H, W, 3] arrays, got one array {list(images.shape)}: pass list(images)")
        return self._each([image_of(images)])[0]

    def _each(self, images: Sequence[Image]) -> list[Detections]:
        with self._lock:
            lane = self._open()
            tiling = self._tiling
            found = detect(lane, images) if tiling is None else (detect_tiles(lane, image, tiling) for image in images)
            keep = self._keep
            if keep is None:
                return list(found)
            return [keep(detections, image.size) for detections, image in zip(found, images, strict=True)]

    def _check(self) -> tuple[Filter | None, Tiling | None]:
        """Check what can be checked without an engine; return the filter of the detections, and the tiles of images."""
        settings, card = self.settings, self._card
        if card.task != "detect":
            raise ModelError(f"{card.name} is a model for '{card.task}'", "A Detector needs a model for 'detect'.")
        make_selector(card, settings.confidence, settings.iou, settings.classes, scores_by_class(card, settings.per_class))
        if settings.engine != "auto":
            parse_engine_name(settings.engine)
        region = None if settings.region is None else read_region(settings.region, None)
        tiling = Tiling.made(settings.tiles, region if settings.crop_region else None)
        return (None if not settings.min_size and region is None else Filter(settings.min_size, region)), tiling

    def _open(self) -> Lane:
        if self._lane is None:
            settings = self.settings
            if settings.region is not None:
                read_region(settings.region, ())  # images need polygons that are not for single streams only
            alone = settings.model_copy(update={"workers": 1, "threads": settings.threads or available_cpus()})
            self._engine = open_engine(self.path, request_on_one_device(alone))
            self._lane = make_lane(self._engine, alone)
        return self._lane

    def close(self) -> None:
        """Free the engine. A later call loads it again."""
        with self._lock:
            if self._engine is not None:
                self._engine.__exit__(None, None, None)
            self._engine = self._lane = None

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Pipeline:
    """Runs a detector over video files, images and folders, or over cameras. Several sources are batched together.

    Args:
        detector: The detector, with its thresholds and classes. The pipeline loads another engine, which is set up for
            throughput.
        every: Infer every N-th frame of files.
        fps: The maximum number of inferred frames per second of each source. Defaults to all frames.
        track: Whether to track the objects across frames.
        zones: A YAML file of zones and lines; the events are in ``result.events``. It enables ``track``.
        secondary: The model that classifies or embeds each detection: its name, or a deployment graph (.onnx). Its output is in
            ``result.detections.descriptions``.
        reidentify: Gives an object that comes back the same identity, in ``result.detections.identities``: the threshold, a
            cosine distance, or the settings ``threshold``, ``timeout_s`` and ``across``. It needs ``track`` and a ``secondary``
            model for embeddings.
        top: The number of classes to report, for classifiers.
        workers: The number of batches in flight. Defaults to what suits the machine.
        batch: The maximum batch size.
        hook: Called with each frame and its result, on another thread for each source. It returns the result, changed or not,
            or None to drop it. Its exceptions are logged, and the result is unchanged.

    Raises:
        VisionInferError: A setting is invalid, or the secondary model does not exist or is a detector.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        every: int = 1,
        fps: float | None = None,
        track: bool = False,
        zones: str | PathLike[str] | None = None,
        secondary: str | PathLike[str] | None = None,
        reidentify: float | Mapping[str, Any] | None = None,
        top: int = TOP,
        workers: int | None = None,
        batch: int | None = None,
        hook: Hook | None = None,
    ) -> None:
        self._hook = hook
        self.detector = detector
        model = None if secondary is None else str(secondary)
        own = {
            "every": every,
            "fps": fps,
            "track": track,
            "secondary": model,
            "reidentify": reidentify,
            "zones": None if zones is None else Path(zones),
            "top": top,
            "workers": workers,
            "batch": batch,
        }
        self.settings: RunSettings = run_settings(**detector.settings.model_dump() | own)
        if zones is not None:
            read_zones(Path(zones), None)
        if model is not None:
            card = model_card(model, self.settings.model_dir)
            check_secondary("secondary", secondary=card)
            check_embeddings("reidentify", self.settings, card)

    def run(
        self,
        *sources: str | PathLike[str] | Sequence[str | PathLike[str]],
        live: bool = False,
        duration: float | None = None,
    ) -> Results:
        """Return the results of all sources, for ``for`` or ``async for``; those of one source are in order.

        Of files, no frame is dropped: the decoders wait until the caller takes the next result. Cameras do not wait: a slow
        caller gets the newest frames, and ``result.live.dropped_before`` counts the others. A camera that is lost is logged
        and connected again. Leaving the loop early stops everything.

        Args:
            sources: Video files, images, folders and patterns; or cameras: ``rtsp://…`` and similar URLs, ``/dev/video0`` or
                ``0``, and the test pattern ``test://``. Several can be arguments or a list.
            live: Whether ``http://`` URLs and video files are read in real time too, as cameras.
            duration: The time after which cameras end, seconds. By default they run until the caller leaves the loop.

        Raises:
            VisionInferError: The sources cannot be read in one run. While iterating: a source cannot be read, or a camera cannot
                be connected the first time (raised after the results of the others), or all sources failed.
        """
        found = find_sources(_paths(sources), live=live)
        if not found.specs:
            raise found.errors[0] if found.errors else UsageError("no source given", "Call run('video.mp4').")
        settings = run_settings(**self.settings.model_dump() | {"live": live, "duration": duration})
        cameras = check_sources(settings, found.specs)
        shapes = read_shape_files(settings, found.specs)
        # A slow caller of a camera gets new results, not a queue of old ones.
        channel = ResultChannel(len(found.specs)) if cameras else ResultChannel()
        return Results(self._results(found, settings, shapes, channel), channel)

    def _results(self, found: FoundSources, settings: RunSettings, shapes: Shapes, channel: ResultChannel) -> Generator[Result]:
        with open_lanes(settings, resolve_models(settings), found.specs, _log.info) as lanes:
            on_event = _log_lost if found.specs[0].kind == "live" else None
            with lanes.supervise(len(found.specs), [channel], self._hook, threading.Event(), on_event) as supervisor:
                for spec in found.specs:
                    supervisor.add(source_command(spec, lanes.lanes[0], settings, shapes))
                waiter = threading.Thread(
                    target=_finish_after, args=(supervisor, channel, settings.duration), name="pipeline-wait", daemon=True
                )
                waiter.start()
                try:
                    yield from channel
                finally:
                    channel.finish()
            waiter.join()
            failed = (record.error for record in supervisor.records())
            errors: list[VisionInferError | None] = [supervisor.error, *found.errors, *failed]
            for error in errors:
                if error is not None:
                    raise error


def _paths(sources: Iterable[str | PathLike[str] | Sequence[str | PathLike[str]]]) -> Iterator[str]:
    for source in sources:
        yield from [str(source)] if isinstance(source, (str, PathLike)) else map(str, source)


def _log_lost(event: StreamEvent) -> None:
    """Log that a camera is disconnected: the results of the others continue, and its error is raised after them."""
    if event.state in _LOST:
        _log.warning("%s: %s: %s", event.stream, event.state.value.replace("_", " "), event.reason)


def _finish_after(supervisor: Supervisor, channel: ResultChannel, duration_s: float | None) -> None:
    if not supervisor.wait(duration_s):
        supervisor.end_live()
        supervisor.wait()
    channel.finish()
