"""The life of a supervisor: its parts and threads, the ends of streams, stopping and closing."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.engine import gpu_of
from vision_infer.engine.gpu.surface_reader import surface_reader
from vision_infer.pipeline.channel import Channel
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.lane_table import LaneTable
from vision_infer.pipeline.launcher import Launcher, OpenStream
from vision_infer.pipeline.messages import Ended, Failed, Finish, Message
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.results_stage import ResultsStage
from vision_infer.pipeline.status import ReplicaRemoval, StreamEvent, StreamState
from vision_infer.pipeline.stream_record import StreamRecord, progress_of
from vision_infer.pipeline.stream_table import StreamTable
from vision_infer.pipeline.workers.inference_worker import InferenceWorker
from vision_infer.pipeline.workers.live_watch import LiveWatch
from vision_infer.pipeline.workers.live_worker import LiveWorker
from vision_infer.pipeline.workers.stream_worker import StreamWorker
from vision_infer.schedule.batcher import Batcher
from vision_infer.sink.sink import Sink
from vision_infer.sink.space import NoSpaceError
from vision_infer.stream import nvdec
from vision_infer.stream.find import open_source
from vision_infer.telemetry.account import Busy, StageAccount
from vision_infer.telemetry.process import cpu_ns, machine_cpu_ns
from vision_infer.telemetry.rolling import RollingRate

MESSAGES_IN_FLIGHT = 32
"""The maximum number of messages that wait for the results stage. A longer queue has no use, and its outputs leave the caches."""
_log = logging.getLogger("vision_infer.pipeline")


class SupervisorLifecycle:
    """The parts of a supervisor, from the start of its threads to their end; see :class:`Supervisor` for the arguments."""

    def __init__(
        self,
        lanes: Sequence[Lane] = (),
        shared: Sequence[Sink] = (),
        max_active: int = 16,
        decode_threads: int = 1,
        clock: Clock = SYSTEM_CLOCK,
        open_stream: OpenStream = open_source,
        hook: Hook | None = None,
        in_flight: int | None = None,
        keep_going: bool = False,
        on_event: Callable[[StreamEvent], None] | None = None,
        devices: int | None = None,
        on_removed: Callable[[ReplicaRemoval], None] = lambda _: None,
    ) -> None:
        nvdec.reader_of = surface_reader  # a source must not import the engines
        self._max_active = max_active
        self._clock = clock
        self._keep_going = keep_going
        self._on_removed = on_removed
        in_flight = in_flight or max(engine.in_flight for lane in lanes for engine in lane.engines)
        self._dispatch = Dispatch(Batcher(in_flight, lambda frame: gpu_of(frame.image)), clock)
        self._lanes = LaneTable(lanes, self._dispatch, clock)
        self._messages: Channel[Message] = Channel(MESSAGES_IN_FLIGHT)
        self._stage = ResultsStage(self._messages, clock, self._fail, self._engine_failed, self._stream_ended)
        numbers = range(in_flight * (devices or max(len(lane.engines) + len(lane.next_gpus) for lane in lanes)))
        self._workers = [
            InferenceWorker(number, self._lanes.by_name, self._dispatch, self._messages, clock) for number in numbers
        ]
        self._streams = StreamTable(clock, on_event)
        # The lock of the stream table also guards the waiting, active and forgotten streams below. Every thread that starts,
        # ends or removes a stream holds it; it is reentrant, and notified when a stream ends.
        self._changed = self._streams.changed
        self._waiting: deque[AddStream] = deque()
        self._active: dict[str, StreamWorker | LiveWorker] = {}
        self._forgotten: set[str] = set()
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
        self._watch = LiveWatch(
            self._live_workers,
            lambda worker, reason: self._streams.set_if_in(StreamState.LIVE, worker.record, StreamState.STALLED, reason),
            self._sample,
            self._dispatch.engine_ns,
            clock,
        )
        self._cpu = RollingRate(2)
        self._write = Busy()
        self._writes = StageAccount()
        self._error: VisionInferError | None = None
        self._stopped = self._closed = False
        self.first_open_ns = 0
        """The time when the first source was opened, monotonic."""
        self.last_written_ns = 0
        """The time when the last stream was finished, monotonic."""
        for thread in (self._stage.thread, self._watch.thread, *(worker.thread for worker in self._workers)):
            thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every stream has ended; return whether that happened in time. A failure of all streams ends them too."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active and not self._waiting, timeout_s)

    def stop(self) -> None:
        """Stop all streams; frames that are decoded already are still finished and written."""
        with self._changed:
            self._stopped = True
            while self._waiting:
                record = self._streams.by_name[self._waiting.popleft().source.name]
                self._streams.set_state(record, StreamState.STOPPED, "stopped before its turn")
            workers = list(self._active.values())
            self._changed.notify_all()
        for worker in workers:
            worker.stop()

    def end_live(self) -> None:
        """End all live streams: they are complete, as if their sources had ended."""
        for worker in self._live_workers():
            worker.abandon(complete=True)

    def close(self) -> None:
        """Stop the streams that still run, wait for them, and close the shared sinks.

        Raises:
            OutputError: A shared sink could not be finished.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start_waiting(self) -> None:
        with self._changed:
            while self._waiting and len(self._active) < self._max_active and not self._stopped:
                command = self._waiting.popleft()
                record = self._streams.by_name[command.source.name]
                worker = self._active[record.name] = self._launcher.recorded(command, record)
                self._streams.set_state(record, StreamState.OPENING)
                self._start(worker)

    def _start(self, worker: StreamWorker | LiveWorker) -> None:
        if self.first_open_ns == 0:
            self.first_open_ns = self._clock.monotonic_ns()
        worker.thread.start()

    def _stream_ended(self, ended: Ended, joined: bool) -> None:
        """Called when the last result of a stream is in its outlet, or when the stream has ended without joining."""
        record = self._streams.by_name[ended.stream]
        if ended.error is not None:
            record.error = record.error or ended.error
        if joined:
            self._dispatch.leave(record.name)
        else:
            self._stream_written(record, None)

    def _stream_written(self, record: StreamRecord, outlet: Outlet | None) -> None:
        """Called when all of a stream is written and its sinks are closed."""
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
            elif worker.stopped:
                self._streams.set_state(record, StreamState.STOPPED)
            else:
                self._streams.set_state(record, StreamState.ENDED)
            self._changed.notify_all()
        self._start_waiting()

    def _output_failed(self, record: StreamRecord, error: VisionInferError, shared: bool) -> None:
        if isinstance(error, NoSpaceError):
            error = error.at(progress_of(self._streams.records() if shared else [record]))
        record.error = record.error or error
        if shared:
            self._fail(error)
        else:
            self._active[record.name].stop()

    def _fail(self, error: VisionInferError) -> None:
        self._error = self._error or error
        self.stop()

    def _engine_failed(self, failed: Failed) -> None:
        for removal in failed.removed or ():
            where = f"{removal.lane}: {removal.engine} on {removal.device}"
            _log.error("%s is no longer used, the lane continues on its other devices: %s", where, removal.reason)
            self._on_removed(removal)
        # This process cannot use a lost device again: without another it ends, and its supervisor starts another process.
        if failed.removed is None and (failed.error.device_lost or not self._keep_going):
            self._fail(failed.error)

    def _sample(self, now_ns: int) -> None:
        for lane, device in self._dispatch.sample(now_ns):
            _log.warning("%s: %s is used again after a shortage of memory", lane, device)
        self._cpu.sample(now_ns, cpu_ns(), machine_cpu_ns())

    def _live_workers(self) -> list[LiveWorker]:
        with self._changed:
            return [worker for worker in self._active.values() if isinstance(worker, LiveWorker)]
