"""The annotated video: H.264 in MP4, with the size, frame rate, timing and sound of its source."""

from __future__ import annotations

from fractions import Fraction

import av
import av.container
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.audio import SoundCopy
from vision_infer.sink.output_file import OutputFile, output_error
from vision_infer.sink.pictures import Draw
from vision_infer.sink.sink import OutputSpec

_FALLBACK_RATE = Fraction(25)
_FALLBACK_TIME_BASE = Fraction(1, 90_000)
_MOST_FINE = 1_000_000


class VideoSink:
    """An MP4 of one stream.

    A frame that was not inferred shows the detections of the last one that was. The file is opened with the first frame, which
    decides its size; later frames of another size are fitted to it.

    Args:
        spec: where to write.
        draw: draws detections into an RGB array.
        sound_from: the source file whose sound is kept; None for none.
        frame_rate: of the source; None if unknown.
        time_base: of the source's timestamps; None if unknown.
    """

    needs_pictures = True

    def __init__(
        self,
        spec: OutputSpec,
        draw: Draw,
        sound_from: str | None,
        frame_rate: Fraction | None,
        time_base: Fraction | None,
    ) -> None:
        self._file = OutputFile(spec.path, spec.overwrite)
        self._draw = draw
        self._sound_from = sound_from
        self._rate = frame_rate or _FALLBACK_RATE
        self._time_base = time_base or _FALLBACK_TIME_BASE
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._sound: SoundCopy | None = None
        self._reformatter = VideoReformatter()
        self._last_pts = -1
        self._last = Detections.empty()
        self._closed = False

    def write(self, frame: Frame, result: Result | None) -> None:
        """Draw and encode one frame."""
        rgb = frame.picture.to_rgb()
        if result is not None:
            self._last = result.detections
        rgb = _even(self._draw(rgb, self._last))
        try:
            if self._container is None:
                self._open(rgb.shape[1], rgb.shape[0])
            self._encode(rgb, self._pts(frame.pts_s))
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error

    def close(self, complete: bool) -> None:
        """Write what the encoder holds and the index, so that the file plays, and put it in its place."""
        if self._closed:
            return
        self._closed = True
        if self._container is None or self._stream is None:
            self._file.discard()
            return
        try:
            with self._container as container:
                for packet in self._stream.encode(None):
                    container.mux(packet)
                if self._sound is not None:
                    self._sound.copy_until(float("inf") if complete else float(self._last_pts * self._time_base))
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error
        finally:
            if self._sound is not None:
                self._sound.close()
        self._file.commit()

    def _open(self, width: int, height: int) -> None:
        # The time of the first frame is kept in units of the whole file: milliseconds, unless it is told better.
        fine = min(self._time_base.denominator, _MOST_FINE)
        container = av.open(str(self._file.partial), "w", format="mp4", options={"movie_timescale": str(max(1000, fine))})
        stream = container.add_stream("libx264", rate=self._rate, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        # BT.709, limited range, and said so: what players assume otherwise depends on the size.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        self._container, self._stream = container, stream
        if self._sound_from is not None:
            self._sound = SoundCopy(self._sound_from, container)

    def _encode(self, rgb: NDArray[np.uint8], pts: int) -> None:
        assert self._container is not None
        assert self._stream is not None
        picture = av.VideoFrame.from_ndarray(rgb, "rgb24")
        picture = self._reformatter.reformat(
            picture, self._stream.width, self._stream.height, "yuv420p", dst_colorspace=Colorspace.ITU709, threads=1
        )
        picture.pts, picture.time_base = pts, self._time_base
        for packet in self._stream.encode(picture):
            self._container.mux(packet)
        if self._sound is not None:
            self._sound.copy_until(float(pts * self._time_base))

    def _pts(self, seconds: float | None) -> int:
        # Timestamps must rise: one that is missing or does not rise goes right after the one before.
        pts = self._last_pts + 1
        if seconds is not None:
            pts = max(pts, round(seconds / self._time_base))
        elif self._last_pts >= 0:
            pts = self._last_pts + max(1, round(1 / (self._rate * self._time_base)))
        self._last_pts = pts
        return pts

    def _error(self, error: Exception) -> OutputError:
        if isinstance(error, OSError):
            return output_error(self._file.path, error)
        return OutputError(
            f"{self._file.path}: cannot be encoded: {error}", "choose a .jsonl output, or another place with --out"
        )


def _even(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H.264 with 4:2:0 chroma has even sizes: repeat the last column or row where needed."""
    height, width = rgb.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return rgb
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
