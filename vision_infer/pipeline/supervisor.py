"""The fourth seam: all that the outside knows of the running pipeline.

Commands go in as plain values (:class:`AddStream`, :meth:`Supervisor.remove`, :meth:`Supervisor.stop`); results, events and
statistics come out as plain values, through bounded channels. The command line, the Python interface and later the service talk
to the pipeline through this and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.channel import Channel
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.hook import GuardedHook
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.lane_table import LaneTable
from vision_infer.pipeline.launcher import Launcher, OpenStream
from vision_infer.pipeline.messages import Ended, Finish, Message
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.results_stage import ResultsStage
from vision_infer.pipeline.status import (
    Flight,
    LaneStatus,
    StreamEvent,
    StreamRecord,
    StreamState,
    StreamStatus,
    live_status_of,
    progress_of,
    status_of,
)
from vision_infer.pipeline.stream_table import StreamTable
from vision_infer.pipeline.workers.inference_worker import InferenceWorker
from vision_infer.pipeline.workers.live_watch import LiveWatch
from vision_infer.pipeline.workers.live_worker import LiveWorker
from vision_infer.pipeline.workers.stream_worker import StreamWorker
from vision_infer.schedule.batcher import Batcher
from vision_infer.sink.sink import Sink
from vision_infer.sink.space import NoSpaceError
from vision_infer.stream.find import open_source
from vision_infer.stream.redact import redact
from vision_infer.telemetry.account import Busy, StageAccount, Work
from vision_infer.telemetry.process import cpu_ns, machine_cpu_ns
from vision_infer.telemetry.rolling import Rate

MESSAGES_IN_FLIGHT = 64
SWAP_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 30.0
"""how long removing a live stream may take: its frames in the engines come back first"""


class Supervisor:
    """Runs streams through lanes until it is closed. It is a context manager: leaving it stops what still runs and waits for it.

    Args:
        lanes: where frames can go; their engines stay their owner's to close.
        shared: sinks for the results of all streams; closed with the supervisor.
        max_active: streams that are open at the same time; more wait for their turn, in order.
        decode_threads: threads of each decoder.
        open_stream: opens a source, and lets a live one know when to stop; tests pass their own.
        hook: called with every result, on the results stage's thread, where a stream has none of its own.
        in_flight: batches that the device runs at the same time; None: as many as the lanes' engines take.
        keep_going: an engine's failure costs its batch; otherwise it ends all streams.
        on_event: called with each change of a stream's state; it must be quick, and may not call the supervisor.
    """

    def __init__(
        self,
        lanes: Sequence[Lane] = (),
        shared: Sequence[Sink] = (),
        max_active: int = 16,
        decode_threads: int = 1,
        clock: Clock = SYSTEM_CLOCK,
        open_stream: OpenStream = open_source,
        hook: GuardedHook | None = None,
        in_flight: int | None = None,
        keep_going: bool = False,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> None:
        self._max_active = max_active
        self._clock = clock
        self._keep_going = keep_going
        in_flight = in_flight or max(lane.engine.in_flight for lane in lanes)
        self._dispatch = Dispatch(Batcher(in_flight), clock)
        self._lanes = LaneTable(lanes, self._dispatch, clock)
        self._messages: Channel[Message] = Channel(MESSAGES_IN_FLIGHT)
        self._stage = ResultsStage(self._messages, clock, self._fail, self._engine_failed, self._stream_ended)
        self._workers = [
            InferenceWorker(number, self._lanes.by_name, self._dispatch, self._messages, clock) for number in range(in_flight)
        ]
        self._streams = StreamTable(clock, on_event)
        self._changed = self._streams.changed
        self._shared = tuple(shared)
        self._launcher = Launcher(
            self._streams,
            self._lanes,
            self._dispatch,
            self._stage,
            self._messages,
            self._shared,
            hook,
            open_stream,
            decode_threads,
            max_active,
            clock,
            self._output_failed,
            self._stream_written,
        )
        self._waiting: deque[AddStream] = deque()
        self._active: dict[str, StreamWorker | LiveWorker] = {}
        self._forgotten: set[str] = set()
        self._watch = LiveWatch(
            self._live_workers,
            lambda worker, reason: self._streams.set_if_in(StreamState.LIVE, worker.record, StreamState.STALLED, reason),
            self._sample,
            self._dispatch.engine_ns,
            clock,
        )
        self._cpu = Rate(2)
        self._write = Busy()
        self._writes = StageAccount()
        self._error: VisionInferError | None = None
        self._stopped = False
        self._closed = False
        self.first_open_ns = 0
        """when the first source was opened, monotonic"""
        self.last_written_ns = 0
        """when the last stream was finished, monotonic"""
        for thread in (self._stage.thread, self._watch.thread, *(worker.thread for worker in self._workers)):
            thread.start()

    # Commands

    def add_lane(self, lane: Lane) -> None:
        """Open a lane.

        Raises:
            ValueError: there is one with this name.
        """
        self._lanes.add(lane)

    def remove_lane(self, name: str) -> None:
        """Close a lane that no stream uses any more; its engine may be closed then.

        Raises:
            ValueError: it is in use.
        """
        self._lanes.remove(name)

    def swap_engine(self, name: str, engine: Engine, timeout_s: float = SWAP_TIMEOUT_S) -> Engine | None:
        """Let a lane go on with another engine, between two batches: no frame is lost, none waits.

        Args:
            name: of the lane.
            engine: for pictures of the same size, fitted in the same way, and with the same classes.
            timeout_s: how long the last batch in the old engine may take.

        Returns:
            The old engine, which is its owner's to close; None where it did not come back in this time.

        Raises:
            ValueError: the new engine does not fit.
        """
        return self._lanes.swap(name, engine, timeout_s)

    def give_up(self, name: str, error: VisionInferError) -> None:
        """A lane whose engine was still to be opened gets none: what waits for it fails, as if it had failed in the engine."""
        if not self._keep_going:
            self._fail(error)
        self._lanes.give_up(name, error if isinstance(error, EngineError) else EngineError(error.message, error.hint))

    def add(self, command: AddStream) -> None:
        """Run a stream: now, or when an earlier one has made room; after :meth:`stop`, or once something broke for all, never.

        Raises:
            ValueError: there is a stream with this name, or no such lane.
            UsageError: what a live stream is to do cannot be done.
        """
        name = command.source.name
        if name in self._streams.by_name or not self._lanes.of_group(command.lane):
            raise ValueError(f"stream {name!r} is there already, or there is no lane {command.lane!r}")
        steps = self._launcher.steps(command) if command.source.kind == "live" else None
        with self._changed:
            record = StreamRecord(name, redact(command.source.paths[0]), private=command.private_sink is not None)
            self._streams.by_name[name] = record
            if self._stopped:
                self._streams.set_state(record, StreamState.STOPPED, "stopped before its turn")
                return
            if steps is not None:
                worker = self._active[name] = self._launcher.live(command, steps, record)
                self._streams.set_state(record, StreamState.CONNECTING)
                worker.thread.start()
                return
            self._waiting.append(command)
        self._start_waiting()

    def change(self, command: AddStream) -> None:
        """Run a live stream by another command: with the same connection where the source stays the same, else anew.

        Raises:
            KeyError: there is no such live stream.
            UsageError: the command cannot be carried out; the stream goes on as it was.
        """
        name = command.source.name
        worker = self._active.get(name)
        if not isinstance(worker, LiveWorker) or name in self._forgotten:
            raise KeyError(name)
        old = worker.command
        if (old.source, old.secondary, old.reconnect) != (command.source, command.secondary, command.reconnect):
            self._launcher.steps(command)  # what cannot be carried out shall not cost the stream
            self.remove(name)
            self.add(command)
            return
        before = self._stage.steps(name)
        if before is None:
            raise KeyError(name)
        steps = self._launcher.steps(command, (old, before))
        if command.lane != old.lane:
            self._launcher.join(replace(command, secondary=None), None, 0)
        self._stage.change(name, steps)
        self._dispatch.set_weight(name, command.weight)
        worker.change(command, self._lanes.chooser(command.lane))
        if command.lane != old.lane:  # what is in the old engine comes back from it; what waits there would be late
            for lane in self._lanes.of_group(old.lane):
                for waiting in self._dispatch.leave_lane(name, lane.name):
                    worker.superseded(waiting)

    def remove(self, name: str, forget: bool = False) -> None:
        """Stop a stream: what was decoded is finished and written.

        Args:
            name: of the stream; one that is not there is no mistake.
            forget: wait for that, and let the name be free for another. It is always so with a live stream, however long its
                camera does not answer; a recorded one may have to come back from its source first.
        """
        with self._changed:
            worker = self._active.get(name)
            record = self._streams.by_name.get(name)
            forget = forget or isinstance(worker, LiveWorker) or (record is not None and record.live is not None)
            if worker is None:
                self._waiting = deque(command for command in self._waiting if command.source.name != name)
                if record is not None and record.state is StreamState.WAITING:
                    self._streams.set_state(record, StreamState.STOPPED, "removed before its turn")
                if forget:
                    self._streams.by_name.pop(name, None)
                return
            if forget:
                self._forgotten.add(name)
        if isinstance(worker, LiveWorker):
            worker.abandon()
        else:
            worker.stop()
        if forget:
            with self._changed:
                self._changed.wait_for(lambda: self._active.get(name) is not worker, REMOVE_TIMEOUT_S)

    def stop(self) -> None:
        """Stop all streams: what was decoded is finished and written."""
        with self._changed:
            self._stopped = True
            while self._waiting:
                record = self._streams.by_name[self._waiting.popleft().source.name]
                self._streams.set_state(record, StreamState.STOPPED, "stopped before its turn")
            workers = list(self._active.values())
            self._changed.notify_all()
        for worker in workers:
            worker.stop()

    # What comes out

    def statuses(self) -> list[StreamStatus]:
        """Every stream as it is now."""
        return [self._status(record) for record in self._streams.records()]

    def status(self, name: str) -> StreamStatus | None:
        """One stream as it is now; None where it is not there."""
        record = self._streams.by_name.get(name)
        return None if record is None else self._status(record)

    def flight(self, name: str) -> Flight | None:
        """What became of a live stream's frames; None where it is not there."""
        record = self._streams.by_name.get(name)
        if record is None or record.live is None:
            return None
        return Flight(record.live.flight, tuple(record.live.changes.copy()), record.live.wanted_fps)

    def lane_statuses(self) -> list[LaneStatus]:
        """Every lane that has an engine, as it is now."""
        return self._lanes.statuses()

    @property
    def cpu_cores(self) -> tuple[float, float]:
        """CPU time that this process and all others take, seconds in each second, over the last ten seconds or so."""
        own, machine = self._cpu.per_second
        return own / 1e9, max(0.0, machine - own) / 1e9

    def records(self) -> list[StreamRecord]:
        """The streams' own counts; exact once the supervisor is closed."""
        return self._streams.records()

    def events(self) -> list[StreamEvent]:
        """The last state changes, oldest first; takes them out of the channel (which keeps the newest 1,024)."""
        return self._streams.take_events()

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
        records = self._streams.records()
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
        complete = self.wait(0) and not self._stopped and not any(record.error for record in self._streams.records())
        self.stop()
        for worker in self._live_workers():
            worker.abandon()
        self.wait()
        self._watch.end()
        self._dispatch.close()
        for inference in self._workers:
            inference.thread.join()
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

    def _sample(self, now_ns: int) -> None:
        self._dispatch.sample(now_ns)
        self._cpu.sample(now_ns, cpu_ns(), machine_cpu_ns())

    def _start_waiting(self) -> None:
        with self._changed:
            while self._waiting and len(self._active) < self._max_active and not self._stopped:
                command = self._waiting.popleft()
                record = self._streams.by_name[command.source.name]
                worker = self._active[record.name] = self._launcher.recorded(command, record)
                self._streams.set_state(record, StreamState.OPENING)
                if self.first_open_ns == 0:
                    self.first_open_ns = self._clock.monotonic_ns()
                worker.thread.start()

    def _stream_ended(self, ended: Ended, joined: bool) -> None:
        """The results stage has passed on the last result of a stream, or the stream never joined it."""
        record = self._streams.by_name[ended.stream]
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
            if record.name in self._forgotten:
                self._forgotten.remove(record.name)
                del self._streams.by_name[record.name]
            if record.error is not None:
                self._streams.set_state(record, StreamState.FAILED, str(record.error))
            elif worker.stopping.is_set():
                self._streams.set_state(record, StreamState.STOPPED)
            else:
                self._streams.set_state(record, StreamState.ENDED)
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

    def _engine_failed(self, lane: str, error: EngineError) -> None:
        self._lanes.failed(lane, error)
        if not self._keep_going:
            self._fail(error)

    def _status(self, record: StreamRecord) -> StreamStatus:
        live = record.live
        lanes = [] if live is None else self._lanes.of_group(live.lane)
        if live is None or not lanes:
            return status_of(record)
        steps = self._stage.steps(record.name)
        zones = None if steps is None else steps.zones
        return live_status_of(record, live, lanes[0], zones, self._dispatch.engine_ns(record.name), self._clock.monotonic_ns())

    def _live_workers(self) -> list[LiveWorker]:
        with self._changed:
            return [worker for worker in self._active.values() if isinstance(worker, LiveWorker)]
