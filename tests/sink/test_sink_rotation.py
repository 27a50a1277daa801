"""JSONL in parts: whole lines, named when they are finished, none lost or duplicated."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sink.results import found, frame, result_of
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.jsonl import JsonlSink, rotated
from vision_infer.sink.sink import OutputSpec, Written


def sink_to(path: Path, limit: int, overwrite: bool = False) -> JsonlSink:
    return JsonlSink(OutputSpec("jsonl", str(path), overwrite, rotate_bytes=limit))


def frames(paths: list[Path]) -> list[int]:
    return [json.loads(line)["frame"] for path in paths for line in path.read_text().splitlines()]


def test_names() -> None:
    assert [rotated("a/rows.jsonl", number) for number in (1, 2, 11)] == ["a/rows.jsonl", "a/rows-2.jsonl", "a/rows-11.jsonl"]


def test_finished_parts_are_whole_and_have_their_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sink = sink_to(path, 5000)
    for index in range(100):
        one = frame(index, index / 25)
        sink.write(one, result_of(one, found(index % 5)))
        partial = [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]
        assert len(partial) == 1
    assert len(sink.outputs) > 5
    sink.close(True)
    parts = [Path(written.path) for written in sink.outputs]
    assert [part.name for part in parts[:3]] == ["rows.jsonl", "rows-2.jsonl", "rows-3.jsonl"]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    assert frames(parts) == list(range(100))
    sizes = [part.stat().st_size for part in parts]
    assert max(sizes) <= 5000
    assert min(sizes[:-1]) > 3000
    assert all(part.read_bytes().endswith(b"\n") for part in parts)


def test_a_larger_row_has_a_separate_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sink = sink_to(path, 1)
    for index in range(3):
        sink.write(frame(index), result_of(frame(index)))
    sink.close(True)
    assert sink.outputs == [Written(rotated(str(path), number)) for number in (1, 2, 3)]


def test_streams_that_share_it(tmp_path: Path) -> None:
    sink = sink_to(tmp_path / "rows.jsonl", 20_000)
    together = threading.Barrier(4, timeout=60)

    def write(number: int) -> None:
        together.wait()
        for index in range(100):
            one = frame(index, index / 25, stream=f"stream-{number}")
            sink.write(one, result_of(one))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4), timeout=60))
    sink.close(True)
    assert sorted(frames([Path(written.path) for written in sink.outputs])) == sorted(list(range(100)) * 4)


def test_a_part_that_exists_already(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    (tmp_path / "rows-2.jsonl").write_text("older\n")
    sink = sink_to(path, 1)
    sink.write(frame(0), result_of(frame(0)))
    with pytest.raises(OutputError, match=r"rows-2.jsonl: exists already"):
        sink.write(frame(1), result_of(frame(1)))
    with pytest.raises(OutputError, match="exists already"):
        sink.write(frame(2), result_of(frame(2)))
    sink.close(False)
    assert frames([path]) == [0]
    assert sink.outputs == [Written(str(path))]


def test_overwriting_a_longer_run_deletes_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for count in (5, 2):
        sink = sink_to(path, 1, overwrite=True)
        for index in range(count):
            sink.write(frame(index), result_of(frame(index)))
        sink.close(True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows-2.jsonl", "rows.jsonl"]
