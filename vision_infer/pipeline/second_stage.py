"""A second network that looks at each detection: crops of the frame go through a lane of their own, and come back to it.

The crops of a frame wait together, so that they make one batch as far as the engine takes it, with those of other frames and
streams. A frame stays referenced until its last crop has come back; as it keeps its place in the stream's window until then,
no more frames wait here than that has places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from vision_infer.core.clock import Clock
from vision_infer.core.description import Description
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.completion import Found
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.stream.crop import Crops

MAX_CROPS = 64
"""of a frame: its best detections; what is below them is not looked at"""


@dataclass(slots=True)
class _Pending:
    found: Found
    told: list[Description | None]
    """of each detection"""
    missing: int


@dataclass(slots=True)
class SecondStage:
    """The frames of one stream that wait for their crops, in order; on one thread.

    Args:
        stream: its name.
        lane: where the crops go; the stream has joined it with a queue for ``MAX_CROPS`` of each frame in its window.
    """

    stream: str
    lane: str
    dispatch: Dispatch
    clock: Clock
    _pending: deque[_Pending] = field(default_factory=deque)
    _crops: dict[int, tuple[_Pending, int]] = field(default_factory=dict)
    """crops on their way, by their sequence: whose, and of which detection"""
    _sequence: int = 0

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, found: Found) -> None:
        """Take the stream's next frame; its crops begin to wait for their batch."""
        frame, detections = found.frame, found.detections
        # What is repeated was looked at before.
        chosen = [] if found.gated else np.argsort(-detections.scores, kind="stable")[:MAX_CROPS].tolist()
        pending = _Pending(found, [None] * len(detections), len(chosen))
        self._pending.append(pending)
        if not chosen:
            return
        frame.trace.secondary_start_ns = frame.trace.secondary_end_ns = self.clock.monotonic_ns()
        crops = Crops(frame.image)
        offered: list[tuple[int, Frame]] = []
        for place in chosen:
            self._crops[self._sequence] = (pending, place)
            crop = Frame(frame.stream, frame.index, frame.pts_s, crops.part(detections.boxes[place]), Trace())
            offered.append((self._sequence, crop))
            self._sequence += 1
        self.dispatch.offer_all(self.stream, self.lane, offered)

    def came_back(self, sequence: int, description: Description | None) -> None:
        """A crop has its result; None: it has none, for the engine failed on it."""
        pending, place = self._crops.pop(sequence)
        pending.told[place] = description
        pending.missing -= 1
        if not pending.missing:
            pending.found.frame.trace.secondary_end_ns = self.clock.monotonic_ns()

    def ready(self) -> Iterator[Found]:
        """The frames that can go on, in order."""
        while self._pending and not self._pending[0].missing:
            pending = self._pending.popleft()
            found = pending.found
            if found.engine is not None:
                found.detections = replace(found.detections, descriptions=tuple(pending.told))
            yield found
