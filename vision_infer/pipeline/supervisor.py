"""The fourth seam: all that the outside knows of the running pipeline.

Commands go in as plain values (:class:`AddStream`, :meth:`Supervisor.remove`, :meth:`Supervisor.stop`); results, events and
statistics come out as plain values, through bounded channels. The command line, the Python interface and later the service talk
to the pipeline through this and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from vision_infer.analyze.region import Filter
from vision_infer.analyze.track import Tracker
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.hook import GuardedHook
from vision_infer.pipeline.inference_worker import InferenceWorker
from vision_infer.pipeline.lane import Lane
from vision_infer.pipeline.messages import Ended, Finish, Message
from vision_infer.pipeline.outlet import Outlet, output_failure
from vision_infer.pipeline.outputs import open_sink
from vision_infer.pipeline.results_stage import ResultsStage
from vision_infer.pipeline.status import StreamEvent, StreamRecord, StreamState, StreamStatus, progress_of, status_of
from vision_infer.pipeline.stream_worker import StreamWorker
from vision_infer.schedule.batcher import Batcher
from vision_infer.sink.sink import Sink
from vision_infer.sink.space import NoSpaceError
from vision_infer.stream.find import open_source
from vision_infer.stream.redact import redact
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.telemetry.account import Busy, StageAccount, Work

EVENTS_KEPT = 1024
MESSAGES_IN_FLIGHT = 64
PICTURE_MEMORY_BYTES = 1 << 30
"""what the decoded pictures of all open streams may take together, as far as their windows can be made smaller for it"""
LEAST_WINDOW = 2
BYTES_PER_PIXEL = 3
"""of a decoded picture, at most: 10 bits with 4:2:0 chroma, or RGB"""


class Supervisor:
    """Runs streams through lanes until it is closed. It is a context manager: leaving it stops what still runs and waits for it.

    Args:
        lanes: where frames can go; their engines stay their owner's to close.
        shared: sinks for the results of all streams; closed with the supervisor.
        max_active: streams that are open at the same time; more wait for their turn, in order.
        decode_threads: threads of each decoder.
        open_stream: opens a source; tests pass their own.
        hook: called with every result, on the results stage's thread.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        shared: Sequence[Sink] = (),
        max_active: int = 16,
        decode_threads: int = 1,
        clock: Clock = SYSTEM_CLOCK,
        open_stream: Callable[[SourceSpec, int], Source] = open_source,
        hook: GuardedHook | None = None,
    ) -> None:
        self._lanes = {lane.name: lane for lane in lanes}
        self._shared = tuple(shared)
        self._max_active = max_active
        self._decode_threads = decode_threads
        self._clock = clock
        self._open_stream = open_stream
        in_flight = max(lane.engine.in_flight for lane in lanes)
        batcher: Batcher[Frame] = Batcher(in_flight)
        for lane in lanes:
            batcher.add_lane(lane.settings)
        self._dispatch = Dispatch(batcher, clock)
        self._messages: Channel[Message] = Channel(MESSAGES_IN_FLIGHT)
        self._stage = ResultsStage(self._lanes, self._messages, clock, self._fail, self._stream_ended, hook)
        self._workers = [
            InferenceWorker(number, self._lanes, self._dispatch, self._messages, clock) for number in range(in_flight)
        ]
        # What the largest batches in flight hold, as much again waiting, and a few between the engine and the sinks.
        self._window = 4 + 2 * max(lane.engine.in_flight * lane.engine.batch_sizes[-1] for lane in lanes)
        self._changed = threading.Condition()
        self._records: dict[str, StreamRecord] = {}
        self._waiting: deque[AddStream] = deque()
        self._active: dict[str, StreamWorker] = {}
        self._events: deque[StreamEvent] = deque(maxlen=EVENTS_KEPT)
        self._write = Busy()
        self._writes = StageAccount()
        self._error: VisionInferError | None = None
        self._stopped = False
        self._closed = False
        self.first_open_ns = 0
        """when the first source was opened, monotonic"""
        self.last_written_ns = 0
        """when the last stream was finished, monotonic"""
        for thread in (self._stage.thread, *(worker.thread for worker in self._workers)):
            thread.start()

    # Commands

    def add(self, command: AddStream) -> None:
        """Run a stream: now, or when an earlier one has made room; after :meth:`stop`, or once something broke for all, never.

        Raises:
            ValueError: there is a stream with this name, or no such lane.
        """
        name = command.source.name
        with self._changed:
            if name in self._records or command.lane not in self._lanes:
                raise ValueError(f"stream {name!r} is there already, or there is no lane {command.lane!r}")
            record = self._records[name] = StreamRecord(name, redact(command.source.paths[0]))
            if self._stopped:
                self._set_state(record, StreamState.STOPPED, "stopped before its turn")
                return
            self._waiting.append(command)
        self._start_waiting()

    def remove(self, name: str) -> None:
        """Stop a stream: what was decoded is finished and written."""
        with self._changed:
            worker = self._active.get(name)
            if worker is None:
                self._waiting = deque(command for command in self._waiting if command.source.name != name)
                record = self._records.get(name)
                if record is not None and record.state is StreamState.WAITING:
                    self._set_state(record, StreamState.STOPPED, "removed before its turn")
        if worker is not None:
            worker.stop()

    def stop(self) -> None:
        """Stop all streams: what was decoded is finished and written."""
        with self._changed:
            self._stopped = True
            while self._waiting:
                record = self._records[self._waiting.popleft().source.name]
                self._set_state(record, StreamState.STOPPED, "stopped before its turn")
            workers = list(self._active.values())
            self._changed.notify_all()
        for worker in workers:
            worker.stop()

    # What comes out

    def statuses(self) -> list[StreamStatus]:
        """Every stream as it is now."""
        with self._changed:
            return [status_of(record) for record in self._records.values()]

    def records(self) -> list[StreamRecord]:
        """The streams' own counts; exact once the supervisor is closed."""
        return list(self._records.values())

    def events(self) -> list[StreamEvent]:
        """The last state changes, oldest first; takes them out of the channel (which keeps the newest 1,024)."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
        return events

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every stream has ended, or something broke for all; True when so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active and not self._waiting, timeout_s)

    @property
    def error(self) -> VisionInferError | None:
        """What stopped all streams, if anything did: an engine, or an output that all share."""
        return self._error

    def account(self) -> StageAccount:
        """Where the frames' time went; exact once the supervisor is closed."""
        account = StageAccount()
        account.merge(self._stage.account)
        account.merge(self._writes)
        return account

    def work(self) -> Work:
        """How busy the parts were; exact once the supervisor is closed."""
        records = self._records.values()
        present = sum(worker.present_ns for worker in self._workers)
        return Work(
            decode=Busy(sum(record.decode_ns for record in records), sum(record.present_ns for record in records)),
            preprocess=Busy(sum(worker.preprocess_ns for worker in self._workers), present),
            inference=Busy(sum(worker.inference_ns for worker in self._workers), present),
            postprocess=Busy(self._stage.busy_ns, self._stage.present_ns),
            write=self._write,
        )

    @property
    def padded(self) -> int:
        """Places of batches wasted so far."""
        return self._dispatch.padded

    def close(self) -> None:
        """Stop what still runs, wait for it, and close the shared sinks.

        Raises:
            OutputError: a shared sink could not be finished.
        """
        if self._closed:
            return
        self._closed = True
        complete = self.wait(0) and not self._stopped and not any(record.error for record in self._records.values())
        self.stop()
        self.wait()
        self._dispatch.close()
        for worker in self._workers:
            worker.thread.join()
        self._messages.put(Finish())
        self._stage.thread.join()
        failure: VisionInferError | None = None
        for sink in self._shared:
            try:
                sink.close(complete)
            except VisionInferError as error:
                failure = failure or error
        self.last_written_ns = self._clock.monotonic_ns()
        if failure is not None and self._error is None:
            self._error = failure
            raise failure

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Inside

    def _start_waiting(self) -> None:
        with self._changed:
            while self._waiting and len(self._active) < self._max_active and not self._stopped:
                command = self._waiting.popleft()
                record = self._records[command.source.name]
                window = Window(self._window)
                worker = StreamWorker(
                    record,
                    command,
                    lambda command=command: self._open_stream(command.source, self._decode_threads),  # type: ignore[misc]
                    lambda source, command=command, record=record, window=window: self._opened(  # type: ignore[misc]
                        source, command, record, window
                    ),
                    self._dispatch,
                    self._messages,
                    self._clock,
                    window,
                )
                self._active[record.name] = worker
                self._set_state(record, StreamState.OPENING)
                if self.first_open_ns == 0:
                    self.first_open_ns = self._clock.monotonic_ns()
                worker.thread.start()

    def _opened(self, source: Source, command: AddStream, record: StreamRecord, window: Window) -> bool:
        """A source is open: make its outlet and let it in. Returns whether frames that are not inferred are wanted too."""
        record.info = source.info
        self._bound_memory(record, window)
        tracker = None if command.track is None else Tracker(confidence=command.track, per_class=command.track_per_class)
        keep = Filter(command.min_size, command.region) if command.min_size or command.region else None
        sinks: list[Sink] = []
        failure: VisionInferError | None = None
        for output in command.outputs:
            try:
                sinks.append(open_sink(output, source))
            except Exception as error:  # noqa: BLE001 - the outputs that are open already have to be closed
                failure = failure or output_failure(error)
        outlet = Outlet(
            record.name,
            sinks,
            self._shared,
            window,
            self._window,
            self._clock,
            lambda error, shared: self._output_failed(record, error, shared),
            lambda: self._stream_written(record, outlet),
        )
        self._stage.join(record, outlet, keep, tracker, window)
        self._dispatch.join(record.name, command.lane, None if source.live else self._window, command.weight)
        if failure is not None:
            self._output_failed(record, failure, shared=False)
        with self._changed:
            self._set_state(record, StreamState.RUNNING)
        return outlet.needs_pictures

    def _bound_memory(self, record: StreamRecord, window: Window) -> None:
        """Large pictures: let fewer of them be on their way."""
        size = None if record.info is None else record.info.size
        if size is None:
            return
        picture = size.width * size.height * BYTES_PER_PIXEL
        fit = PICTURE_MEMORY_BYTES // (self._max_active * picture)
        places = max(LEAST_WINDOW, min(self._window, fit))
        window.shrink(places)
        record.picture_bytes = places * picture

    def _stream_ended(self, ended: Ended, joined: bool) -> None:
        """The results stage has passed on the last result of a stream, or the stream never joined it."""
        record = self._records[ended.stream]
        if ended.error is not None:
            record.error = record.error or ended.error
        if joined:
            self._dispatch.leave(record.name)
        else:
            self._stream_written(record, None)

    def _stream_written(self, record: StreamRecord, outlet: Outlet | None) -> None:
        """All of a stream is written and its sinks are closed."""
        with self._changed:
            if outlet is not None:
                record.outputs = outlet.outputs
                self._writes.histograms["write"].merge(outlet.write_times)
                self._write.add(outlet.write_times.sum_ns, outlet.present_ns or record.present_ns)
            worker = self._active.pop(record.name)
            if record.error is not None:
                self._set_state(record, StreamState.FAILED, str(record.error))
            elif worker.stopping.is_set():
                self._set_state(record, StreamState.STOPPED)
            else:
                self._set_state(record, StreamState.ENDED)
            self._changed.notify_all()
        self._start_waiting()

    def _output_failed(self, record: StreamRecord, error: VisionInferError, shared: bool) -> None:
        if isinstance(error, NoSpaceError):
            error = error.at(progress_of(self.records() if shared else [record]))
        record.error = record.error or error
        if shared:
            self._fail(error)
        else:
            self._active[record.name].stop()

    def _fail(self, error: VisionInferError) -> None:
        self._error = self._error or error
        self.stop()

    def _set_state(self, record: StreamRecord, state: StreamState, reason: str = "") -> None:
        record.state = state
        self._events.append(StreamEvent(record.name, state, self._clock.monotonic_ns(), reason))
