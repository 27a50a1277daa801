"""Sources, an engine and sinks that a test controls; every wait fails after ``LONG_S``."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import Selector
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import OutputSpec, Written
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

LONG_S = 30.0
SIDE = 256
CARD: ModelCard = parse_card({"name": "echo", "input": {"width": SIDE, "height": SIDE}, "fit": "stretch", "iou": None}, "echo")


def wait_for(event: threading.Event, what: str = "an event") -> None:
    """Wait, with a limit."""
    if not event.wait(LONG_S):
        raise TimeoutError(f"waited {LONG_S} s for {what}")


def box_of(stream: int, index: int) -> list[int]:
    """Return the box of a frame; it is inside the image."""
    return [index % 101, index // 101 % 101, 110 + index // 10_201, 110 + stream]


class FakeImage:
    """An image that writes its number and that of its stream into the slot."""

    alive: ClassVar[weakref.WeakSet[FakeImage]] = weakref.WeakSet()

    def __init__(self, stream: int, index: int, broken: bool = False) -> None:
        self.size = Size(SIDE, SIDE)
        self.numbers = (index % 256, stream, index // 256 % 256)
        self.broken = broken
        FakeImage.alive.add(self)

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        if self.broken:
            raise ValueError("this image is broken")
        slot.pixels[0, 0] = self.numbers

    def to_rgb(self) -> NDArray[np.uint8]:
        return np.full((SIDE, SIDE, 3), self.numbers[0], np.uint8)


@dataclass
class FakeSource:
    """Frames 0 … count − 1.

    Args:
        number: The number of the stream, below 200; its name is ``s<number>``.
        live: Whether it is read as a live stream, which ends after its last frame.
        before: Called with the index of the next frame (``count`` at the end), on the stream's thread.
        broken: Frames whose image cannot be written.
        open_error: Raised when the source is opened.
    """

    number: int
    count: int = 20
    live: bool = False
    before: Callable[[int], None] = lambda index: None
    broken: frozenset[int] = frozenset()
    open_error: Exception | None = None
    gaps: int = 0
    opened: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return f"s{self.number}"

    @property
    def spec(self) -> SourceSpec:
        kind: Literal["video", "live"] = "live" if self.live else "video"
        return SourceSpec(self.name, kind, (f"/videos/{self.name}.mp4",))

    @property
    def info(self) -> StreamInfo:
        return StreamInfo(Size(SIDE, SIDE), self.count, self.count / 25, None, None, "fake", False)

    @property
    def report(self) -> ReadReport:
        return ReadReport(self.gaps)

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            self.before(index)
            now = time.monotonic_ns()
            trace = Trace(decode_start_ns=now, captured_ns=now, clock="arrival") if self.live else Trace()
            yield Frame(self.name, index, index / 25, FakeImage(self.number, index, index in self.broken), trace)
        self.before(self.count)

    def __enter__(self) -> FakeSource:
        self.opened.set()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closed.set()


class EchoEngine:
    """Finds one box in every image, which shows the frame and the stream that were in the slot.

    Args:
        run: Called with the (stream, index) of every slot of a batch, on the inference worker's thread. The engine fails with
            the error that it raises. It may wait.
        outputs: Replaces the outputs, for an engine with invalid outputs.
    """

    name = "echo-cpu-none"
    device_name = "cpu"
    card = CARD
    input_size = Size(SIDE, SIDE)

    def __init__(
        self,
        in_flight: int = 1,
        batch_sizes: tuple[int, ...] = (1,),
        run: Callable[[list[tuple[int, int]]], None] = lambda batch: None,
        outputs: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]] = lambda outputs: outputs,
    ) -> None:
        self.in_flight = in_flight
        self.batch_sizes = batch_sizes
        self._run = run
        self._change = outputs
        self.pool = BufferPool(self.input_size, batch_sizes, in_flight, {})
        self._lock = threading.Lock()
        self.batches: list[list[tuple[int, int]]] = []

    @property
    def buffer_bytes(self) -> int:
        return self.pool.nbytes

    def lend(self, count: int) -> Loan:
        return self.pool.lend(count)

    def release(self, loan: Loan) -> None:
        self.pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        firsts = [slot.pixels[0, 0].tolist() for slot in loan.slots]
        batch = [(stream, low + 256 * high) for low, stream, high in firsts]
        with self._lock:
            self.batches.append(batch)
        try:
            self._run(batch)
        except BaseException:
            self.pool.release(loan)
            raise
        return Ticket(loan, batch)

    def collect(self, ticket: Ticket) -> RawResults:
        boxes = np.array([[box_of(stream, index)] for stream, index in ticket.state], np.float32)
        count = len(boxes)
        outputs = {"boxes": boxes, "scores": np.full((count, 1), 0.9, np.float32), "class_ids": np.zeros((count, 1), np.int32)}
        self.pool.release(ticket.loan)
        return RawResults(self._change(outputs), 1, 2)

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> EchoEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class FakeSink:
    """Keeps the frames and results that it gets.

    Args:
        needs_images: Whether it gets every frame.
        before: Called with every frame before it is kept. The sink fails with the error that it raises.
        close_error: Raised by ``close``.
    """

    def __init__(
        self,
        needs_images: bool = False,
        before: Callable[[Frame], None] = lambda frame: None,
        close_error: Exception | None = None,
    ) -> None:
        self.needs_images = needs_images
        self.outputs: tuple[Written, ...] = ()
        self._before = before
        self._close_error = close_error
        self._changed = threading.Condition()
        self.written: list[tuple[str, int, Result | None]] = []
        self.closes: list[bool] = []

    def write(self, frame: Frame, result: Result | None) -> None:
        self._before(frame)
        with self._changed:
            self.written.append((frame.stream, frame.index, result))
            self._changed.notify_all()

    def close(self, complete: bool) -> None:
        self.closes.append(complete)
        if self._close_error is not None and len(self.closes) == 1:
            raise self._close_error

    def wait_written(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.written) >= count, LONG_S):
                raise TimeoutError(f"waited for {count} frames, got {len(self.written)}")

    def indices(self, stream: str | None = None) -> list[int]:
        """Return the numbers of all written frames, in order."""
        return [index for name, index, _ in self.written if stream in (None, name)]

    def results(self, stream: str | None = None) -> list[int]:
        """Return the frames with a written result; check that each result belongs to its frame."""
        found = []
        for name, index, result in self.written:
            if result is not None and stream in (None, name):
                assert (result.stream, result.frame) == (name, index)
                assert result.detections.boxes.tolist() == [box_of(int(name[1:]), index % 65_536)]
                found.append(index)
        return found


def make_lane(engine: EchoEngine, max_wait_ns: int = 0) -> Lane:
    """Return a lane that selects every candidate."""
    return Lane("main", engine, Selector(confidence=0.1, iou=None), max_wait_ns)


def make_supervisor(engine: EchoEngine, sources: list[FakeSource], **options: Any) -> Supervisor:
    """Return a supervisor that opens these sources by their names."""
    by_name = {source.name: source for source in sources}

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
        source = by_name[spec.name]
        if source.open_error is not None:
            raise source.open_error
        return source

    return Supervisor([make_lane(engine)], open_stream=open_stream, **options)


def add(source: FakeSource, *sinks: str, **options: Any) -> AddStream:
    """Return the command that adds a source, with sinks by their registered names."""
    return with_options(AddStream(source.spec, "main", tuple(OutputSpec("jsonl", name) for name in sinks)), **options)


POLICY_OPTIONS = ("fps", "min_size", "tiles", "crop_region", "gate", "gate_heartbeat_s", "hook")


def with_options(command: AddStream, **options: Any) -> AddStream:
    """Return a command with other options; those of its policy are given by their own names."""
    policy = {name: options.pop(name) for name in POLICY_OPTIONS if name in options}
    given = {name: value for name, value in command.policy if name in command.policy.model_fields_set} | policy
    changed: AddStream = replace(command, **options, policy=StreamPolicy.model_validate(given))
    return changed


def run_all(
    engine: EchoEngine, sources: list[FakeSource], shared: FakeSink, stream_options: dict[str, Any] | None = None, **options: Any
) -> Supervisor:
    """Run all sources to their end through a shared sink; the supervisor is closed."""
    supervisor = make_supervisor(engine, sources, shared=[shared], **options)
    for source in sources:
        supervisor.add(add(source, **(stream_options or {})))
    finish(supervisor)
    return supervisor


def finish(supervisor: Supervisor) -> None:
    """Wait for all streams and close, with a limit on both."""
    assert supervisor.wait(LONG_S), [status.state for status in supervisor.statuses()]
    close(supervisor)


def close(supervisor: Supervisor) -> None:
    """Close with a limit; raise the errors of closing."""
    raised: list[VisionInferError] = []

    def work() -> None:
        try:
            supervisor.close()
        except VisionInferError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LONG_S)
    assert not thread.is_alive(), "closing the supervisor hangs"
    if raised:
        raise raised[0]
