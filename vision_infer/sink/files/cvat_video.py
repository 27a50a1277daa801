"""CVAT for video 1.1: the tracks of one video, whose frames are referenced by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from vision_infer.core.detections import Detection, Detections
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, SinkStream, Written

_MAX_BOXES = 10_000
"""The maximum number of boxes of a track in memory; a longer track is continued as another one."""
_TAIL = b"</annotations>\n"


def open_sink(spec: OutputSpec, stream: SinkStream) -> CvatVideoSink:
    """Open the sink of a run."""
    return CvatVideoSink(spec, stream.name)


@dataclass(slots=True)
class _CvatTrack:
    label: str
    boxes: list[str] = field(default_factory=list)
    corners: str = ""
    """The corners of the last box, as attributes."""


class CvatVideoSink:
    """Writes a track for each object, from the frame in which it is found until the first one in which it is not; an object that
    is found again later is another track. Without tracking, each detection is a track of one frame. Masks, keypoints and
    rotations are left out.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, stream: str) -> None:
        self._file = RowFile(spec, tail=_TAIL)
        self._stream = stream
        self._tracks: dict[int, _CvatTrack] = {}
        """The tracks in the last frame, by track number, or by a negative number for a detection without one."""
        self._written = 0
        self._begun = self._closed = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is finished."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Continue the tracks of this frame, and end the others."""
        if result is None:
            return
        found = result.detections
        self._begin(found, f"<width>{result.size.width}</width><height>{result.size.height}</height>")
        present = {one.track_id or -1 - number: one for number, one in enumerate(found)}
        for key in list(self._tracks):
            one = present.get(key)
            track = self._tracks[key]
            if one is None or key < 0 or one.label != track.label or len(track.boxes) >= _MAX_BOXES:
                del self._tracks[key]
                self._end(track, result.frame)
        for key, one in present.items():
            track = self._tracks.setdefault(key, _CvatTrack(one.label))
            track.corners = _corners(one)
            track.boxes.append(_box(result.frame, track.corners, 0))

    def _begin(self, found: Detections, size: str) -> None:
        if self._begun:
            return
        self._begun = True
        names = found.label_names or sorted(set(found.labels))
        labels = "".join(f"<label><name>{escape(name)}</name><attributes></attributes></label>\n" for name in names)
        task = f"<name>{escape(self._stream)}</name><mode>interpolation</mode><labels>\n{labels}</labels>"
        head = f"<meta><task>{task}<original_size>{size}</original_size></task></meta>"
        self._file.write(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{head}\n'.encode())

    def _end(self, track: _CvatTrack, frame: int | None) -> None:
        """Write a track; ``frame`` is the first one without it, None: it is in the last frame."""
        boxes = "".join(track.boxes) + ("" if frame is None else _box(frame, track.corners, 1))
        self._file.write(f'<track id="{self._written}" label={quoteattr(track.label)} source="auto">\n{boxes}</track>\n'.encode())
        self._written += 1

    def close(self, complete: bool) -> None:
        """Finish the file; a run that failed before its first result leaves none."""
        if self._closed:
            return
        self._closed = True
        for track in self._tracks.values():
            self._end(track, None)
        self._file.finish(complete and self._begun)


def _corners(found: Detection) -> str:
    return 'xtl="%.2f" ytl="%.2f" xbr="%.2f" ybr="%.2f"' % found.box


def _box(frame: int, corners: str, outside: int) -> str:
    return f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {corners} z_order="0"></box>\n'
