"""The wiring of a run, for the command line and for Python alike: lanes, supervisor, and the upgrade of engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vision_infer.config.run import RunSettings
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.store.cache import OnMessage
from vision_infer.model.catalog import resolve_model
from vision_infer.pipeline.add_stream import check_embeddings, check_secondary
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.opening import LaneOpening
from vision_infer.pipeline.runs.run_factories import (
    engine_request,
    make_lane,
    make_secondary_lane,
    make_supervisor,
    model_graphs,
    secondary_request,
)
from vision_infer.pipeline.status import StreamEvent
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import last_at_least, size_in_header
from vision_infer.stream.source import SourceSpec

_USUAL_CAMERA = Size(1920, 1080)
"""The assumed size of a camera's images until the first one arrives: the shape of most cameras."""


@dataclass(frozen=True, slots=True)
class RunModels:
    """The deployment graphs of a run."""

    graphs: Mapping[Size, Path]
    """The graphs of the model by input size, its own size first."""
    secondary: Path | None
    """The graph of the secondary model."""


def resolve_models(settings: RunSettings) -> RunModels:
    """Find the deployment graphs of a run.

    Raises:
        ModelError: A model does not exist.
    """
    secondary = None if settings.secondary is None else resolve_model(settings.secondary, settings.model_dir)
    return RunModels(model_graphs(settings), secondary)


class RunLanes:
    """The open lanes of a run: those of the model, its own input size first, then that of the secondary model."""

    def __init__(self, lanes: Sequence[Lane], opening: LaneOpening) -> None:
        self.lanes = lanes
        self._opening = opening

    @contextmanager
    def supervise(
        self,
        sources: int,
        shared: Sequence[Sink],
        hook: Hook | None,
        stopping: threading.Event,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> Iterator[Supervisor]:
        """Run a supervisor of these lanes, and upgrade their engines meanwhile. At the end all streams are finished.

        Args:
            sources: The number of sources that will be added.
            shared: Sinks for the results of all sources; the supervisor closes them.
            hook: Called with each result.
            stopping: When it is set, no further engine is built.
            on_event: Called with each state change of a stream.
        """
        with (
            make_supervisor(self.lanes, max(1, sources), shared, hook, on_event) as supervisor,
            self._opening.upgrading(supervisor, stopping),
        ):
            yield supervisor
            supervisor.close()  # before the child process ends: that takes a moment, which is not part of the run


@contextmanager
def open_lanes(
    settings: RunSettings,
    models: RunModels,
    specs: Sequence[SourceSpec],
    on_message: OnMessage,
    check: Callable[[Engine], None] = lambda _: None,
) -> Iterator[RunLanes]:
    """Open the lanes of a run. Their engines are warm, and closed at the end.

    Of several input sizes, one engine is opened: the one for the first source, if its size is known at once. The others are
    opened when the first image for them arrives.

    Args:
        settings: The settings of the run.
        models: The deployment graphs.
        specs: The sources.
        on_message: Receives lines of text: why an engine was chosen, and what replaced it.
        check: Called with the engine of the model before that of the secondary model is opened; it may raise.

    Raises:
        VisionInferError: An engine cannot be opened, or does not fit the settings.
    """
    with ExitStack() as engines:
        videos = tuple(spec.paths[0] for spec in specs if spec.kind == "video")
        inputs = {path: size for size, path in models.graphs.items()} if len(models.graphs) > 1 else {}
        opening = LaneOpening(engines, on_message, videos, inputs, partial(last_at_least, specs))
        lanes = _model_lanes(settings, models.graphs, specs, opening)
        check(lanes[0].engine)
        if models.secondary is not None:
            request = secondary_request(settings)
            lanes.append(opening.lane(models.secondary, request, partial(make_secondary_lane, settings=settings)))
            check_secondary("secondary model", lanes[0].engine.card, lanes[-1].engine.card)
            check_embeddings("reidentify", settings, lanes[-1].engine.card)
        for engine in (engine for lane in lanes for engine in lane.engines):
            engine.warm_up()  # a late engine is warmed up when it is opened
        yield RunLanes(lanes, opening)


def _model_lanes(
    settings: RunSettings, graphs: Mapping[Size, Path], specs: Sequence[SourceSpec], opening: LaneOpening
) -> list[Lane]:
    sizes = list(graphs)
    likely = sizes[0]
    if len(sizes) > 1 and specs:
        image = size_in_header(specs[0]) or (_USUAL_CAMERA if specs[0].kind == "live" else None)
        likely = likely if image is None else best_input(image, sizes)

    def parts(size: Size) -> tuple[Path, EngineRequest, Callable[[Engine], Lane]]:
        number = sizes.index(size)
        make = partial(make_lane, settings=settings, size=size if number else None)
        return graphs[size], engine_request(settings), make

    first = opening.lane(*parts(likely))
    return [first if size == likely else opening.late_lane(*parts(size), first.engine) for size in sizes]
