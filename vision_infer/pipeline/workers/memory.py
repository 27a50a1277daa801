"""What the decoded pictures of recorded streams may take together."""

from __future__ import annotations

import math
from collections.abc import Callable

from vision_infer.pipeline.channel import Window
from vision_infer.pipeline.stream_record import StreamRecord

PICTURE_MEMORY_BYTES = 1 << 30
"""of all open streams, as far as their windows can be made smaller for it"""
MIN_WINDOW = 2
WIDEST_WINDOW = 32
WIDE_MEMORY_BYTES = 128 << 20
"""of all open streams, as far as their windows may be wider for it"""
MANY_STREAMS = 4
"""while so many are open, the others keep the engine busy until one's window is back whole: its decoder is woken half as often"""
BYTES_PER_PIXEL = 3
"""of a decoded picture whose format is not known: 10 bits with 4:2:0 chroma, or RGB"""


def bound_memory(
    record: StreamRecord, window: Window, most: int, widest: int, open_streams: int, open_now: Callable[[], int]
) -> None:
    """Let fewer large pictures be on their way, before the first is; and more small ones, where they go through quickly.

    Args:
        record: of the stream; it notes how much memory they may take.
        window: of the stream.
        most: how many places it has.
        widest: how many it may have while they go through quickly; less than ``most``: no more than that.
        open_streams: streams that may be open at the same time.
        open_now: how many are.
    """
    info = record.info
    if info is None or info.size is None:
        return
    image = math.ceil(info.size.width * info.size.height * (info.bytes_per_pixel or BYTES_PER_PIXEL))
    fit = PICTURE_MEMORY_BYTES // (open_streams * image)
    places = max(MIN_WINDOW, min(most, fit))
    widest = max(places, min(widest, WIDE_MEMORY_BYTES // (open_streams * image)))
    window.bound(places, widest, lambda: open_now() >= MANY_STREAMS)
    record.image_bytes = widest * image
