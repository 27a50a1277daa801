"""The MOT Challenge format, read back as its specification says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.sink.results import found, frame, result_of
from tests.support.media import bikes
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


TRACKEVAL = """
import json, sys
import trackeval
truth, trackers, frames = sys.argv[1:]
quiet = {"PRINT_CONFIG": False}
files = {"GT_FOLDER": truth, "TRACKERS_FOLDER": trackers, "SKIP_SPLIT_FOL": True, "SEQ_INFO": {"clip": int(frames)}}
output = dict.fromkeys(["PRINT_RESULTS", "OUTPUT_SUMMARY", "OUTPUT_DETAILED", "PLOT_CURVES", "TIME_PROGRESS"], False)
evaluator = trackeval.Evaluator({**quiet, **output, "LOG_ON_ERROR": None, "BREAK_ON_ERROR": True})
metrics = [trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
found, _ = evaluator.evaluate([trackeval.datasets.MotChallenge2DBox({**quiet, **files})], metrics)
one = found["MotChallenge2DBox"]["us"]["clip"]["pedestrian"]
print(json.dumps({"right": int(one["CLEAR"]["CLR_TP"]), "MOTA": one["CLEAR"]["MOTA"], "IDF1": one["Identity"]["IDF1"]}))
"""


@pytest.mark.slow
def test_trackeval_reads_the_tracks_of_a_run(tmp_path: Path) -> None:
    """The tracks of a real run, compared with themselves as the truth, and with a truth in which one of them has two numbers."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    # TrackEval needs the package opencv-python, which has the same module as opencv-python-headless; hence --no-deps.
    subprocess.run([*pip, "trackeval==1.3.0", "tabulate"], check=True, timeout=280)
    (tmp_path / "trackers" / "us" / "data").mkdir(parents=True)
    tracks = tmp_path / "trackers" / "us" / "data" / "clip.txt"
    words = ["run", str(bikes()), "--track", "--classes", "person", "--out", str(tracks), "--quiet"]
    subprocess.run([sys.executable, "-m", "vision_infer", *words], check=True, timeout=120)
    entries = read_mot(tracks)
    assert min(entry.id for entry in entries) > 0
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def evaluated(name: str, ids: list[int]) -> dict[str, float]:
        truth = tmp_path / name / "clip" / "gt" / "gt.txt"
        truth.parent.mkdir(parents=True)
        lines = [line.split(",") for line in tracks.read_text(encoding="ascii").splitlines()]
        rows = [[line[0], str(number), *line[2:6], "1,1,1"] for line, number in zip(lines, ids, strict=True)]
        truth.write_text("".join(",".join(row) + "\n" for row in rows), encoding="ascii")
        arguments = [str(tmp_path / name), str(tmp_path / "trackers"), str(entries[-1].frame)]
        done = subprocess.run(
            [sys.executable, "-c", TRACKEVAL, *arguments], env=environ, check=True, capture_output=True, text=True, timeout=120
        )
        report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return report

    ids = [entry.id for entry in entries]
    assert evaluated("same", ids) == {"right": len(entries), "MOTA": 1.0, "IDF1": 1.0}
    longest = max(set(ids), key=ids.count)
    places = [place for place, number in enumerate(ids) if number == longest]
    split = ids.copy()
    for place in places[len(places) // 2 :]:
        split[place] = max(ids) + 1
    other = evaluated("split", split)
    assert other["right"] == len(entries)
    assert other["IDF1"] < 1.0
