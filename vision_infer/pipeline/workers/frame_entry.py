"""The entry of one stream's frames into the pipeline: pacing, motion gate, window, dispatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vision_infer.analyze.tiling import Tiling
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import RefusedError, UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.pipeline.channel import Channel
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.messages import Gated, Message, Passed
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.pipeline.workers.gating import make_gate
from vision_infer.schedule.pacing import Pacer
from vision_infer.schedule.queues import QueuedItem


class FrameEntry:
    """Decides which decoded frames enter the pipeline, numbers them, and hands them on. The stream's own thread calls it.

    Args:
        record: The stream's counters; frames that do not enter are counted there.
        command: What to do with the stream.
        acquire: Takes a credit of the stream's window; returns False when there is none.
        no_credit: The reason to count when there is no credit.
        dispatch: Receives the frames to infer.
        results: Receives the frames that are not inferred.
        lane_of: Returns the name of the lane for an image size.
    """

    __slots__ = (
        "_acquire",
        "_dispatch",
        "_gate",
        "_lane_of",
        "_no_credit",
        "_pacer",
        "_record",
        "_results",
        "_tiling",
        "sequence",
        "timed",
    )

    def __init__(
        self,
        record: StreamRecord,
        command: AddStream,
        acquire: Callable[[], bool],
        no_credit: DropReason,
        dispatch: Dispatch,
        results: Channel[Message],
        lane_of: Callable[[Size], str],
    ) -> None:
        self._record = record
        self._acquire = acquire
        self._no_credit = no_credit
        self._dispatch = dispatch
        self._results = results
        self.sequence = 0
        """The number of frames that have entered: the sequence number of the next one."""
        self._pacer = _pacer(command)
        self._configure(command, lane_of)

    def change(self, old: AddStream, command: AddStream, lane_of: Callable[[Size], str]) -> None:
        """Continue with another command for the same source."""
        if command.policy.fps != old.policy.fps:
            self._pacer = _pacer(command)
        self._configure(command, lane_of)

    def _configure(self, command: AddStream, lane_of: Callable[[Size], str]) -> None:
        self._lane_of = lane_of
        self._tiling = Tiling.made(command.policy.tiles, command.region if command.policy.crop_region else None)
        self._record.tiles = 1
        # A new gate: the last result may not be valid with the new settings, so the next frame is inferred.
        self._gate = make_gate(command)
        self.timed = self._pacer is not None or self._gate is not None
        """Whether the time of a frame matters."""

    def is_due(self, time_ns: int | None) -> bool:
        """Return whether pacing selects the frame. Call it once for each frame, in order."""
        return self._pacer is None or time_ns is None or self._pacer.wants(time_ns)

    def enter(self, frame: Frame, time_ns: int | None) -> QueuedItem[Frame] | None:
        """Send a frame to its lane, or past the engine when nothing has moved in it.

        Args:
            frame: The next frame that pacing has selected.
            time_ns: The stream's own time of the frame, nanoseconds; None for a still image.

        Returns:
            The older frame of a live stream that this frame supersedes in the lane, or None.

        Raises:
            RefusedError: The image cannot be cut into the tiles of the settings.
        """
        shown = frame.image.size
        if self._tiling is not None:
            frame, shown = self._cut(frame, self._tiling)
        moves = self._gate is None or time_ns is None or self._gate.wants(frame.image, time_ns)
        if not self._acquire():
            self._record.drop(self._no_credit, frame)
            return None
        sequence = self.sequence
        self.sequence = sequence + 1
        if not moves:
            self._results.put(Gated(frame, sequence))
            return None
        return self._dispatch.offer(frame.stream, self._lane_of(shown), sequence, frame)

    def _cut(self, frame: Frame, tiling: Tiling) -> tuple[Frame, Size]:
        """Return the frame with its tiles, and the size of an image that is inferred."""
        try:
            tiles = tiling.of(frame.image.size)
        except UsageError as error:
            raise RefusedError(f"{self._record.name}: {error.message}", error.hint) from None
        self._record.tiles = max(1, len(tiles))
        return (replace(frame, tiles=tiles), tiles[0].size) if tiles else (frame, frame.image.size)

    def pass_by(self, frame: Frame) -> None:
        """Send a frame that pacing has not selected past the engine: it is only drawn."""
        if not self._acquire():
            self._record.drop(self._no_credit, frame)
            return
        self._results.put(Passed(frame, self.sequence))
        self.sequence += 1


def _pacer(command: AddStream) -> Pacer | None:
    return None if command.policy.fps is None else Pacer(command.policy.fps)
