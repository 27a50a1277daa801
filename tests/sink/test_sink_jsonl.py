"""Rows of a run: valid, whole, and named when they are complete."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.sink.results import found, frame, result_of
from tests.support.hand_clock import HandClock
from tests.support.result_schema import validate_row
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.files.row_file import FLUSH_INTERVAL_NS
from vision_infer.sink.sink import OutputSpec


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_match_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    tracked = found(3)
    tracked = Detections(tracked.boxes, tracked.scores, tracked.class_ids, tracked.label_names, np.array([4, 0, 7], np.int32))
    shown = [
        (frame(0, 0.0), found(2)),
        (frame(1, 1 / 3, stream='odd "name"\n'), tracked),
        (frame(2, None, file="überall.jpg"), Detections.empty()),
        (frame(3, 12345.678901), found(1)),
    ]
    for one, detections in shown:
        sink.write(one, result_of(one, detections))
    sink.write(frame(4), None)
    sink.close(True)
    assert not sink.needs_images
    written = rows(path)
    assert len(written) == len(shown)
    for row in written:
        validate_row(row)
    assert [row["frame"] for row in written] == [0, 1, 2, 3]
    assert written[1]["stream"] == 'odd "name"\n'
    assert written[1]["pts_s"] == pytest.approx(1 / 3, abs=1e-6)
    assert [one.get("track_id") for one in written[1]["detections"]] == [4, None, 7]  # type: ignore[attr-defined]
    assert written[2]["pts_s"] is None
    assert written[2]["file"] == "überall.jpg"
    assert "file" not in written[0]
    first = written[0]["detections"][0]  # type: ignore[index]
    assert first == {"class_id": 0, "label": "person", "score": 0.75, "box": [10, 10, 60, 50]}
    assert written[0]["latency_ms"] == {
        "decode": 1,
        "queue": 2,
        "preprocess": 3,
        "inference": 4,
        "postprocess": 5,
        "total": 15,
    }


def test_streams_that_share_a_file_never_mix_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    together = threading.Barrier(4, timeout=60)

    def write(number: int) -> None:
        together.wait()
        for index in range(300):
            one = frame(index, index / 25, stream=f"stream-{number}")
            sink.write(one, result_of(one, found(index % 40)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4), timeout=60))
    sink.close(True)
    written = rows(path)
    assert len(written) == 1200
    for number in range(4):
        assert [row["frame"] for row in written if row["stream"] == f"stream-{number}"] == list(range(300))


def test_the_file_gets_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    sink.write(frame(), result_of(frame()))
    assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == [".rows.jsonl.partial"]
    sink.close(True)
    sink.close(True)
    sink.close(False)
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.jsonl"]
    assert len(rows(path)) == 1


def test_rows_of_a_stopped_run_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    sink.write(frame(), result_of(frame()))
    sink.close(False)
    assert len(rows(path)) == 1


def test_overwriting_must_be_requested(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("older\n")
    with pytest.raises(OutputError, match="exists already") as caught:
        JsonlSink(OutputSpec("jsonl", str(path)))
    assert "--overwrite" in caught.value.hint
    assert path.read_text() == "older\n"
    sink = JsonlSink(OutputSpec("jsonl", str(path), overwrite=True))
    assert path.read_text() == "older\n"  # until the new file is complete
    sink.write(frame(), result_of(frame()))
    sink.close(True)
    assert len(rows(path)) == 1


def test_rows_reach_the_file_at_least_once_a_second(tmp_path: Path) -> None:
    clock = HandClock()
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)), clock)
    partial = tmp_path / ".rows.jsonl.partial"

    def write(index: int) -> int:
        sink.write(frame(index), result_of(frame(index)))
        return len(rows(partial))

    assert write(0) == 0
    clock.now += FLUSH_INTERVAL_NS - 1
    assert write(1) == 0
    clock.now += 1
    assert write(2) == 3
    assert write(3) == 3
    clock.now += FLUSH_INTERVAL_NS
    assert write(4) == 5
    sink.close(True)


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    (tmp_path / "folder").mkdir()
    for place, why in (
        (blocker / "rows.jsonl", "not a folder"),
        (blocker / "deep" / "rows.jsonl", "not a folder"),
        (tmp_path / "folder", "is a folder"),
        (Path("/proc/rows.jsonl"), "written|writable"),
        (tmp_path / ("x" * 300 + ".jsonl"), "written|name too long"),
    ):
        with pytest.raises(OutputError, match=f"(?i){why}") as caught:
            JsonlSink(OutputSpec("jsonl", str(place)))
        assert str(place) in caught.value.message
        assert "\n" not in str(caught.value)
        assert caught.value.hint
    assert blocker.read_text() == "in the way"


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path = tmp_path / "rows.jsonl"
    sink = JsonlSink(OutputSpec("jsonl", str(path)))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sink._file.raw.fileno())
    os.close(full)
    sink.write(frame(), result_of(frame()))
    with pytest.raises(OutputError, match=r"(?i)no space"):
        sink.close(True)
    assert not path.exists()


def standard_output(monkeypatch: pytest.MonkeyPatch, to: int) -> None:
    class Output:
        def fileno(self) -> int:
            return to

    monkeypatch.setattr(sys, "stdout", Output())


def test_standard_output_gets_every_row_immediately_and_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    standard_output(monkeypatch, writer)
    sink = JsonlSink(OutputSpec("jsonl", "-"))
    for index in range(3):
        sink.write(frame(index), result_of(frame(index)))
        assert json.loads(os.read(reader, 65536))["frame"] == index
    sink.close(True)
    assert os.write(writer, b"still open") == 10
    os.close(reader)
    os.close(writer)


def test_a_reader_that_closed_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    standard_output(monkeypatch, writer)
    sink = JsonlSink(OutputSpec("jsonl", "-"))
    os.close(reader)
    with pytest.raises(OutputError, match="closed by its reader"):
        sink.write(frame(), result_of(frame()))
    sink.close(False)
    sink.close(False)
    os.close(writer)
