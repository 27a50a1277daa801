"""Rows of a service: whole ones only, in files by size, day and stream."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sink.results import frame
from tests.sink.rows_log import DAY, SECOND, HandClock, add, close_logs, frames, names, state  # noqa: F401 - an autouse fixture
from vision_infer.sink.archive.jsonl_log import JsonlLog, safe_name
from vision_infer.sink.archive.rotation import Rotation, rotated_files
from vision_infer.sink.sink import Sink, Written


def test_rows_are_in_the_file_immediately_and_existing_rows_stay(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    for start in (0, 3):
        log = JsonlLog(str(path))
        sink: Sink = log
        assert not sink.needs_images
        for index in range(start, start + 3):
            add(log, index)
            assert frames(path) == list(range(index + 1))
        log.write(frame(9), None)
        assert log.outputs == [Written(str(path))]
        log.close(False)
        log.close(True)
        add(log, 99)
        assert (log.dropped, log.error, log.outputs) == (0, None, [])
    assert frames(path) == list(range(6))


@pytest.mark.parametrize("torn", [b'{"stream": "cl', b"{", b'{"stre\0\0\0', b"\0" * 200_000, b'{"a": "' + b"x" * 300_000])
@pytest.mark.parametrize("before", [b"", b'{"frame": 0}\n', b'{"frame": 0}\n' * 20_000])
def test_an_incomplete_row_is_cut_off(tmp_path: Path, torn: bytes, before: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before + torn)
    log = JsonlLog(str(path))
    add(log, 1)
    log.close(True)
    assert path.read_bytes().startswith(before + b'{"stream": "clip"')
    assert frames(path)[-1] == 1


@pytest.mark.parametrize("content", [b"root:x:0:0", b"root:x:0:0\n", b"{\n  oops", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_file_without_rows_is_not_changed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(content)
    log = JsonlLog(str(path))
    add(log, 1)
    assert path.read_bytes() == content
    assert log.error is not None
    assert "not a file of rows" in log.error
    assert log.dropped == 1


def test_rotation_by_size(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), Rotation(3000, keep=1000), clock=clock)
    for index in range(60):
        add(log, index, boxes=index % 4)
        clock.passed += SECOND // 3  # so that several fall into a second
    log.close(True)
    older = rotated_files(path)
    assert older[0].name == "rows-20261124T180002Z.jsonl"
    assert len(older) > 5
    assert frames(*older, path) == list(range(60))
    assert max(one.stat().st_size for one in (*older, path)) <= 3000
    assert min(one.stat().st_size for one in older) > 1500


def test_names_are_unique_and_a_large_row_has_a_separate_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = JsonlLog(str(path), Rotation(1, keep=1000), clock=HandClock())
    for index in range(12):
        add(log, index)
    older = rotated_files(path)
    assert [one.name for one in older[:2]] == ["rows-20261124T180000Z.jsonl", "rows-20261124T180000Z-2.jsonl"]
    assert frames(*older, path) == list(range(12))


def test_rotation_by_day_also_after_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), Rotation(daily=True), clock=clock)
    add(log, 0)
    clock.passed += 6 * 3600 * SECOND - 1  # a nanosecond before midnight
    add(log, 1)
    assert names(tmp_path) == ["rows.jsonl"]
    clock.passed += 1
    add(log, 2)
    assert names(tmp_path) == ["rows-20261125T000000Z.jsonl", "rows.jsonl"]
    log.close(False)
    os.utime(path, ns=(clock.wall_ns(), clock.wall_ns()))
    clock.passed += DAY
    log = JsonlLog(str(path), Rotation(daily=True), clock=clock)
    add(log, 3)
    clock.set_back = DAY  # a clock that is set back does not begin a new file
    add(log, 4)
    assert frames(*rotated_files(path), path) == [0, 1, 2, 3, 4]
    assert len(rotated_files(path)) == 2


def test_a_clock_that_is_set_back_does_not_make_the_new_file_the_oldest(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), Rotation(1, keep=3), clock=clock)
    for index in range(12):
        add(log, index)
        clock.set_back += 10 * SECOND
    assert frames(*rotated_files(path), path) == [8, 9, 10, 11]


@pytest.mark.parametrize("keep", [0, 3])
def test_old_files_are_deleted_and_no_others(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "rows.jsonl"
    others = ["rows-1.jsonl", "rows-20261124T180000Z.csv", "rowsx-20200101T000000Z.jsonl", "rows-20200101T000000Z-x.jsonl"]
    for other in others:
        (tmp_path / other).write_text("{}\n")
    (tmp_path / "rows-20200101T000000Z.jsonl").write_text("{}\n")  # an old file of the service
    log = JsonlLog(str(path), Rotation(1, keep=keep), clock=HandClock())
    for index in range(12):
        add(log, index)
    assert frames(*rotated_files(path), path) == list(range(12))[-keep - 1 :]
    assert set(others) <= set(names(tmp_path))
    assert len(names(tmp_path)) == len(others) + keep + 1


def test_each_stream_has_a_file_and_few_are_open(tmp_path: Path) -> None:
    open_before = len(os.listdir("/dev/fd"))
    log = JsonlLog(str(tmp_path / "{stream}.jsonl"), Rotation(5000, keep=2), max_open=4)
    for index in range(30):
        for stream in range(10):
            add(log, index, stream=f"gate.{stream}")
        assert len(log.outputs) == 4
        assert len(os.listdir("/dev/fd")) <= open_before + 4
    log.close(True)
    for stream in range(10):
        path = tmp_path / f"gate.{stream}.jsonl"
        kept = frames(*rotated_files(path), path)
        assert kept == list(range(30))[-len(kept) :]
        assert len(rotated_files(path)) == 2


@given(st.lists(st.text(st.characters(codec=None, categories=None), max_size=120), max_size=6, unique=True))
def test_file_names_of_streams_are_safe_and_unique(streams: list[str]) -> None:
    streams += ["..", ".", "", "a/b", "a_b", "../../etc/passwd", "\udcff", "gate", "x" * 300, "x" * 301]
    safe = [safe_name(stream) for stream in dict.fromkeys(streams)]
    assert len(set(safe)) == len(safe)
    for name in safe:
        assert name.isascii()
        assert not set(name) & set("/\\\0 \n")
        assert 0 < len(name) < 120
        assert not name.startswith(".")
    assert safe_name("gate-2.north") == "gate-2.north"


def test_any_name_and_label_can_be_written(tmp_path: Path) -> None:
    log = JsonlLog(str(tmp_path / "{stream}.jsonl"))
    for stream in ("\udcff", "../up", "überholt", "a\nb"):
        add(log, 0, stream=stream)
    assert state(log) == (0, None)
    assert {json.loads(path.read_text())["stream"] for path in tmp_path.iterdir()} == {"\udcff", "../up", "überholt", "a\nb"}
    log.close(True)


def test_streams_that_share_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = JsonlLog(str(path), Rotation(20_000, keep=1000))

    def write(number: int) -> None:
        for index in range(100):
            add(log, index, stream=f"stream-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4), timeout=60))
    log.close(True)
    assert sorted(frames(*rotated_files(path), path)) == sorted(list(range(100)) * 4)


def test_invalid_limits_are_refused() -> None:
    for wrong in ({"max_open": 0}, {"rotation": Rotation(keep=-1)}):
        with pytest.raises(ValueError, match="must be at least"):
            JsonlLog("rows.jsonl", **wrong)
