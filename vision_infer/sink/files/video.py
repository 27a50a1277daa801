"""The annotated video: H.264 in MP4, by default with the size, frame rate, timing and sound of its source."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import av.container
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.sink.files.audio import LiveSoundCopy, SoundCopy
from vision_infer.sink.files.encoder import ENCODERS, Encoder, choose_encoder
from vision_infer.sink.files.output_file import OutputFile, output_error
from vision_infer.sink.files.shrink import shrunk_size, shrunk_to
from vision_infer.sink.live_sound import LiveSound
from vision_infer.sink.sink import Draw, OutputSpec, SinkStream, Written
from vision_infer.sink.space import NoSpaceError, ReservedFile, SpaceReserve, is_full

_FALLBACK_RATE = Fraction(25)
_FALLBACK_TIME_BASE = Fraction(1, 90_000)
_MAX_FINE = 1_000_000
_RESERVE = 256 * 1024
"""The space reserved for the buffer of the muxer and the index of the first minutes, bytes."""
_INDEX_PER_FRAME = 64
"""The approximate size of the index per frame, bytes."""
_RESERVE_EVERY = 1000
"""The number of frames after which the reserve grows."""


def open_sink(spec: OutputSpec, stream: SinkStream) -> VideoSink:
    """Open the sink of a run."""
    return VideoSink(spec, stream.make_draw(spec.labels or "scores"), stream.sound_from, stream.frame_rate, stream.time_base)


class VideoSink:
    """Writes an MP4 of one stream.

    A frame without inference shows the last detections. The first frame determines the size; later frames of another size are
    fitted to it. ``spec.fps`` limits the frame rate, and each frame keeps its time; with ``spec.height`` the frame is made
    smaller before drawing. When the disk is full, the video is finished with reserved space.

    Args:
        spec: The output.
        draw: A function that draws results into an RGB array.
        sound_from: The source file whose sound is kept, or the sound of a live source; None: no sound.
        frame_rate: The frame rate of the source; None if unknown.
        time_base: The time base of the source; None if unknown.
        encoders: The encoders to try, in this order.
    """

    needs_images = True

    def __init__(
        self,
        spec: OutputSpec,
        draw: Draw,
        sound_from: str | LiveSound | None,
        frame_rate: Fraction | None,
        time_base: Fraction | None,
        encoders: Sequence[Encoder] = ENCODERS,
    ) -> None:
        self._file = OutputFile(spec.path, spec.overwrite)
        self._draw = draw
        self._sound_from = sound_from
        self._rate = frame_rate or _FALLBACK_RATE
        self._fps = _fewer(spec.fps, self._rate)
        self._height = spec.height
        self._time_base = time_base or _FALLBACK_TIME_BASE
        self._encoders = encoders
        self._target: ReservedFile | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._encoder = ""
        self._sound: SoundCopy | LiveSoundCopy | None = None
        self._reformatter = VideoReformatter()
        self._start_ns: int | None = None
        self._first_pts = 0
        self._last_pts = -1
        self._shown = -1  # the last interval of --preview-fps of which a frame was written
        self._frames = 0
        self._last = Detections.empty()
        self._description: Description | None = None
        self._closed = False
        self._failure: OutputError | None = None
        self._in_place = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The video and its encoder, once it is finished."""
        return [Written(str(self._file.path), self._encoder)] if self._in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:
        """Draw and encode one frame."""
        if self._failure is not None:
            raise self._failure
        if result is not None:
            self._last, self._description = result.detections, result.description
        pts = self._pts(self._seconds(frame))
        if not self._is_shown(pts):
            return
        rgb = self._drawn(frame)
        try:
            if self._container is None:
                self._open(rgb.shape[1], rgb.shape[0])
            self._encode(rgb, pts)
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error
        if self._target is not None and self._target.full:
            self.close(False)  # raises an error with the state of the video

    def close(self, complete: bool) -> None:
        """Write the buffered frames and the index, and give the file its final name."""
        if self._closed:
            return
        self._closed = True
        if self._container is None or self._stream is None or self._target is None:
            self._file.discard()
            return
        try:
            with self._container as container:
                if not self._target.full:
                    for packet in self._stream.encode(None):
                        container.mux(packet)
                if self._sound is not None and not self._target.full:
                    self._sound.copy_until(float("inf") if complete else float(self._last_pts * self._time_base))
        except (av.error.FFmpegError, OSError) as error:
            self._failure = self._error(error)
            self._file.discard()
            raise self._failure from error
        finally:
            self._target.reserve.release()
            if self._sound is not None:
                self._sound.close()
        if self._target.full:
            self._failure = self._no_space("it can be played up to this point")
        self._file.commit()
        self._in_place = True
        if self._failure is not None:
            raise self._failure

    def _drawn(self, frame: Frame) -> NDArray[np.uint8]:
        if self._height is None or self._height >= frame.image.size.height:
            return _even(self._draw(frame.image.to_rgb(), self._last, self._description))
        size = shrunk_size(frame.image.size, self._height)
        if self._stream is not None:
            size = Size(self._stream.width, self._stream.height)
        return self._draw(shrunk_to(frame.image, size), self._last.scaled(frame.image.size, size), self._description)

    def _open(self, width: int, height: int) -> None:
        rate = self._rate if self._fps is None else self._fps
        encoder = choose_encoder(Size(width, height), rate, self._time_base, self._encoders)
        self._target = ReservedFile(self._file.raw, SpaceReserve(self._file.path.parent, _RESERVE))
        # The container stores the time of the first frame in movie_timescale units, milliseconds by default.
        fine = min(self._time_base.denominator, _MAX_FINE)
        container = av.open(self._target, "w", format="mp4", options={"movie_timescale": str(max(1000, fine))})
        stream = container.add_stream(encoder.name, rate=rate, options=dict(encoder.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = encoder.pix_fmt
        context = stream.codec_context
        context.time_base = self._time_base
        # BT.709, limited range, and marked as such: otherwise players guess from the size.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        self._container, self._stream, self._encoder = container, stream, encoder.name
        if isinstance(self._sound_from, LiveSound):
            self._sound = LiveSoundCopy(self._sound_from, container, self._start_ns or 0)
        elif self._sound_from is not None:
            self._sound = SoundCopy(self._sound_from, container)

    def _encode(self, rgb: NDArray[np.uint8], pts: int) -> None:
        assert self._container is not None
        assert self._stream is not None
        image = av.VideoFrame.from_ndarray(rgb, "rgb24")
        width, height, pix_fmt = self._stream.width, self._stream.height, self._stream.pix_fmt
        image = self._reformatter.reformat(image, width, height, pix_fmt, dst_colorspace=Colorspace.ITU709, threads=1)
        image.pts, image.time_base = pts, self._time_base
        for packet in self._stream.encode(image):
            self._container.mux(packet)
        if self._sound is not None:
            self._sound.copy_until(float(pts * self._time_base))
        self._frames += 1
        if self._frames % _RESERVE_EVERY == 0 and self._target is not None:
            self._target.grow_reserve(_RESERVE + self._frames * _INDEX_PER_FRAME)

    def _seconds(self, frame: Frame) -> float | None:
        """Return the time of a frame. The PTS of a live stream restart with each connection; its capture times do not."""
        captured_ns = frame.trace.captured_ns
        if not captured_ns:
            return frame.pts_s
        if self._start_ns is None:
            self._start_ns = captured_ns
        return (captured_ns - self._start_ns) / 1e9

    def _pts(self, seconds: float | None) -> int:
        # Timestamps must increase: a missing or smaller one is set right after the previous one.
        first = self._last_pts < 0
        pts = self._last_pts + 1
        if seconds is not None:
            pts = max(pts, round(seconds / self._time_base))
        elif not first:
            pts = self._last_pts + max(1, round(1 / (self._rate * self._time_base)))
        if first:
            self._first_pts = pts
        self._last_pts = pts
        return pts

    def _is_shown(self, pts: int) -> bool:
        """Return whether it is the first frame of an interval of the preview frame rate."""
        if self._fps is None:
            return True
        interval = int((pts - self._first_pts) * self._time_base * self._fps)
        if interval == self._shown:
            return False
        self._shown = interval
        return True

    def _no_space(self, kept: str) -> NoSpaceError:
        if self._target is None:
            return NoSpaceError(self._file.path, kept=kept)
        return NoSpaceError(self._file.path, self._target.size, kept=kept, free=self._target.free)

    def _error(self, error: Exception) -> OutputError:
        if isinstance(error, OSError):
            if is_full(error):
                return self._no_space("the video could not be finished and is removed")
            return output_error(self._file.path, error)
        return OutputError(
            f"{self._file.path}: cannot be encoded: {error}", "Choose a .jsonl output, or another path with --out."
        )


def _fewer(fps: float | None, rate: Fraction) -> Fraction | None:
    """Return the requested frame rate; None if the source has no more."""
    wanted = None if fps is None else Fraction(fps).limit_denominator(100_000)
    return wanted if wanted is not None and 0 < wanted < rate else None


def _even(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image with an even size, as H.264 with 4:2:0 chroma requires: repeat the last column or row."""
    height, width = rgb.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return rgb
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
