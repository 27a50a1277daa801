"""CSV, read back with the standard library's reader."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.sink.results import LABELS, classified, embedded, found, frame, result_of, secondary, whole
from tests.support.details import KINDS, details, with_details
from vision_infer.core.detections import Detections
from vision_infer.sink.files.csv_rows import COLUMNS, SECONDARY_COLUMNS, CsvSink
from vision_infer.sink.sink import OutputSpec, Written

HEADER = ",".join(COLUMNS)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_detection_in_the_documented_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    tracked = found(3, (10.5, 20.25, 60.125, 50))
    tracked = Detections(tracked.boxes, tracked.scores, tracked.class_ids, tracked.label_names, np.array([4, 0, 7], np.int32))
    odd = 'a, "stream"\nof two lines'
    for one, detections in (
        (frame(0, 0.0), found(2)),
        (frame(1, 1 / 3, stream=odd), tracked),
        (frame(2, 0.08), Detections.empty()),
        (frame(3, None, file="überall.jpg"), found(1)),
    ):
        sink.write(one, result_of(one, detections))
    sink.write(frame(4), None)
    assert sink.outputs == []
    sink.close(True)
    sink.close(True)
    assert sink.outputs == [Written(str(path))]
    assert not sink.needs_images
    written = rows(path)
    assert list(written[0]) == list(COLUMNS)
    assert [row["frame"] for row in written] == ["0", "0", "1", "1", "1", "3"]  # the frame without detections has no row
    assert written[2] == {
        "stream": odd,
        "frame": "1",
        "pts_s": "0.333333",
        "file": "",
        "class_id": "0",
        "label": LABELS[0],
        "score": "0.7500",
        "x1": "10.50",
        "y1": "20.25",
        "x2": "60.12",
        "y2": "50.00",
        "track_id": "4",
    }
    assert [row["track_id"] for row in written[2:5]] == ["4", "", "7"]
    assert [row["label"] for row in written[2:5]] == list(LABELS)  # with quotes and umlauts
    assert (written[5]["pts_s"], written[5]["file"]) == ("", "überall.jpg")


def test_no_detections_give_a_header_and_a_failed_run_leaves_no_file(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    for path, complete in ((whole, True), (broken, False)):
        sink = CsvSink(OutputSpec("csv", str(path)))
        sink.write(frame(), result_of(frame(), Detections.empty()))
        sink.close(complete)
    assert whole.read_text() == HEADER + "\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.csv"]


def test_a_stopped_run_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    sink.write(frame(), result_of(frame()))
    sink.close(False)
    assert len(rows(path)) == 2


@pytest.mark.parametrize("lines", [0, 2])
def test_the_file_of_an_earlier_run_is_continued(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "rows.csv"
    partial = tmp_path / ".rows.csv.partial"
    if lines:
        partial.write_text(HEADER + "\nclip,0,0.0,,0,person,0.7500,1.00,2.00,3.00,4.00,\n")
    sink = CsvSink(OutputSpec("csv", str(path), resume=True))
    one = frame(1, 0.04)
    sink.write(one, result_of(one))
    sink.close(True)
    assert [row["frame"] for row in rows(path)] == (["0"] if lines else []) + ["1", "1"]


def test_a_name_that_is_not_valid_text_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    one = frame(0, None, file="a\udcff.jpg")
    sink.write(one, result_of(one, found(1)))
    sink.close(True)
    assert rows(path)[0]["file"] == "a\\udcff.jpg"


def test_the_best_class_of_a_secondary_model_has_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    nothing_yet = replace(Detections.empty(), descriptions=())
    for index, detections in enumerate((nothing_yet, secondary(classified("red", 0.8), None), secondary(embedded(1.0)))):
        one = frame(index, index / 25)
        sink.write(one, result_of(one, detections))
    sink.close(True)
    written = rows(path)
    assert list(written[0]) == [*COLUMNS, *SECONDARY_COLUMNS]
    assert [tuple(row[name] for name in ("frame", *SECONDARY_COLUMNS)) for row in written] == [
        ("1", "3", "red", "0.8000"),
        ("1", "", "", ""),
        ("2", "", "", ""),
    ]


def test_a_classification_model_gives_a_row_for_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    for index in range(2):
        one = frame(index, index / 25)
        sink.write(one, whole(one, classified("blue", 0.7)))
    sink.close(True)
    written = rows(path)
    assert list(written[0]) == list(COLUMNS)
    shown = [[row[name] for name in ("frame", "class_id", "label", "score", "x1", "y2", "track_id")] for row in written]
    assert shown == [[str(index), "4", "blue", "0.7000", "", "", ""] for index in range(2)]


@pytest.mark.parametrize("before", [True, False])
def test_a_continued_file_keeps_its_columns(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "rows.csv"
    header = HEADER + "," + ",".join(SECONDARY_COLUMNS) if before else HEADER
    (tmp_path / ".rows.csv.partial").write_text(header + "\n")
    sink = CsvSink(OutputSpec("csv", str(path), resume=True))
    one = frame(1, 0.04)
    sink.write(one, result_of(one, found(1) if before else secondary(classified())))
    sink.close(True)
    assert [len(line.split(",")) for line in path.read_text().splitlines()] == [len(header.split(","))] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_details_have_a_column_in_the_json_form_of_rows(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    given = with_details(details(kind, 3))
    for index, some in enumerate((Detections.empty(), given[:2], given[2:])):  # the first does not say what details there are
        one = frame(index, index / 25)
        sink.write(one, result_of(one, some))
    sink.close(True)
    written = rows(path)
    assert list(written[0]) == [*COLUMNS, KINDS[kind]]
    assert [json.loads(row[KINDS[kind]]) for row in written] == [getattr(one, KINDS[kind]) for one in given]


def test_a_continued_file_with_details_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    (tmp_path / ".rows.csv.partial").write_text(HEADER + ",mask\n")
    sink = CsvSink(OutputSpec("csv", str(path), resume=True))
    for index, kind in enumerate(("masks", "keypoints")):
        sink.write(frame(index), result_of(frame(index), with_details(details(kind, 1))))
    sink.close(True)
    assert [bool(row["mask"]) for row in rows(path)] == [True, False]


def test_extra_fields_of_hooks_are_json_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    sink = CsvSink(OutputSpec("csv", str(path)))
    extra = {"plate": 'B "X" 1', "open": True}
    for index, given in enumerate((extra, None)):
        one = frame(index)
        sink.write(one, replace(result_of(one, found(2)), extra=given))
    sink.close(True)
    written = rows(path)
    assert list(written[0]) == [*COLUMNS, "extra"]
    assert [row["extra"] for row in written] == [json.dumps(extra)] * 2 + [""] * 2
