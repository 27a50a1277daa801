"""A bound for the memory of the decoded images of recorded streams."""

from __future__ import annotations

import math
from collections.abc import Callable

from vision_infer.pipeline.channel import Window
from vision_infer.pipeline.stream_record import StreamRecord

IMAGE_MEMORY_BYTES = 1 << 30
"""The maximum memory of all open streams; windows are made smaller for it, down to ``MIN_WINDOW``."""
MIN_WINDOW = 2
WIDEST_WINDOW = 32
WIDE_MEMORY_BYTES = 128 << 20
"""The maximum memory of all open streams for which their windows are widened."""
MANY_STREAMS = 4
"""With this number of open streams, the others keep the engine busy until all credits of one are back: so its decoder is woken up
half as often."""
BYTES_PER_PIXEL = 3
"""The size of a decoded pixel if its format is not known: 10 bits with 4:2:0 chroma, or RGB."""


def bound_memory(
    record: StreamRecord, window: Window, size: int, widest: int, open_streams: int, open_now: Callable[[], int]
) -> None:
    """Set the window of a stream before its first frame: fewer credits for large images, more for small ones that pass quickly.

    Args:
        record: The stream's counters; the maximum memory is noted there.
        window: The stream's window.
        size: The number of its credits.
        widest: The maximum number while frames pass quickly; a value below ``size`` has no effect.
        open_streams: The maximum number of streams that are open at the same time.
        open_now: Returns the number of streams that are open.
    """
    info = record.info
    if info is None or info.size is None:
        return
    image = math.ceil(info.size.width * info.size.height * (info.bytes_per_pixel or BYTES_PER_PIXEL))
    fit = IMAGE_MEMORY_BYTES // (open_streams * image)
    count = max(MIN_WINDOW, min(size, fit))
    widest = max(count, min(widest, WIDE_MEMORY_BYTES // (open_streams * image)))
    window.bound(count, widest, lambda: open_now() >= MANY_STREAMS)
    record.image_bytes = widest * image
