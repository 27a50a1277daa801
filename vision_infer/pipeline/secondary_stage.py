"""The secondary model, which looks at each detection: crops of the frame go through another lane and come back.

The crops of a frame wait together, so that they form one batch as far as the engine allows, with crops of other frames and
streams. A frame stays in memory until its last crop has come back. It keeps its credit of the stream's window until then, so the
window also bounds the number of frames that wait here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import Clock
from vision_infer.core.description import Description
from vision_infer.core.details import Keypoints
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.completion import PendingResult
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.stream.crop import Crops, whole_pixels

MAX_CROPS = 64
"""The maximum number of crops of a frame: those of its best detections."""
KEYPOINT_MARGIN = 0.125
"""The margin around a detection whose keypoints are wanted, as a share of its box: models of keypoints are trained with it."""


@dataclass(slots=True)
class _CroppedFrame:
    pending: PendingResult
    descriptions: list[Description | None]
    """The description of each detection."""
    missing: int
    """The number of crops that have not come back."""


@dataclass(slots=True)
class SecondaryStage:
    """The frames of one stream that wait for their crops, in order; on one thread.

    Args:
        stream: The name of the stream.
        lane: The lane of the crops; the stream has joined it with a queue for ``MAX_CROPS`` of each frame in its window.
        dispatch: Receives the crops.
        clock: The monotonic clock.
        margin: The margin around each detection, as a share of its box, inside the image.
    """

    stream: str
    lane: str
    dispatch: Dispatch
    clock: Clock
    margin: float = 0.0
    _frames: deque[_CroppedFrame] = field(default_factory=deque)
    _crops: dict[int, tuple[_CroppedFrame, int]] = field(default_factory=dict)
    """The crops in the engine, by sequence number: the frame, and the index of the detection."""
    _sequence: int = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, pending: PendingResult) -> None:
        """Take the stream's next frame and queue its crops."""
        frame, detections = pending.frame, pending.detections
        # A gated frame repeats a result, and its detections have descriptions already.
        chosen = [] if pending.gated else np.argsort(-detections.scores, kind="stable")[:MAX_CROPS].tolist()
        cropped = _CroppedFrame(pending, [None] * len(detections), len(chosen))
        self._frames.append(cropped)
        if not chosen:
            return
        frame.trace.secondary_start_ns = frame.trace.secondary_end_ns = self.clock.monotonic_ns()
        crops = Crops(frame.image)
        offered: list[tuple[int, Frame]] = []
        for index in chosen:
            self._crops[self._sequence] = (cropped, index)
            crop = Frame(frame.stream, frame.index, frame.pts_s, crops.part(self._around(detections.boxes[index])), Trace())
            offered.append((self._sequence, crop))
            self._sequence += 1
        self.dispatch.offer_all(self.stream, self.lane, offered)

    def came_back(self, sequence: int, description: Description | None) -> None:
        """Take the result of a crop; None when the engine failed on it."""
        cropped, index = self._crops.pop(sequence)
        cropped.descriptions[index] = description
        cropped.missing -= 1
        if not cropped.missing:
            cropped.pending.frame.trace.secondary_end_ns = self.clock.monotonic_ns()

    def ready(self) -> Iterator[PendingResult]:
        """Take the frames whose crops have all come back, in order."""
        while self._frames and not self._frames[0].missing:
            cropped = self._frames.popleft()
            pending = cropped.pending
            if pending.engine is not None:
                pending.detections = self._described(cropped)
            yield pending

    def _around(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        more = (box[2:] - box[:2]) * self.margin
        return np.concatenate([box[:2] - more, box[2:] + more])

    def _described(self, cropped: _CroppedFrame) -> Detections:
        """Return the detections of a frame with their descriptions; keypoints are details, in pixels of the frame."""
        found, size = cropped.pending.detections, cropped.pending.frame.image.size
        given = [None if one is None else one.keypoints for one in cropped.descriptions]
        first = next((one for one in given if one is not None), None)
        if first is None:
            return replace(found, descriptions=tuple(cropped.descriptions))
        points = np.zeros((len(found), *first.points.shape[1:]), np.float32)  # those without a result have scores of 0
        for index, one in enumerate(given):
            if one is not None:
                left, top, _, _ = whole_pixels(self._around(found.boxes[index]), size)
                points[index] = one.points[0] + np.array([left, top, 0], np.float32)
        return replace(found, details=Keypoints(points, first.layout))
