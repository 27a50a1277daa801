"""A camera that a test controls, and a supervisor for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from tests.pipeline.fakes import LONG_S, SIDE, EchoEngine, FakeImage, FakeSink, make_lane, with_options
from tests.support.waiting import wait_until
from vision_infer.analyze.select import Selector
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.trace import Trace
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.status import StreamEvent, StreamState, StreamStatus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.source import LiveOptions, ReadReport, SourceSpec, StreamInfo

SOON = Reconnect(min_s=0.001, max_s=0.001, refused_s=60.0)
"""Reconnect at once."""


class Camera:
    """A live source that a test controls, over any number of connections.

    The orders of the test wait in a queue, which the open connection works off; the next connection continues with it.

    Args:
        number: The number of the stream, below 200; its name is ``s<number>``.
        path: A URL, or a file, which ends by itself.
        refusals: The errors of the first attempts to open it, one each.
        clock: Gives the capture times.
        loop: Whether a file restarts at its end.
    """

    def __init__(
        self,
        number: int,
        path: str | None = None,
        refusals: list[Exception] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        loop: bool = False,
    ) -> None:
        self.loop = loop
        self.number = number
        self.name = f"s{number}"
        self.path = path or f"rtsp://10.0.0.{number + 1}/main"
        self.clock = clock
        self.refusals = list(refusals or [])
        self.opened: list[Connection] = []
        self.ingest: tuple[Literal["rtp", "ffmpeg"] | None, str] = None, ""
        """What reads the next connection, and why."""
        self.attempts = 0
        self.release = threading.Event()
        """Releases a blocked call."""
        self.hangs = threading.Event()
        """Set when a call is blocked."""
        self._orders: deque[Order] = deque()
        self._changed = threading.Condition()
        self.hang_when_opened = False

    @property
    def spec(self) -> SourceSpec:
        return SourceSpec(self.name, "live", (self.path,), live=LiveOptions(loop=self.loop))

    def open(self, stopping: threading.Event) -> Connection:
        self.attempts += 1
        if self.refusals:
            raise self.refusals.pop(0)
        if self.hang_when_opened:
            self.hang()
        connection = Connection(self, stopping)
        self.opened.append(connection)
        return connection

    def next_order(self, stopping: threading.Event) -> Order | None:
        """Return the next order; None when the camera has to stop."""
        with self._changed:
            while not stopping.is_set():
                if self._orders:
                    return self._orders.popleft()
                self._changed.wait(0.02)
        return None

    def _order(self, order: Order) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify_all()

    def hang(self) -> None:
        self.hangs.set()
        assert self.release.wait(2 * LONG_S), "nothing released the blocked call"

    def give(self, count: int = 1) -> None:
        """Let it send frames."""
        for _ in range(count):
            self._order(lambda connection: connection.frame())

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Let it count frames that it does not deliver."""
        self._order(lambda connection: connection.report.drop(reason, count))

    def end(self, error: BaseException | None = None) -> None:
        """Let the connection end, with an error or without."""

        def work(connection: Connection) -> None:
            connection.ended = True
            if error is not None:
                raise error

        self._order(work)

    def hang_here(self) -> None:
        """Block its reading, even when it has to stop; when it is released, it sends a frame."""

        def order(connection: Connection) -> Iterator[Frame]:
            self.hang()
            yield from connection.frame()

        self._order(order)

    def call(self, work: Callable[[], object]) -> None:
        """Let it call a function between two frames."""

        def order(connection: Connection) -> None:
            del connection
            work()

        self._order(order)


