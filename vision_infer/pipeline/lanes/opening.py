"""Opens the engines of lanes: first what loads at once, then a better one while the lane runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_candidate, open_engine
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.engine.selection.lookup import expected_build_s
from vision_infer.engine.selection.warm_start import WarmStart, find_warm_start
from vision_infer.engine.store.cache import OnMessage
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.late_engine import LateEngine
from vision_infer.pipeline.lanes.replicas import OpenedReplica, make_replicated, open_replicas, put_in
from vision_infer.pipeline.lanes.samples import SampledEngine
from vision_infer.pipeline.lanes.upgrade import EngineUpgrade, Upgrade, upgrades_of
from vision_infer.pipeline.supervisor import Supervisor

MAX_VIDEOS = 8
"""The maximum number of videos on which autotuning judges accuracy; more add no information."""


def open_quickly(path: Path, request: EngineRequest, on_message: OnMessage) -> tuple[Engine, WarmStart | None]:
    """Open the best engine, or the one that loads fastest when the best one is not built yet.

    It raises what :func:`open_engine` raises.

    Args:
        path: The model's deployment graph.
        request: Which engine to open.
        on_message: Receives the reason for the choice, as a line of text.

    Returns:
        The engine, and what to do to get a better one; None when there is nothing to do.
    """
    quick = find_warm_start(path, request)
    if quick is None or quick.device != "cpu":
        engine = open_engine(path, request, on_message)
        return (engine, None) if quick is None else _sampled(engine, request, quick)
    if quick.better is not None:
        on_message(f"{quick.first.engine}: starts first, because {quick.better.candidate.engine} is not compiled yet")
    return open_candidate(quick.first, request, on_message), quick


def _sampled(engine: Engine, request: EngineRequest, quick: WarmStart) -> tuple[Engine, WarmStart]:
    """Return an engine that keeps frames for the child process that builds and compares plans."""
    assert request.engine_dir is not None
    first = replace(quick.first, engine=engine.name)
    try:
        sampled = SampledEngine(engine, request.engine_dir)
    except OSError:  # the folder cannot be written to; the child process reports the reason
        return engine, replace(quick, first=first)
    return cast("Engine", sampled), replace(quick, first=first, samples=sampled.file)


class LaneOpening:
    """Opens the lanes of a run and upgrades their engines while it runs.

    Args:
        engines: Closes the engine that each lane has at the end.
        on_message: Receives lines of text: why an engine was chosen, and what replaced it.
        videos: Videos of the run, on which autotuning can judge accuracy.
        inputs: The input size of each graph of a model with several sizes, which messages name.
        lasts: Returns whether the run lasts at least some seconds; otherwise no plan that takes as long to build is built.
    """

    def __init__(
        self,
        engines: ExitStack,
        on_message: OnMessage,
        videos: tuple[str, ...],
        inputs: Mapping[Path, Size] = MappingProxyType({}),
        lasts: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self._lasts = lasts
        self._inputs = inputs
        self._engines = engines
        self._on_message = on_message
        self._videos = videos[:MAX_VIDEOS]
        self._upgrades: list[Upgrade] = []
        self._late: list[tuple[Lane, Path, EngineRequest]] = []

    def lane(self, path: Path, request: EngineRequest, make: Callable[[Engine], Lane]) -> Lane:
        """Open a lane with its engine. It raises what opening an engine and ``make`` raise.

        Args:
            path: The deployment graph.
            request: Which engine to open.
            make: Makes the lane for an engine.
        """
        opened = open_replicas(path, request, open_quickly, self._says(path))
        lane = make_replicated(opened, make)
        self._engines.callback(lane.close)
        self._upgrades += self._upgrades_of(lane, path, request, opened)
        return lane

    def _upgrades_of(self, lane: Lane, path: Path, request: EngineRequest, opened: Sequence[OpenedReplica]) -> Iterator[Upgrade]:
        """Yield the upgrades of a lane's engines; a plan only if the run lasts longer than its build."""
        for upgrade in upgrades_of(lane, path, request, opened, self._videos):
            quick = upgrade.quick
            if quick.device != "cpu" and request.engine_dir is not None:
                seconds = expected_build_s(path, request.engine_dir, quick.device)
                if not self._lasts(seconds):
                    why = f"building plans for {quick.device} takes about {seconds:.0f} s, longer than the clips"
                    hint = f"Build them once with: vision-infer engine choose MODEL --device {quick.device} --data VIDEO"
                    self._on_message(f"{lane.name}: keeps {quick.first.engine}: {why}. {hint}")
                    upgrade.on_kept()
                    if quick.samples is not None:
                        quick.samples.close()  # the engine then keeps no frames
                    continue
            yield upgrade

    def _says(self, path: Path) -> OnMessage:
        """Return a receiver of lines about a graph, which adds its input size if the model has several."""
        size = self._inputs.get(path)
        return self._on_message if size is None else lambda line: self._on_message(f"{size} input: {line}")

    def late_lane(self, path: Path, request: EngineRequest, make: Callable[[Engine], Lane], like: Engine) -> Lane:
        """Open a lane whose engine is opened when the first image for it arrives.

        Args:
            path: The deployment graph.
            request: Which engine to open.
            make: Makes the lane for an engine.
            like: An engine of the same model with another input size.

        Raises:
            ModelError: The file is not a deployment graph.
        """
        lane = make(PlaceholderEngine(read_graph_facts(path).card, like))
        self._engines.callback(lane.close)
        self._late.append((lane, path, request))
        return lane

    @contextmanager
    def upgrading(self, supervisor: Supervisor, stopping: threading.Event) -> Iterator[None]:
        """Upgrade the engines of lanes in use, and open late engines when they are needed, until the context ends."""
        with EngineUpgrade(supervisor.swap_engine, self._on_message, stopping, statuses=supervisor.lane_statuses) as upgrade:
            for item in self._upgrades:
                upgrade.add(item)
            late = [self._late_engine(supervisor, upgrade, *lane) for lane in self._late]
            try:
                yield
            except BaseException:  # frames that wait for an engine have to come back, because no engine will be opened
                for lane in (lane for lane, _, _ in self._late if isinstance(lane.engine, PlaceholderEngine)):
                    supervisor.give_up(lane.name, EngineError(f"{lane.name}: the run is over"))
                raise
            finally:
                for engine in late:
                    engine.join()

    def _late_engine(
        self, supervisor: Supervisor, upgrade: EngineUpgrade, lane: Lane, path: Path, request: EngineRequest
    ) -> LateEngine:
        def use(opened: Sequence[OpenedReplica]) -> None:
            put_in(supervisor, lane, opened)
            for item in self._upgrades_of(lane, path, request, opened):
                upgrade.add(item)

        late = LateEngine(path, request, open_quickly, use, partial(supervisor.give_up, lane.name), self._says(path))
        lane.want = late.want
        return late
