"""Whole rows despite failing writes: any number of bytes per write, an error at any byte."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sink.results import found, frame, result_of
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.coco import CocoSink
from vision_infer.sink.files.row_file import RowFile, RowWriter
from vision_infer.sink.sink import OutputSpec

REAL_WRITE = os.write


class StubbornSystem:
    """Writes at most ``most`` bytes at a time, and none at all after ``limit`` bytes."""

    def __init__(self, most: int, limit: int) -> None:
        self.most = most
        self.left = limit

    def write(self, fd: int, data: bytes) -> int:
        """Behave like ``os.write``."""
        if not self.left and data:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = REAL_WRITE(fd, data[: min(self.most, self.left)])
        self.left -= done
        return done


rows_of_bytes = st.lists(st.binary(min_size=1, max_size=40).map(lambda row: row.replace(b"\n", b"|") + b"\n"), max_size=30)


@settings(max_examples=150)
@given(rows=rows_of_bytes, most=st.integers(1, 50), limit=st.integers(0, 700), flush_at=st.sets(st.integers(0, 30)))
def test_a_file_holds_the_first_rows_whole_and_no_others(rows: list[bytes], most: int, limit: int, flush_at: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.txt"
        file = RowFile(OutputSpec("mot", str(path)))
        system = StubbornSystem(most, limit)
        failed = False
        with patch("vision_infer.sink.files.row_file.os.write", system.write):
            for number, row in enumerate(rows):
                try:
                    file.write(row)
                    if number in flush_at:
                        file.flush()
                except OutputError:
                    failed = True
                    break
            try:
                file.finish(complete=not failed)
            except OutputError:
                failed = True
        fitting = 0
        while fitting < len(rows) and sum(map(len, rows[: fitting + 1])) <= limit:
            fitting += 1
        assert failed == (fitting < len(rows))
        assert file.in_place == path.exists() == (not failed or fitting > 0)
        if file.in_place:
            assert path.read_bytes() == b"".join(rows[:fitting])
            assert file.rows == fitting
        assert not list(Path(folder).glob(".*"))


@settings(max_examples=40)
@given(limit=st.integers(300, 4000), most=st.integers(1, 500))
def test_coco_stays_valid_json_wherever_a_write_fails(limit: int, most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sink = CocoSink(OutputSpec("coco", f"{folder}/found.json"))
        system = StubbornSystem(most, limit)
        with (
            patch("vision_infer.sink.files.row_file._BUFFER", 400),
            patch("vision_infer.sink.files.row_file.os.write", system.write),
        ):
            broke = False
            for index in range(1000):
                try:
                    sink.write(frame(index), result_of(frame(index), found(index % 4)))
                except OutputError:
                    broke = True
                    break
            assert broke
            system.left = 1_000_000  # the reserved space
            with suppress(OutputError):  # reported again
                sink.close(False)
        if Path(folder, "found.json").exists():
            made = json.loads(Path(folder, "found.json").read_text())
            numbers = [one["id"] for one in made["images"]]
            assert numbers == list(range(1, len(numbers) + 1))
            # Each image in the file has all its annotations: image 2 has one, image 3 two, image 4 three, image 5 none.
            found_in = [one["image_id"] for one in made["annotations"]]
            assert found_in == [number for number in numbers for _ in range((number - 1) % 4)]


def test_after_an_error_nothing_more_is_written(tmp_path: Path) -> None:
    with (tmp_path / "rows").open("wb", buffering=0) as raw:
        writer = RowWriter(raw, "rows", 0)
        writer.write(b"one\n")
        with patch("vision_infer.sink.files.row_file.os.write", StubbornSystem(100, 2).write), pytest.raises(OutputError):
            writer.write(b"two\n")
        with pytest.raises(OutputError, match="no space"):
            writer.write(b"three\n")
    assert (tmp_path / "rows").read_bytes() == b"one\n"
