"""The images of events in messages to people."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.completion import NoImage
from vision_infer.service.results.snapshot import of_result

_MAX_WAITING = 4
"""The maximum number of frames that wait for a thread to encode them. Further events have no image."""
_log = logging.getLogger("vision_infer.sinks")


class EventImages:
    """Keeps the frames of a few events, until the thread of a spool encodes them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        # Limits the frames in memory; held from the result until its image is encoded.
        self.slots = threading.BoundedSemaphore(_MAX_WAITING)

    def of(self, frame: Frame, result: Result) -> EventImage | None:
        """Return the image of a result; None if there is none, or too many wait. The caller encodes or releases it."""
        if isinstance(frame.image, NoImage) or not self.slots.acquire(blocking=False):
            return None
        return EventImage(self, frame, result)


class EventImage:
    """The frame of an event, which is encoded later, with its detections."""

    def __init__(self, images: EventImages, frame: Frame, result: Result) -> None:
        self._images = images
        self._frame = frame
        self._result = result

    def add_to(self, row: Callable[[], str]) -> str:
        """Return a row with the image (JPEG, base64) as its last field, and release the frame."""
        try:
            jpeg = of_result(self._frame, self._result, True, self._images.clock).jpeg
        except Exception as error:  # noqa: BLE001 - the message is worth more than its image
            _log.warning("%s: the image of an event cannot be encoded: %s", self._result.stream, error)
            return row()
        finally:
            self.release()
        return f'{row()[:-1]}, "image": "{base64.b64encode(jpeg).decode()}"}}'

    def release(self) -> None:
        """Release the frame without encoding it."""
        self._images.slots.release()
