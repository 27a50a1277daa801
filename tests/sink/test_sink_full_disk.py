"""A disk that becomes full: complete data is kept and can be read, and the error names the missing space."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from io import FileIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.sink.results import found, frame, result_of
from tests.support import media
from tests.support.disks import small_disk
from vision_infer.analyze.draw import Drawer
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.sink.datasets.dataset_sink import DatasetSink
from vision_infer.sink.files.coco import CocoSink
from vision_infer.sink.files.crops import CropsSink
from vision_infer.sink.files.csv_rows import CsvSink
from vision_infer.sink.files.encoder import X264
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.files.mot import MotSink
from vision_infer.sink.files.parquet import ParquetSink
from vision_infer.sink.files.row_file import RowWriter
from vision_infer.sink.files.video import VideoSink
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.sink.space import NoSpaceError, ReservedFile, SpaceReserve, size_in_words

SIZE = 1024 * 1024


def until_full(
    sink: Sink,
    make: Callable[[int], Frame] = frame,
    boxes: int = 20,
    box: tuple[float, float, float, float] = (10, 10, 60, 50),
) -> tuple[int, NoSpaceError]:
    """Write until the disk is full; return the number of frames and the error."""
    for index in range(100_000):
        one = make(index)
        try:
            sink.write(one, result_of(one, found(boxes, box)))
        except NoSpaceError as error:
            with pytest.raises(NoSpaceError):  # and it stays full
                sink.write(one, result_of(one, found(boxes, box)))
            return index, error
    raise AssertionError("the disk is not full")


def test_dataset() -> None:
    with small_disk(SIZE) as folder:
        sink = DatasetSink(OutputSpec("dataset-yolo", str(folder / "yolo")))
        written, _ = until_full(sink)
        sink.close(False)
        images = {path.stem for path in (folder / "yolo/images/train").iterdir()}
        assert images == {path.stem for path in (folder / "yolo/labels/train").iterdir()}
        assert len(images) == written > 10
        assert all(len(path.read_text().splitlines()) == 20 for path in (folder / "yolo/labels/train").iterdir())


def test_jsonl() -> None:
    with small_disk(SIZE) as folder:
        path = folder / "rows.jsonl"
        sink = JsonlSink(OutputSpec("jsonl", str(path)))
        written, error = until_full(sink)
        sink.close(False)
        lines = path.read_text().split("\n")
        assert lines.pop() == ""
        rows = [json.loads(line) for line in lines]
        assert [row["frame"] for row in rows] == list(range(len(rows)))
        assert 0 < len(rows) < written
        assert path.stat().st_size > SIZE / 2
        assert f"the rows of {len(rows)} frames are kept" in error.hint
        assert " free)" in error.message
        assert list(folder.iterdir()) == [path]


def test_standard_output() -> None:
    """The free space is that of the disk to which it is redirected."""
    with small_disk(SIZE) as folder, (folder / "rows").open("wb", buffering=0) as raw:
        assert isinstance(raw, FileIO)
        with suppress(OSError):
            (folder / "other").write_bytes(bytes(2 * SIZE))
        with pytest.raises(NoSpaceError, match="0 bytes free"):
            RowWriter(raw, "standard output", 0).write(b"row\n")


def test_csv_and_mot() -> None:
    with small_disk(SIZE) as folder:
        rows = CsvSink(OutputSpec("csv", str(folder / "rows.csv")))
        until_full(rows)
        rows.close(False)
        with (folder / "rows.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert all(row["y2"] == "50.00" for row in read)
        assert len(read) % 20 == 0  # frames are whole
        (folder / "rows.csv").unlink()
        tracks = MotSink(OutputSpec("mot", str(folder / "tracks.txt")))
        until_full(tracks)
        tracks.close(False)
        assert all(len(line.split(",")) == 10 for line in (folder / "tracks.txt").read_text().splitlines())


def test_coco_stays_valid_json_and_every_result_has_its_image() -> None:
    with small_disk(SIZE) as folder:
        sink = CocoSink(OutputSpec("coco", str(folder / "found.json")))
        until_full(sink)
        sink.close(False)
        made = json.loads((folder / "found.json").read_text())
        assert len(made["annotations"]) > 1000
        assert len(made["annotations"]) == 20 * len(made["images"])
        assert len(made["categories"]) == 3


def test_parquet_keeps_whole_groups_and_what_fits_of_the_last() -> None:
    with small_disk(SIZE // 2) as folder:
        path = folder / "rows.parquet"
        sink = ParquetSink(OutputSpec("parquet", str(path)), rows_per_group=2000)
        random = np.random.default_rng(1)

        def make(index: int) -> Frame:
            return frame(index, float(random.random()))

        written, error = until_full(sink, make)
        sink.close(False)
        frames = pq.read_table(path)["frame"].to_pylist()
        assert f"its first {len(frames)} rows are kept" in error.hint
        # The part of the last frame that fits is kept, too.
        assert frames == [index for index in range(written + 1) for _ in range(20)][: len(frames)]
        assert written * 20 - len(frames) < 2000 + 20


def test_an_incomplete_video_can_be_played() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (8, 96, 128, 3), np.uint8)
    with small_disk(SIZE) as folder:
        path = folder / "out.mp4"
        sink = VideoSink(OutputSpec("video", str(path)), Drawer(), None, Fraction(25), Fraction(1, 12_800), (X264,))

        def make(index: int) -> Frame:
            return frame(index, index / 25, noise[index % 8].copy())

        written, error = until_full(sink, make, 0)
        sink.close(False)
        frames = media.decoded(path)
        assert written - 80 < len(frames) <= written  # frames inside the encoder are lost
        assert [round(float(one.time or 0) * 25) for one in frames] == list(range(len(frames)))
        assert list(folder.iterdir()) == [path]
        assert "can be played up to this point" in error.hint
        assert error.written
        assert error.free < 4096 * 4  # without the reserve, which is released by now


def test_an_image_is_whole_or_does_not_exist() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3), np.uint8)
    with small_disk(SIZE) as folder:
        sink = CropsSink(OutputSpec("crops", str(folder)), "clip")
        until_full(sink, lambda index: frame(index, 0.0, noise), 1, (0, 0, 300, 300))
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert path.read_bytes().endswith(b"\xff\xd9")  # JPEG's last marker


def test_no_space_at_the_beginning() -> None:
    with small_disk(SIZE) as folder:
        with pytest.raises(OSError, match="No space"):
            (folder / "filler").write_bytes(bytes(2 * SIZE))
        for path in ("rows.csv", "found.json", "rows.parquet"):
            spec = OutputSpec("csv", str(folder / path))
            with pytest.raises(NoSpaceError):
                {"csv": CsvSink, "json": CocoSink, "parquet": ParquetSink}[path.split(".")[1]](spec)
        assert [entry.name for entry in folder.iterdir()] == ["filler"]


def test_the_missing_space_is_estimated() -> None:
    error = NoSpaceError("/nowhere/rows.jsonl", 2_000_000, kept="the rows of 7 frames are kept")
    estimated = error.at(0.25)
    assert "needs about 6.0 MB more" in estimated.message
    assert "7 frames" in estimated.hint
    assert estimated.exit_status == 5
    assert isinstance(estimated, OutputError)
    for nothing in (None, 0.0, 1.5):
        assert error.at(nothing) is error
    assert [size_in_words(size) for size in (12, 3400, 5_600_000, 7e9)] == ["12 bytes", "3.4 kB", "5.6 MB", "7.0 GB"]  # type: ignore[arg-type]


@pytest.mark.parametrize("able", [True, False])
def test_reserved_space_is_available_when_needed(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not able:  # a file system that cannot allocate space without writing it

        def refuse(fd: int, offset: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    with small_disk(SIZE) as folder:
        reserve = SpaceReserve(folder, 100_000)
        reserve.grow_to(300_000)
        reserve.grow_to(200_000)
        with pytest.raises(OSError, match="No space"):
            reserve.grow_to(2 * SIZE)
        with (folder / "file").open("wb", buffering=0) as raw:
            file = ReservedFile(raw, reserve)
            for _ in range(100):
                file.write(bytes(10_000))
                if file.full:
                    break
            assert SIZE - 330_000 < file.size < SIZE - 280_000
            assert file.free < 8192
            for _ in range(20):
                file.write(bytes(10_000))
            with pytest.raises(OSError, match="No space"):
                file.write(bytes(SIZE))


def test_a_reserve_that_cannot_grow_counts_as_full() -> None:
    with small_disk(SIZE) as folder, (folder / "file").open("wb", buffering=0) as raw:
        file = ReservedFile(raw, SpaceReserve(folder, 100_000))
        states = []
        for size in (500_000, 2 * SIZE):
            file.grow_reserve(size)
            states.append(file.full)
        assert states == [False, True]
        file.write(bytes(SIZE // 2))
