"""The MOT Challenge format, read back as its specification says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.sink.results import found, frame, result_of
from vision_infer.core.detections import Detections
from vision_infer.sink.files.mot import MotSink
from vision_infer.sink.sink import OutputSpec, Written


@dataclass(frozen=True)
class Entry:
    """A line; all numbers count from 1."""

    frame: int
    id: int
    left: float
    top: float
    width: float
    height: float
    confidence: float
    kind: int


def read_mot(path: Path) -> list[Entry]:
    """Return the lines of a file: ten values with commas, "-1" for missing ones."""
    entries = []
    for line in path.read_text(encoding="ascii").splitlines():
        values = line.split(",")
        assert len(values) == 10, line
        assert values[8:] == ["-1", "-1"]
        left, top, width, height, confidence = map(float, values[2:7])
        entries.append(Entry(int(values[0]), int(values[1]), left, top, width, height, confidence, int(values[7])))
    return entries


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "tracks.txt"
    sink = MotSink(OutputSpec("mot", str(path)))
    tracked = found(3, (0, 20.25, 60, 50))
    tracked = Detections(tracked.boxes, tracked.scores, tracked.class_ids, tracked.label_names, np.array([4, 0, 7], np.int32))
    sink.write(frame(0), result_of(frame(0), found(1)))
    sink.write(frame(1), None)
    sink.write(frame(2), result_of(frame(2), Detections.empty()))
    sink.write(frame(9), result_of(frame(9), tracked))
    sink.close(True)
    sink.close(True)
    assert sink.outputs == [Written(str(path))]
    entries = read_mot(path)
    assert entries[0] == Entry(1, -1, 11, 11, 50, 40, 0.75, 1)
    assert [(one.frame, one.id, one.kind) for one in entries[1:]] == [(10, 4, 1), (10, -1, 2), (10, 7, 3)]
    assert (entries[1].left, entries[1].top, entries[1].width, entries[1].height) == (1, 21.25, 60, 29.75)


def test_a_failed_run_leaves_a_file_only_with_detections(tmp_path: Path) -> None:
    MotSink(OutputSpec("mot", str(tmp_path / "nothing.txt"))).close(False)
    sink = MotSink(OutputSpec("mot", str(tmp_path / "some.txt")))
    sink.write(frame(0), result_of(frame(0), found(1)))
    sink.close(False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["some.txt"]
    assert len(read_mot(tmp_path / "some.txt")) == 1
