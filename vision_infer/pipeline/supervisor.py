"""The fourth seam: all that the outside knows of the running pipeline.

Commands go in as plain values (:class:`AddStream`, :meth:`Supervisor.remove`, :meth:`Supervisor.stop`); results, events and
statistics come out as plain values, through bounded channels. The command line, the Python interface and the service use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.completion import PendingResult
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.steps import Steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.pipeline.supervisor_statistics import SupervisorStatistics
from vision_infer.pipeline.workers.live_worker import LiveWorker
from vision_infer.stream.redact import redact

SWAP_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 30.0
"""The maximum wait when a live stream is removed: its frames in the engines have to come back first."""


class Supervisor(SupervisorStatistics):
    """Runs streams through lanes until it is closed. It is a context manager: leaving it stops all streams and waits for them.

    This class has the commands; :class:`SupervisorStatistics` has what it reports, :class:`SupervisorLifecycle` the threads.

    Args:
        lanes: The lanes that streams can use; their owner closes the engines.
        shared: Sinks for the results of all streams; closed with the supervisor.
        max_active: The maximum number of recorded streams that are open at the same time; others wait for their turn, in order.
        decode_threads: The number of threads of each decoder.
        clock: The monotonic and the wall clock.
        open_stream: Opens a source; a live source stops when the given event is set. Tests pass their own.
        hook: Called with every frame and its result, if the stream has no hook.
        in_flight: The number of batches that a device runs at the same time. None: the maximum of the lanes' engines.
        keep_going: Whether a failure of an engine costs only its batch. Otherwise it ends all streams, unless the engine is
            removed from its lane and the lane has others.
        on_event: Called with each state change of a stream. It must be quick, and must not call the supervisor.
        devices: The number of devices. None: the maximum number of a lane's engines, also those that are being built.
        on_removed: Called when a replica is removed from its lane because of failures. It must be quick.
    """

    def add_lane(self, lane: Lane) -> None:
        """Open a lane.

        Raises:
            ValueError: A lane with this name exists.
        """
        self._lanes.add(lane)

    def remove_lane(self, name: str) -> None:
        """Close a lane that no stream uses; then its engine may be closed.

        Raises:
            ValueError: The lane is in use.
        """
        self._lanes.remove(name)

    def swap_engine(self, name: str, engine: Engine, timeout_s: float = SWAP_TIMEOUT_S, replica: int | None = 0) -> Engine | None:
        """Replace an engine of a lane between two batches: no frame is lost or waits.

        Args:
            name: The name of the lane.
            engine: The new engine: for images of the same size, fitted in the same way, and with the same classes.
            timeout_s: The maximum time for the last batch in the old engine, seconds.
            replica: The number of the lane's replica; None: the engine is added as another one, and takes batches at once.

        Returns:
            The old engine, which its owner has to close; None if there is none, or it is still running a batch after this time.

        Raises:
            ValueError: The new engine does not fit the lane.
        """
        return self._lanes.swap(name, engine, timeout_s, replica)

    def observe(self, observer: Callable[[PendingResult, Steps], None] | None) -> None:
        """Show each inferred frame, with its detections before tracking, to a function that is quick and does not fail."""
        self._stage.observer = observer

    def give_up(self, name: str, error: VisionInferError) -> None:
        """Report that the engine of a lane cannot be opened: the frames that wait for it fail, as if the engine had failed."""
        if not self._keep_going:
            self._fail(error)
        self._lanes.give_up(name, error if isinstance(error, EngineError) else EngineError(error.message, error.hint))

    def add(self, command: AddStream, steps: Steps | None = None) -> None:
        """Run a stream: at once, or when an earlier one has ended. After :meth:`stop`, or a failure of all streams, never.

        Args:
            command: What to do with the stream.
            steps: Its steps, if they are made already, of a live stream only.

        Raises:
            ValueError: A stream with this name exists, or the lane does not.
            UsageError: The command of a live stream cannot be carried out.
            OutputError: An output of a live stream cannot be written.
        """
        name = command.source.name
        if name in self._streams.by_name or not self._lanes.of_group(command.lane):
            raise ValueError(f"stream {name!r} exists already, or lane {command.lane!r} does not exist")
        if command.source.kind == "live" and steps is None:
            steps = self._launcher.steps(command)
        try:
            self._add(command, steps)
        except VisionInferError:
            if steps is not None and steps.hooks is not None:
                steps.hooks.close()
            raise

    def _add(self, command: AddStream, steps: Steps | None) -> None:
        name = command.source.name
        with self._changed:
            shown, private = redact(command.source.paths[0]), command.private_sink is not None
            record = StreamRecord(name, shown, private=private, row_stream=command.row_stream)
            worker = None if steps is None or self._stopped else self._launcher.live(command, steps, record)
            self._streams.by_name[name] = record
            if self._stopped:
                self._streams.set_state(record, StreamState.STOPPED, "stopped before its turn")
                if steps is not None and steps.hooks is not None:
                    steps.hooks.close()
                return
            if worker is not None:
                self._active[name] = worker
                self._streams.set_state(record, StreamState.CONNECTING)
                self._start(worker)
                return
            self._waiting.append(command)
        self._start_waiting()

    def change(self, command: AddStream) -> None:
        """Run a live stream with another command. It keeps its connection if the source is the same, and restarts otherwise.

        Raises:
            KeyError: There is no such live stream.
            UsageError: The command cannot be carried out; the stream continues unchanged.
        """
        name = command.source.name
        worker = self._active.get(name)
        if not isinstance(worker, LiveWorker) or name in self._forgotten:
            raise KeyError(name)
        old = worker.command
        if (old.source, old.secondary, old.reconnect) != (command.source, command.secondary, command.reconnect):
            steps = self._launcher.steps(command)  # a command that cannot be carried out must not end the stream
            self.remove(name)
            self.add(command, steps)
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
        if command.lane != old.lane:  # frames in the old engine still get their results; frames that wait there would be late
            for lane in self._lanes.of_group(old.lane):
                for waiting in self._dispatch.leave_lane(name, lane.name):
                    worker.superseded(waiting)

    def remove(self, name: str, forget: bool = False) -> None:
        """Stop a stream; frames that are decoded already are still finished and written.

        Args:
            name: The name of the stream. A stream that does not exist is not an error.
            forget: Whether to wait for the end and free the name. A live stream is always forgotten, even if its camera does
                not answer; a recorded stream may have to return from its source first.
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
