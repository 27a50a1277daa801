"""Parquet, read back with pyarrow."""

from __future__ import annotations

import importlib.util
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink.results import LABELS, classified, embedded, found, frame, result_of, secondary, whole
from tests.support.details import KINDS, details, with_details
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.result import Result
from vision_infer.sink.files import parquet as parquet_module
from vision_infer.sink.files import parquet_rows
from vision_infer.sink.files.csv_rows import COLUMNS, SECONDARY_COLUMNS
from vision_infer.sink.files.parquet import ParquetSink
from vision_infer.sink.sink import OutputSpec, Written

RGB = np.zeros((4, 4, 3), np.uint8)
PARQUET_COLUMNS = [*COLUMNS, "gated"]


def test_types_and_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sink = ParquetSink(OutputSpec("parquet", str(path)))
    tracked = found(3, (10.5, 20.25, 60, 50))
    tracked = Detections(tracked.boxes, tracked.scores, tracked.class_ids, tracked.label_names, np.array([4, 0, 7], np.int32))
    for one, detections in (
        (frame(0, 0.25), found(2)),
        (frame(1, 1 / 3), tracked),
        (frame(2, 0.5), Detections.empty()),
        (frame(3, None, stream="photos", file="ü\udcff.jpg"), found(1)),
    ):
        sink.write(one, result_of(one, detections))
    sink.write(frame(4), None)
    assert not path.exists()
    sink.close(True)
    sink.close(False)
    assert sink.outputs == [Written(str(path))]
    table = pq.read_table(path)
    assert table.column_names == PARQUET_COLUMNS
    text = pa.dictionary(pa.int32(), pa.string())
    assert table.schema.types == [
        text,
        pa.int64(),
        pa.float64(),
        text,
        pa.int32(),
        text,
        *[pa.float32()] * 5,
        pa.int32(),
        pa.bool_(),
    ]
    rows = table.to_pylist()
    assert [row["frame"] for row in rows] == [0, 0, 1, 1, 1, 3]
    assert [row["track_id"] for row in rows] == [None, None, 4, None, 7, None]
    assert [row["label"] for row in rows[2:5]] == list(LABELS)
    assert rows[2] == {
        "stream": "clip",
        "frame": 1,
        "pts_s": 1 / 3,
        "file": None,
        "class_id": 0,
        "label": "person",
        "score": 0.75,
        "x1": 10.5,
        "y1": 20.25,
        "x2": 60.0,
        "y2": 50.0,
        "track_id": 4,
        "gated": False,
    }
    assert (rows[5]["stream"], rows[5]["pts_s"], rows[5]["file"]) == ("photos", None, "ü\\udcff.jpg")


def test_rows_go_to_the_file_in_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sink = ParquetSink(OutputSpec("parquet", str(path)), rows_per_group=100)
    for index in range(95):
        one = frame(index, index / 25)
        sink.write(one, result_of(one, found(3)))
        assert sink._waiting.count < 100
    sink.close(False)  # whole groups of a stopped run are kept
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [100, 100, 85]  # a frame may be in two groups
    assert pq.read_table(path)["frame"].to_pylist() == [index for index in range(95) for _ in range(3)]


def test_no_rows(tmp_path: Path) -> None:
    for name, complete in (("whole.parquet", True), ("broken.parquet", False)):
        sink = ParquetSink(OutputSpec("parquet", str(tmp_path / name)))
        sink.close(complete)
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.parquet"]
    assert pq.read_table(tmp_path / "whole.parquet").num_rows == 0


def test_without_pyarrow_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(parquet_module, "find_spec", lambda name: None if name == "pyarrow" else real(name))
    with pytest.raises(OutputError, match="pyarrow") as caught:
        ParquetSink(OutputSpec("parquet", str(tmp_path / "rows.parquet")))
    assert caught.value.hint == "Run: pip install '.[parquet]'"
    assert not list(tmp_path.iterdir())


