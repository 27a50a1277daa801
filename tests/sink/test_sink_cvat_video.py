"""CVAT for video: tracks of referenced frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.sink.results import LABELS, found, frame, result_of
from vision_infer.core.detections import Detections
from vision_infer.sink.files.cvat_video import CvatVideoSink
from vision_infer.sink.sink import OutputSpec, Written


def tracked(*numbers: int) -> Detections:
    return replace(found(len(numbers)), track_ids=np.array(numbers, np.int32))


def tracks(path: Path, frames: list[tuple[int, Detections | None]]) -> list[tuple[str | None, list[tuple[int, int]]]]:
    """Write frames, and return the label of each track with its frames, each with whether the object is outside."""
    sink = CvatVideoSink(OutputSpec("cvat-video", str(path)), "clip")
    for number, detections in frames:
        one = frame(number)
        sink.write(one, None if detections is None else result_of(one, detections))
    sink.close(True)
    sink.close(True)
    assert sink.outputs == [Written(str(path))]
    root = ElementTree.parse(path).getroot()
    assert root.findtext("meta/task/original_size/width") == "96"
    assert [one.text for one in root.iter("name")][1:] == list(LABELS)
    assert [one.get("id") for one in root.iter("track")] == [str(at) for at in range(len(root.findall("track")))]
    return [
        (one.get("label"), [(int(box.get("frame") or -1), int(box.get("outside") or 0)) for box in one])
        for one in root.iter("track")
    ]


def test_a_track_ends_where_its_object_is_not_found(tmp_path: Path) -> None:
    frames = [(0, tracked(1, 2)), (3, tracked(1)), (4, None), (6, tracked()), (9, tracked(1))]
    assert tracks(tmp_path / "clip.xml", frames) == [
        (LABELS[1], [(0, 0), (3, 1)]),
        (LABELS[0], [(0, 0), (3, 0), (6, 1)]),
        (LABELS[0], [(9, 0)]),
    ]


def test_without_tracking_each_detection_is_a_track(tmp_path: Path) -> None:
    assert tracks(tmp_path / "clip.xml", [(0, found(1)), (1, found(1))]) == [
        (LABELS[0], [(0, 0), (1, 1)]),
        (LABELS[0], [(1, 0)]),
    ]
