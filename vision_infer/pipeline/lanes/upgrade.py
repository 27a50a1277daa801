"""A better engine for lanes that run already: made by another process of low priority, then swapped in between two batches."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.candidates import Candidate
from vision_infer.engine.selection.choices import Choice
from vision_infer.engine.selection.known import known_choice
from vision_infer.engine.selection.quick import QuickStart, quick_start
from vision_infer.engine.store.cache import OnMessage
from vision_infer.engine.unopened import UnopenedEngine
from vision_infer.pipeline.lanes.child import run_child
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.late import LateEngine
from vision_infer.pipeline.status import LaneStatus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.redact import redact

BUILD_AFTER_S = 1.0
"""a run that is shorter gains nothing by another engine"""
TRIAL_AFTER_S = 10.0
"""a trial costs several seconds of a core"""
LOOK_AGAIN_S = 1.0
"""whether a lane is in use by now"""
MAX_VIDEOS = 8
"""more tell a trial nothing new"""
BUILD_NICE = 5
"""a run keeps all cores busy: at 19 a build of 1.1 s of CPU was not done after 22 s, two cores"""
TRIAL_NICE = 10
COMPILE = "import sys; from vision_infer.engine.selection.quick import compile_engine; compile_engine(*sys.argv[1:])"

Runner = Callable[[Sequence[str], int, Callable[[], bool]], str | None]
"""runs a command, with its niceness, until it ends or shall be stopped; returns what went wrong, in a line, or None"""
Swap = Callable[[str, Engine], Engine | None]
"""puts an engine into a lane; returns the old one once it is free, as :meth:`Supervisor.swap_engine`"""
Statuses = Callable[[], Sequence[LaneStatus]]
"""of all lanes, as :meth:`Supervisor.lane_statuses`"""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is to become of a lane."""

    lane: str
    path: Path
    """the model's deployment graph"""
    request: EngineRequest
    quick: QuickStart
    data: tuple[str, ...] = ()
    """videos to judge accuracy by in a trial"""


def open_quickly(path: Path, request: EngineRequest, on_message: OnMessage) -> tuple[Engine, QuickStart | None]:
    """Open the engine, or what loads fastest where that one is still to be made; raises what opening an engine raises.

    Args:
        path: the model's deployment graph.
        request: which engine is wanted.
        say: told why it is this one.

    Returns:
        The engine, and what to do for a better one.
    """
    quick = quick_start(path, request)
    if quick is None:
        return open_engine(path, request, on_message), None
    if quick.better is not None:
        on_message(f"{quick.first.engine}: begins, for {quick.better.candidate.engine} is not compiled yet")
    return _open(quick.first, request, on_message), quick


class EngineUpgrade:
    """One thread that makes lanes better, one after the other. Leave it before the supervisor is closed.

    The engine that it puts into a lane is the lane's owner's to close, as the one before was; that one it closes itself.

    Args:
        swap: puts an engine into a lane.
        say: told, in a line, what was swapped in, and why something was not.
        stopping: set by whoever wants to end it all: the child ends at once.
        runner: runs the children; tests pass their own.
        build_after_s: how long a lane has run before an engine is built for it.
        trial_after_s: and before the engines are tried.
        statuses: of the lanes: one through which no frame went is left as it is until one does. None: all are in use.
    """

    def __init__(
        self,
        swap: Swap,
        on_message: OnMessage,
        stopping: threading.Event | None = None,
        runner: Runner | None = None,
        build_after_s: float = BUILD_AFTER_S,
        trial_after_s: float = TRIAL_AFTER_S,
        statuses: Statuses | None = None,
    ) -> None:
        self._statuses = statuses
        self._swap = swap
        self._say = on_message
        self._stopping = stopping or threading.Event()
        self._runner = runner or run_child
        self._build_after_s = build_after_s
        self._trial_after_s = trial_after_s
        self._waiting: deque[Upgrade] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None

    def add(self, upgrade: Upgrade) -> None:
        """Let a lane have a better engine, after those that were added before; returns at once."""
        with self._changed:
            if self._ended:
                return
            self._waiting.append(upgrade)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-upgrade", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the child, if there is one, and wait until no lane is touched any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> EngineUpgrade:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while (upgrade := self._next()) is not None:
            try:
                self._carry_out(upgrade)
            except Exception as error:  # noqa: BLE001 - a thread is a boundary: the lane goes on as it is
                told = str(error) if isinstance(error, VisionInferError | ValueError) else f"{type(error).__name__}: {error}"
                self._say(redact(f"{upgrade.lane}: goes on with {upgrade.quick.first.engine}: {told}"))

    def _next(self) -> Upgrade | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return None
                used = None if self._statuses is None else {one.name for one in self._statuses() if one.frames}
                for upgrade in self._waiting:
                    if used is None or upgrade.lane in used:
                        self._waiting.remove(upgrade)
                        return upgrade
                self._changed.wait_for(lambda: self._ended, LOOK_AGAIN_S)

    def _stopped(self) -> bool:
        return self._ended or self._stopping.is_set()

    def _carry_out(self, upgrade: Upgrade) -> None:
        trial = upgrade.quick.better is None
        with self._changed:
            self._changed.wait_for(self._stopped, self._trial_after_s if trial else self._build_after_s)
        if self._stopped():
            return
        words, nice = (trial_command(upgrade), TRIAL_NICE) if trial else (build_command(upgrade), BUILD_NICE)
        failure = self._runner(words, nice, self._stopped)
        if self._stopped():
            return
        if failure is not None:
            self._say(redact(f"{upgrade.lane}: goes on with {upgrade.quick.first.engine}: {failure}"))
            return
        folder = upgrade.request.engine_dir
        better = upgrade.quick.better or (None if folder is None else known_choice(upgrade.path, folder))
        if better is None or better.candidate == upgrade.quick.first:
            self._say(f"{upgrade.lane}: stays with {upgrade.quick.first.engine if better is None else better.reason}")
            return
        self._put_in(upgrade, better)

    def _put_in(self, upgrade: Upgrade, better: Choice) -> None:
        engine = _open(better.candidate, upgrade.request, self._say)
        try:
            engine.warm_up()
            if self._stopped():
                engine.__exit__(None, None, None)
                return
            old = self._swap(upgrade.lane, engine)
        except BaseException:
            engine.__exit__(None, None, None)
            raise
        self._say(f"{upgrade.lane}: goes on with {better.reason}")
        if old is not None:
            old.__exit__(None, None, None)


