"""The encoder of annotated video: in hardware if one works, else x264."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.logging
from av.video.codeccontext import VideoCodecContext

from vision_infer.core.errors import OutputError
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Encoder:
    """An H.264 encoder of FFmpeg, with options for about the quality of x264's CRF 23."""

    name: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]


X264 = Encoder("libx264", "yuv420p", (("preset", "veryfast"), ("crf", "23")))
ENCODERS = (
    Encoder("h264_nvenc", "yuv420p", (("preset", "p4"), ("rc", "vbr"), ("cq", "26"), ("b", "0"))),
    Encoder("h264_videotoolbox", "nv12", (("q", "55"),)),
    Encoder("h264_qsv", "nv12", (("global_quality", "26"),)),
    X264,
)
"""The encoders in the order in which they are tried. VA-API is missing: it needs surfaces, to which PyAV cannot copy a frame."""


def choose_encoder(size: Size, rate: Fraction, time_base: Fraction, encoders: Sequence[Encoder] = ENCODERS) -> Encoder:
    """Return the first encoder that can be opened for such a video; trying a missing one takes milliseconds.

    Raises:
        OutputError: There is none.
    """
    reason: Exception | None = None
    for encoder in encoders:
        try:
            _try(encoder, size, rate, time_base)
        except (av.error.FFmpegError, ValueError, OSError) as error:  # not built in, no such device, no such size
            reason = error
        else:
            return encoder
    tried = ", ".join(encoder.name for encoder in encoders)
    raise OutputError(f"no H.264 encoder works here for {size} (tried {tried}): {reason}", "Choose a .jsonl output.") from reason


def _try(encoder: Encoder, size: Size, rate: Fraction, time_base: Fraction) -> None:
    context = av.CodecContext.create(encoder.name, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = size.width, size.height
    context.pix_fmt = encoder.pix_fmt
    context.time_base, context.framerate = time_base, rate
    context.options = dict(encoder.options)
    with av.logging.Capture():  # FFmpeg's messages about missing devices are not relevant
        context.open()
