"""Makes the worker of a stream, and connects it to dispatch, results stage and outlet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from vision_infer.analyze.identity.gallery import Galleries
from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import Tappable
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.lane_table import LaneTable
from vision_infer.pipeline.messages import Message
from vision_infer.pipeline.outlet import Outlet, output_failure
from vision_infer.pipeline.results_stage import ResultsStage
from vision_infer.pipeline.runs.outputs import open_sink
from vision_infer.pipeline.secondary_stage import KEYPOINT_MARGIN, MAX_CROPS, SecondaryStage
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.steps import Steps, make_steps
from vision_infer.pipeline.stream_record import LiveRecord, StreamRecord
from vision_infer.pipeline.stream_table import StreamTable
from vision_infer.pipeline.workers.decoder_memory import ledger_for, with_decoder
from vision_infer.pipeline.workers.frame_entry import FrameEntry
from vision_infer.pipeline.workers.live_worker import LiveWorker
from vision_infer.pipeline.workers.memory import WIDEST_WINDOW, bound_memory
from vision_infer.pipeline.workers.stream_worker import StreamWorker
from vision_infer.sink.live_sound import LiveSound
from vision_infer.sink.sink import Sink
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.telemetry.flight_recorder import FlightRecorder

OpenStream = Callable[[SourceSpec, int, threading.Event], Source]


@dataclass(frozen=True, slots=True)
class Launcher:
    """Makes workers; the caller starts their threads."""

    streams: StreamTable
    lanes: LaneTable
    dispatch: Dispatch
    stage: ResultsStage
    messages: Channel[Message]
    shared: tuple[Sink, ...]
    hook: Hook | None
    open_stream: OpenStream
    decode_threads: int
    max_active: int
    clock: Clock
    output_failed: Callable[[StreamRecord, VisionInferError, bool], None]
    """Called with the first error of a sink, and whether all streams share the sink."""
    written: Callable[[StreamRecord, Outlet], None]
    """Called once for each stream that has joined, when all of it is written and its sinks are closed."""
    galleries: Galleries = field(default_factory=Galleries)
    """The identities that cameras share."""

    def steps(self, command: AddStream, before: tuple[AddStream, Steps] | None = None) -> Steps:
        """Make the steps of a stream, see :func:`make_steps`.

        Raises:
            UsageError: The command cannot be carried out.
        """
        card = self.lanes.of_group(command.lane)[0].engine.card
        return make_steps(command, card, self.hook, self.clock, before, self.galleries)

    def recorded(self, command: AddStream, record: StreamRecord) -> StreamWorker:
        """Make the worker of a recorded stream, which joins when its source is open."""
        window = Window(self.lanes.window(command.lane), clock=self.clock)

        def open_it(stopping: threading.Event) -> AbstractContextManager[Source]:
            return self._open(record, command.source, command.lane, stopping)

        def opened(source: Source) -> bool:
            return self._opened(source, command, record, window)

        # The decoder waits for a credit. There is none only after stop() has closed the window.
        entry = self._entry(record, command, window.acquire, DropReason.STOPPED)
        return StreamWorker(record, command, open_it, opened, entry, self.messages, self.clock, window)

    def live(self, command: AddStream, steps: Steps, record: StreamRecord) -> LiveWorker:
        """Make the worker of a live stream, which joins at once: its connection may come later, and more than once."""
        live = record.live = LiveRecord(command.lane, command.weight, command.policy.fps, flight=FlightRecorder(self.clock))
        size = self.lanes.window(command.lane)
        window = Window(size)
        secondary = self._secondary_stage(command)
        # Its outputs are open before its first connection, and stay open between connections.
        sinks: list[Sink] = []
        sound = LiveSound(self.clock) if any(output.kind == "video" for output in command.outputs) else None
        with ExitStack() as opened:
            for output in command.outputs:
                sinks.append(open_sink(output, None, record.name, sound))
                opened.callback(sinks[-1].close, False)
            opened.pop_all()
        self.stage.join(record, self._outlet(record, sinks, self.shared, window, size), steps, window, secondary)
        self.join(command, None, size)

        def open_it(stopping: threading.Event) -> AbstractContextManager[Source]:
            return self._open(record, command.source, live.lane, stopping, sound)

        # A camera never waits: without a credit its frame is dropped.
        entry = self._entry(record, command, window.try_acquire, DropReason.BACKLOGGED)
        on_state = self.streams.set_if_there
        return LiveWorker(record, live, command, open_it, on_state, entry, self.messages, self.clock, window)

    def _entry(self, record: StreamRecord, command: AddStream, acquire: Callable[[], bool], no_credit: DropReason) -> FrameEntry:
        lane_of = self.lanes.chooser(command.lane)
        return FrameEntry(record, command, acquire, no_credit, self.dispatch, self.messages, lane_of)

    def _open(
        self,
        record: StreamRecord,
        source: SourceSpec,
        lane: str,
        stopping: threading.Event,
        sound: LiveSound | None = None,
    ) -> AbstractContextManager[Source]:
        """Open a source. By default its images are decoded on the device on which its lane infers, if that has memory for it."""
        gpus = self.lanes.gpus(lane)
        with self.streams.changed:
            if record.gpu not in gpus:  # of several GPUs, the one that decodes the fewest streams
                taken = [other.gpu for other in self.streams.records() if not other.state.final]
                record.gpu = min(gpus, key=taken.count, default=None)
        spec = replace(source, gpu=record.gpu)
        ledger = ledger_for(spec, [engine for one in self.lanes.of_group(lane) for engine in one.engines])

        def open_it(spec: SourceSpec) -> Source:
            opened = self.open_stream(spec, self.decode_threads, stopping)
            if sound is not None and isinstance(opened, Tappable):
                opened.show(sound)
            return opened

        return with_decoder(spec, record, ledger, open_it)

    def _opened(self, source: Source, command: AddStream, record: StreamRecord, window: Window) -> bool:
        """Make the outlet of a source that is open, and let the stream join; return whether the outlet needs all frames."""
        record.info = source.info
        size = self.lanes.window(command.lane)
        bound_memory(record, window, size, WIDEST_WINDOW, self.max_active, lambda: self.stage.streams)
        steps = self.steps(command)
        sinks: list[Sink] = [] if command.private_sink is None else [command.private_sink]
        failure: VisionInferError | None = None
        for output in command.outputs:
            try:
                sinks.append(open_sink(output, source))
            except Exception as error:  # noqa: BLE001 - the outputs that are open already must be closed
                failure = failure or output_failure(error)
        widest = max(size, WIDEST_WINDOW)
        shared = self.shared if command.private_sink is None else ()
        outlet = self._outlet(record, sinks, shared, window, widest)
        self.stage.join(record, outlet, steps, window, self._secondary_stage(command))
        self.join(command, widest, widest)
        if failure is not None:
            self.output_failed(record, failure, False)
        self.streams.set_state(record, StreamState.RUNNING)
        return outlet.needs_images

    def _secondary_stage(self, command: AddStream) -> SecondaryStage | None:
        if command.secondary is None:
            return None
        card = self.lanes.of_group(command.secondary)[0].engine.card
        margin = KEYPOINT_MARGIN if card.task == "keypoints" else 0.0
        return SecondaryStage(command.source.name, command.secondary, self.dispatch, self.clock, margin)

    def join(self, command: AddStream, capacity: int | None, window: int) -> None:
        """Add a stream to its lanes.

        Args:
            command: The command of the stream.
            capacity: The capacity of its queue; None: a mailbox.
            window: The maximum number of its frames in the pipeline: all their crops fit into the lane of the secondary model.
        """
        name, live = command.source.name, command.source.live
        max_age_ns = round(live.max_age_s * 1e9) if command.source.kind == "live" else None
        for lane in self.lanes.of_group(command.lane):
            self.dispatch.join(name, lane.name, capacity, command.weight, max_age_ns)
        if command.secondary is not None:
            self.dispatch.join(name, command.secondary, window * MAX_CROPS, command.weight)

    def _outlet(self, record: StreamRecord, sinks: Sequence[Sink], shared: Sequence[Sink], window: Window, size: int) -> Outlet:
        outlet = Outlet(
            record.name,
            sinks,
            shared,
            window,
            size,
            self.clock,
            lambda error, shared: self.output_failed(record, error, shared),
            lambda: self.written(record, outlet),
        )
        return outlet