class LaneOpening:
    """Opens engines for the lanes of a run: what loads at once, and notes what is to become of it.

    Args:
        engines: closes each lane's engine, whichever it is then.
        say: told why it is this one, and what was swapped in.
        videos: to judge accuracy by in a trial.
    """

    def __init__(self, engines: ExitStack, on_message: OnMessage, videos: tuple[str, ...]) -> None:
        self._engines = engines
        self._say = on_message
        self._videos = videos[:MAX_VIDEOS]
        self._upgrades: list[Upgrade] = []
        self._late: list[tuple[Lane, Path, EngineRequest]] = []

    def lane(self, path: Path, request: EngineRequest, make: Callable[[Engine], Lane]) -> Lane:
        """A lane with its engine; raises what opening an engine and ``make`` raise.

        Args:
            path: the deployment graph.
            request: which engine is wanted.
            make: makes the lane.
        """
        engine, quick = open_quickly(path, request, self._say)
        with ExitStack() as opened:
            lane = make(opened.enter_context(engine))
            opened.pop_all()
        self._engines.callback(lambda: lane.engine.__exit__(None, None, None))
        if quick is not None:
            self._upgrades.append(Upgrade(lane.name, path, request, quick, self._videos))
        return lane

    def late_lane(self, path: Path, request: EngineRequest, make: Callable[[Engine], Lane], like: Engine) -> Lane:
        """A lane whose engine is opened when the first picture comes that goes into it.

        Args:
            path: the deployment graph.
            request: which engine is wanted.
            make: makes the lane.
            like: an engine of the same network for another input size.

        Raises:
            ModelError: the file is no deployment graph.
        """
        lane = make(UnopenedEngine(read_graph_facts(path).card, like))
        self._engines.callback(lambda: lane.engine.__exit__(None, None, None))
        self._late.append((lane, path, request))
        return lane

    @contextmanager
    def going_on(self, supervisor: Supervisor, stopping: threading.Event) -> Iterator[None]:
        """Meanwhile the lanes that are in use become better, and those without an engine get it when it is wanted."""
        with EngineUpgrade(supervisor.swap_engine, self._say, stopping, statuses=supervisor.lane_statuses) as upgrade:
            for one in self._upgrades:
                upgrade.add(one)
            late = [self._late_engine(supervisor, upgrade, *one) for one in self._late]
            try:
                yield
            except BaseException:  # what still waits for an engine comes back, for nobody asks for one any more
                for lane in (lane for lane, _, _ in self._late if isinstance(lane.engine, UnopenedEngine)):
                    supervisor.give_up(lane.name, EngineError(f"{lane.name}: the run is over"))
                raise
            finally:
                for engine in late:
                    engine.join()

    def _late_engine(
        self, supervisor: Supervisor, upgrade: EngineUpgrade, lane: Lane, path: Path, request: EngineRequest
    ) -> LateEngine:
        def put_in(engine: Engine, quick: QuickStart | None) -> None:
            supervisor.swap_engine(lane.name, engine)
            if quick is not None:
                upgrade.add(Upgrade(lane.name, path, request, quick, self._videos))

        late = LateEngine(path, request, open_quickly, put_in, partial(supervisor.give_up, lane.name), self._say)
        lane.want = late.want
        return late


def build_command(upgrade: Upgrade) -> list[str]:
    """The command that compiles the better engine into the cache. It is not timed: that would say nothing of a busy machine."""
    assert upgrade.quick.better is not None
    candidate, request = upgrade.quick.better.candidate, upgrade.request
    numbers = [str(number or 0) for number in (request.batch, request.workers, request.threads)]
    return [sys.executable, "-P", "-c", COMPILE, str(candidate.graph), candidate.engine, str(request.engine_dir), *numbers]


def trial_command(upgrade: Upgrade) -> list[str]:
    """The command that tries all engines, in turns, and remembers which is best."""
    request = upgrade.request
    words = [sys.executable, "-P", "-m", "vision_infer", "engine", "choose", str(upgrade.path)]
    words += ["--engine-dir", str(request.engine_dir)]
    for name in ("batch", "workers", "threads"):
        number = getattr(request, name)
        words += [] if number is None else [f"--{name}", str(number)]
    for source in upgrade.data:
        words += ["--data", source]
    return words


def _open(candidate: Candidate, request: EngineRequest, on_message: OnMessage) -> Engine:
    return open_engine(candidate.graph, replace(request, engine=candidate.engine, compute="auto", device="cpu"), on_message)
