"""The maximum age of the frames of one live connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.stream.live.capture_clock import SECOND, CaptureClock, UntimedClock
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadReport, SourceSpec

_MAX_HELD = 3
_STALE_STALLS = 2
"""The number of stall timeouts after which a connection that delivers only frames that are too old counts as dead."""


class AgeLimit:
    """Drops the frames that are too old, and holds back those whose age is not known yet."""

    def __init__(self, spec: SourceSpec, report: ReadReport, now: Callable[[], int]) -> None:
        self.max_age_ns = round(spec.live.max_age_s * SECOND)
        self._shown = redact(spec.paths[0])
        self._stall_ns = spec.live.stall_timeout_s * SECOND
        self._report = report
        self._now = now
        self._held: deque[Frame] = deque()
        self._stale_since: int | None = None

    def reset(self) -> None:
        """Restart the detection of a connection on which all frames are too old."""
        self._stale_since = None

    def hold(self, frame: Frame) -> None:
        """Hold back a frame of unknown age. Of more than three, the oldest is dropped."""
        self._held.append(frame)
        if len(self._held) > _MAX_HELD:
            self._held.popleft()
            self._report.drop(DropReason.STALE)

    def release(self, times: CaptureClock | UntimedClock) -> Iterator[Frame]:
        """Once ages are known, yield the frames that were held back and are recent enough."""
        while self._held and times.settled:
            frame = self._held.popleft()
            pts_ns = None if frame.pts_s is None else round(frame.pts_s * SECOND)
            frame.trace.captured_ns = times.captured(pts_ns, frame.trace.decode_start_ns)
            frame.trace.clock = times.clock
            if self.accepts(frame):
                yield frame

    def accepts(self, frame: Frame) -> bool:
        """Return whether a frame is recent enough; count it as dropped if not.

        Raises:
            StreamError: All frames have been too old for twice the stall timeout.
        """
        now = self._now()
        age_ns = now - frame.trace.captured_ns
        if age_ns <= self.max_age_ns:
            self._stale_since = None
            return True
        self._stale_since = self._stale_since or now
        stalls = (now - self._stale_since) / self._stall_ns
        self._report.drop(DropReason.LATE if stalls > 1 else DropReason.STALE)
        if stalls > _STALE_STALLS:
            raise StreamError(
                f"{self._shown}: frames keep arriving {age_ns / SECOND:.1f} s late",
                "the network is too slow, or the camera's clock is wrong",
            )
        return False