class Connection:
    """A connection to a camera."""

    def __init__(self, camera: Camera, stopping: threading.Event) -> None:
        self.camera = camera
        self.spec = camera.spec
        ingest, why = camera.ingest
        size = Size(SIDE, SIDE)
        self.info = StreamInfo(size, None, None, None, None, "fake", False, ingest=ingest, ingest_reason=why)
        self.report = ReadReport()
        self.stopping = stopping
        self.closed = threading.Event()
        self.given = 0
        self.ended = False
        self.close_error: Exception | None = None

    def frame(self) -> Iterator[Frame]:
        index, self.given = self.given, self.given + 1
        now = self.camera.clock.monotonic_ns()
        trace = Trace(decode_start_ns=now, captured_ns=now, clock="arrival")
        yield Frame(self.camera.name, index, index / 25, FakeImage(self.camera.number, index), trace)

    def frames(self) -> Iterator[Frame]:
        while not self.ended:
            order = self.camera.next_order(self.stopping)
            if order is None:
                return
            yield from order(self) or ()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closed.set()
        if self.close_error is not None:
            raise self.close_error


class Rig:
    """A supervisor of cameras, with a sink and the list of all events."""

    def __init__(self, *cameras: Camera, engine: EchoEngine | None = None, **options: Any) -> None:
        self.cameras = {camera.name: camera for camera in cameras}
        self.sink = FakeSink()
        self.engine = engine or EchoEngine()
        self.events: list[StreamEvent] = []
        options = {"keep_going": True, "on_event": self.events.append, "shared": [self.sink], **options}
        self.supervisor = Supervisor([make_lane(self.engine)], open_stream=self.open, **options)

    def open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Connection:
        return self.cameras[spec.name].open(stopping)

    def add(self, camera: Camera, **options: Any) -> AddStream:
        """Run a camera; return the command."""
        self.cameras[camera.name] = camera
        command = with_options(AddStream(camera.spec, "main", reconnect=SOON), **options)
        self.supervisor.add(command)
        return command

    def change(self, command: AddStream, **changes: Any) -> AddStream:
        """Change the command of a stream; return the new command."""
        command = with_options(command, **changes)
        self.supervisor.change(command)
        return command

    def status(self, name: str = "s0") -> StreamStatus:
        return next(status for status in self.supervisor.statuses() if status.name == name)

    def wait_state(self, state: StreamState, name: str = "s0") -> StreamStatus:
        wait_until(lambda: self.status(name).state is state, f"{name} to be {state.value}, it is {self.status(name).state.value}")
        return self.status(name)

    def states(self, name: str = "s0") -> list[StreamState]:
        """Return all states of a stream so far, in order."""
        return [event.state for event in self.events if event.stream == name]

    def give(self, camera: Camera, count: int = 1) -> None:
        """Let a camera send frames, each after the result of the frame before is written."""
        for _ in range(count):
            written = len(self.sink.indices(camera.name))
            camera.give()
            wait_until(lambda: len(self.sink.indices(camera.name)) > written, f"a result of {camera.name}")  # noqa: B023

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        started = time.monotonic()
        work = threading.Thread(target=self.supervisor.close, daemon=True)
        work.start()
        work.join(LONG_S)
        took = time.monotonic() - started
        for camera in self.cameras.values():
            camera.release.set()
        assert not work.is_alive(), "closing the supervisor hangs"
        if error is None:
            assert took < LONG_S / 3


@contextmanager
def running(rig: Rig, cameras: list[Camera], frames: int) -> Iterator[None]:
    """Let cameras send frames, each after the result of the frame before, until each has sent this number."""
    failed: list[BaseException] = []

    def work(camera: Camera) -> None:
        try:
            rig.give(camera, frames)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(camera,), daemon=True) for camera in cameras]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(2 * LONG_S)
        assert not thread.is_alive()
    assert not failed, failed


def lane_of(name: str, engine: EchoEngine) -> Lane:
    return Lane(name, engine, Selector(confidence=0.1, iou=None))


UNDECODED = ("not_referenced", "to_keyframe", "undecoded", "no_keyframe", "damaged")


def dropped(status: StreamStatus) -> int:
    """Return the number of frames that were decoded and gave no result."""
    return sum(count for reason, count in status.dropped.items() if reason not in UNDECODED)


Order = Callable[[Connection], Iterator[Frame] | None]