def test_a_frame_with_more_rows_than_a_group(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sink = ParquetSink(OutputSpec("parquet", str(path)), rows_per_group=7)
    for index, count in enumerate((3, 40, 1)):
        one = frame(index, index / 25, file=f"{index}.jpg")
        sink.write(one, result_of(one, found(count)))
    sink.close(True)
    rows = pq.read_table(path).to_pylist()
    assert [row["frame"] for row in rows] == [0] * 3 + [1] * 40 + [2]
    assert [row["file"] for row in rows] == ["0.jpg"] * 3 + ["1.jpg"] * 40 + ["2.jpg"]
    assert [row["label"] for row in rows[3:43]] == [LABELS[number % 3] for number in range(40)]


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    sink = ParquetSink(OutputSpec("parquet", str(tmp_path / "rows.parquet")))
    one = result_of(frame(), found(1))
    for _ in range(100):
        sink.write(frame(), one)
    tracemalloc.start()
    for _ in range(20_000):
        sink.write(frame(0, 0.0, RGB), one)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    sink.close(True)
    assert grown < 100_000


def written(path: Path, results: list[Result], rows_per_group: int = 100) -> pa.Table:
    sink = ParquetSink(OutputSpec("parquet", str(path)), rows_per_group)
    for result in results:
        sink.write(frame(result.frame), result)
    sink.close(True)
    return pq.read_table(path)


def results(*given: Detections) -> list[Result]:
    return [result_of(frame(index, index / 25), detections) for index, detections in enumerate(given)]


@pytest.mark.parametrize("rows_per_group", [1, 2, 100])
def test_the_best_class_of_a_secondary_model(tmp_path: Path, rows_per_group: int) -> None:
    given = results(
        replace(Detections.empty(), descriptions=()),
        secondary(None, classified("red", 0.75)),
        secondary(classified("green", 0.5)),
    )
    table = written(tmp_path / "rows.parquet", given, rows_per_group)
    assert table.column_names == [*PARQUET_COLUMNS, *SECONDARY_COLUMNS]
    assert not table.schema.field("label").nullable
    shown = [(row["frame"], *(row[name] for name in SECONDARY_COLUMNS)) for row in table.to_pylist()]
    assert shown == [(1, None, None, None), (1, 3, "red", 0.75), (2, 5, "green", 0.5)]


@pytest.mark.parametrize("rows_per_group", [3, 100])
def test_embeddings_are_lists_of_fixed_size(tmp_path: Path, rows_per_group: int) -> None:
    given = results(secondary(embedded(1.0), None), secondary(embedded(2.0), embedded(3.0)))
    table = written(tmp_path / "rows.parquet", given, rows_per_group)
    assert table.column_names == [*PARQUET_COLUMNS, "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table["embedding"].to_pylist() == [[1.0, 0.5, 0.5], None, [2.0, 0.5, 0.5], [3.0, 0.5, 0.5]]


def test_a_secondary_model_without_results_has_columns(tmp_path: Path) -> None:
    for name, given in (
        ("none", results(secondary(None, None))),
        ("empty", results(replace(Detections.empty(), descriptions=()))),
    ):
        assert written(tmp_path / name, given).column_names == [*PARQUET_COLUMNS, *SECONDARY_COLUMNS]


def test_a_classification_model_has_a_row_for_each_frame(tmp_path: Path) -> None:
    given = [whole(frame(index, index / 25), classified("red", 0.75)) for index in range(5)]
    table = written(tmp_path / "rows.parquet", given, 2)
    assert table.column_names == PARQUET_COLUMNS
    rows = table.to_pylist()
    assert [row["frame"] for row in rows] == list(range(5))
    assert {(row["class_id"], row["label"], row["score"]) for row in rows} == {(3, "red", 0.75)}
    assert {row[name] for row in rows for name in ("x1", "y1", "x2", "y2", "track_id")} == {None}


def test_an_embedding_model(tmp_path: Path) -> None:
    given = [whole(frame(index, index / 25), embedded(float(index), 2)) for index in range(3)]
    table = written(tmp_path / "rows.parquet", given)
    assert table["embedding"].to_pylist() == [[float(index), 0.5] for index in range(3)]
    assert {row[name] for row in table.to_pylist() for name in ("class_id", "label", "score", "x1")} == {None}


def test_large_embeddings_make_smaller_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "NESTED_BYTES", 5 * 12)  # five embeddings
    path = tmp_path / "rows.parquet"
    given = results(*[secondary(*[embedded(float(index))] * 7) for index in range(3)])
    table = written(path, given)
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [5, 5, 5, 5, 1]
    assert [value[0] for value in table["embedding"].to_pylist()] == [float(index) for index in range(3) for _ in range(7)]


def test_an_embedding_of_another_size_is_an_error_and_whole_groups_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sink = ParquetSink(OutputSpec("parquet", str(path)), 1)
    first, second = results(secondary(embedded(1.0)), secondary(embedded(1.0, 4)))
    sink.write(frame(0), first)
    with pytest.raises(OutputError, match="4 values"):
        sink.write(frame(1), second)
    sink.close(False)
    assert pq.read_table(path).num_rows == 1


@pytest.mark.parametrize("rows_per_group", [2, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_details_have_a_column_with_the_values_of_rows(kind: str, rows_per_group: int, tmp_path: Path) -> None:
    given = with_details(details(kind, 3))
    table = written(tmp_path / "rows.parquet", results(Detections.empty(), given, given[1:]), rows_per_group)
    assert table.column_names == [*PARQUET_COLUMNS, KINDS[kind]]
    expected = [getattr(one, KINDS[kind]) for one in (*given, *given[1:])]
    actual = table[KINDS[kind]].to_pylist()
    if kind == "masks":
        assert actual == expected
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_large_masks_make_smaller_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = with_details(details("masks", 1))[np.zeros(3, np.intp)]  # the same mask three times
    mask = given[0].mask
    assert mask is not None
    monkeypatch.setattr(parquet_rows, "NESTED_BYTES", len(mask["counts"]) + 1)  # two masks
    path = tmp_path / "rows.parquet"
    assert written(path, results(given, given)).num_rows == 6
    with pq.ParquetFile(path) as file:
        assert file.num_row_groups == 3


def test_extra_fields_of_hooks_are_json_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sink = ParquetSink(OutputSpec("parquet", str(path)))
    for index, given in enumerate(({"plate": "BX 1"}, None)):
        one = frame(index)
        sink.write(one, replace(result_of(one, found(2)), extra=given))
    sink.close(True)
    table = pq.read_table(path)
    assert table.column_names == [*PARQUET_COLUMNS, "extra"]
    assert table.column("extra").to_pylist() == ['{"plate": "BX 1"}'] * 2 + [None] * 2
