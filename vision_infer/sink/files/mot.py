"""The text format of the MOT Challenge, which tracking tools read and evaluate."""

from __future__ import annotations

from collections.abc import Sequence

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, SinkStream, Written


def open_sink(spec: OutputSpec, stream: SinkStream) -> MotSink:  # noqa: ARG001
    """Open the sink of a run."""
    return MotSink(spec)


class MotSink:
    """Writes a line for each detection of one stream: ``frame,id,left,top,width,height,score,class,-1,-1``.

    As in the challenge, frames, ids and pixels count from 1: the corner of the image is (1, 1). ``class`` is the class
    number plus 1 (1 is the pedestrian, in the challenge and in COCO's order). ``id`` is -1 without tracking.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = RowFile(spec, clock=clock)
        self._closed = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is finished."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a line for each detection."""
        if result is None or not len(result.detections):
            return
        found = result.detections
        tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
        columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), tracks)
        lines = [
            "%d,%d,%.2f,%.2f,%.2f,%.2f,%.4f,%d,-1,-1\n"
            % (result.frame + 1, track or -1, x1 + 1, y1 + 1, x2 - x1, y2 - y1, score, class_id + 1)
            for (x1, y1, x2, y2), score, class_id, track in zip(*columns, strict=True)
        ]
        self._file.write("".join(lines).encode("ascii"))

    def close(self, complete: bool) -> None:
        """Finish the file; a run that failed before its first detection leaves none."""
        if not self._closed:
            self._closed = True
            self._file.finish(complete)
