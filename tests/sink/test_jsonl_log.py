"""Rows of a service: whole ones only, none lost that could be written, whatever happens to the disk, the file, the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import ordinary_user, small_disk
from tests.media import ROOT
from tests.sink.results import found, frame, result_of
from vision_infer.sink.jsonl_log import RETRY_NS, JsonlLog, safe_name
from vision_infer.sink.log_file import rotated_files
from vision_infer.sink.sink import Sink, Written

SECOND = 1_000_000_000
NOW = 1_795_543_200 * SECOND
"""2026-11-24 18:00:00 UTC"""
DAY = 86_400 * SECOND


class HandClock:
    def __init__(self) -> None:
        self.passed = 0
        self.set_back = 0

    def monotonic_ns(self) -> int:
        return 5_000 + self.passed

    def wall_ns(self) -> int:
        return NOW + self.passed - self.set_back


def add(log: JsonlLog, index: int, stream: str = "clip", boxes: int = 2) -> None:
    one = frame(index, index / 25, stream=stream)
    log.write(one, result_of(one, found(boxes)))


def frames(*paths: Path) -> list[int]:
    """The numbers of the rows, every one of which is whole."""
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert text.endswith("\n") or not text
    return [json.loads(line)["frame"] for line in text.splitlines()]


def state(log: JsonlLog) -> tuple[int, str | None]:
    return log.dropped, log.error


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_rows_are_in_the_file_at_once_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    for start in (0, 3):
        log = JsonlLog(str(path))
        sink: Sink = log
        assert not sink.needs_pictures
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
def test_a_torn_row_is_cut_off(tmp_path: Path, torn: bytes, before: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before + torn)
    log = JsonlLog(str(path))
    add(log, 1)
    log.close(True)
    assert path.read_bytes().startswith(before + b'{"stream": "clip"')
    assert frames(path)[-1] == 1


@pytest.mark.parametrize("content", [b"root:x:0:0", b"root:x:0:0\n", b"{\n  oops", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_what_is_no_file_of_rows_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(content)
    log = JsonlLog(str(path))
    add(log, 1)
    assert path.read_bytes() == content
    assert log.error is not None
    assert "is no file of rows" in log.error
    assert log.dropped == 1


def test_rotation_by_size(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), rotate_bytes=3000, keep=1000, clock=clock)
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


def test_names_are_unique_and_a_large_row_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = JsonlLog(str(path), rotate_bytes=1, keep=1000, clock=HandClock())
    for index in range(12):
        add(log, index)
    older = rotated_files(path)
    assert [one.name for one in older[:2]] == ["rows-20261124T180000Z.jsonl", "rows-20261124T180000Z-2.jsonl"]
    assert frames(*older, path) == list(range(12))


def test_rotation_by_day_also_after_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), daily=True, clock=clock)
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
    log = JsonlLog(str(path), daily=True, clock=clock)
    add(log, 3)
    clock.set_back = DAY  # the time of day was set back: no reason for a new file
    add(log, 4)
    assert frames(*rotated_files(path), path) == [0, 1, 2, 3, 4]
    assert len(rotated_files(path)) == 2


def test_a_clock_that_is_set_back_makes_no_new_file_the_oldest(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), rotate_bytes=1, keep=3, clock=clock)
    for index in range(12):
        add(log, index)
        clock.set_back += 10 * SECOND
    assert frames(*rotated_files(path), path) == [8, 9, 10, 11]


@pytest.mark.parametrize("keep", [0, 3])
def test_only_so_many_are_kept_and_nothing_else_is_deleted(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "rows.jsonl"
    others = ["rows-1.jsonl", "rows-20261124T180000Z.csv", "rowsx-20200101T000000Z.jsonl", "rows-20200101T000000Z-x.jsonl"]
    for other in others:
        (tmp_path / other).write_text("{}\n")
    (tmp_path / "rows-20200101T000000Z.jsonl").write_text("{}\n")  # ours, of long ago
    log = JsonlLog(str(path), rotate_bytes=1, keep=keep, clock=HandClock())
    for index in range(12):
        add(log, index)
    assert frames(*rotated_files(path), path) == list(range(12))[-keep - 1 :]
    assert set(others) <= set(names(tmp_path))
    assert len(names(tmp_path)) == len(others) + keep + 1


def test_a_file_that_is_moved_deleted_or_emptied_by_others(tmp_path: Path) -> None:
    path, moved = tmp_path / "logs" / "rows.jsonl", tmp_path / "rows.jsonl.1"
    log = JsonlLog(str(path), rotate_bytes=100_000)
    add(log, 0)
    path.rename(moved)
    add(log, 1)
    assert (frames(moved), frames(path)) == ([0], [1])
    path.unlink()
    add(log, 2)
    assert frames(path) == [2]
    path.unlink()
    path.parent.rmdir()
    add(log, 3)
    assert frames(path) == [3]
    os.truncate(path, 0)
    add(log, 4)
    assert frames(path) == [4]
    moved.replace(path)
    add(log, 5)
    assert frames(path) == [0, 5]
    assert state(log) == (0, None)


def test_a_full_disk_costs_rows_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with small_disk(1024 * 1024) as folder:
        path, filler = folder / "rows.jsonl", folder / "filler"
        filler.write_bytes(bytes(512 * 1024))
        log = JsonlLog(str(path), clock=clock)
        index = 0
        while not log.dropped:
            add(log, index, boxes=20)
            index += 1
        for _ in range(50):
            clock.passed += SECOND // 10
            add(log, index, boxes=20)
            index += 1
        assert frames(path) == list(range(len(frames(path))))
        assert len(frames(path)) + log.dropped == index
        assert log.error == f"{path}: No space left on device: rows are dropped"
        assert [record.levelname for record in caplog.records] == ["WARNING"]

        filler.unlink()
        add(log, index, boxes=20)  # too early
        dropped = log.dropped
        clock.passed += RETRY_NS
        add(log, index + 1)
        add(log, index + 2)
        assert frames(path)[-2:] == [index + 1, index + 2]
        assert index not in frames(path)
        assert state(log) == (dropped, None)
        assert [record.getMessage() for record in caplog.records[1:]] == [f"{path}: works again; {dropped} rows were dropped"]
        log.close(True)


def test_a_disk_that_is_full_from_the_start(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with small_disk(64 * 1024) as folder:
        with pytest.raises(OSError, match="No space"):
            (folder / "filler").write_bytes(bytes(128 * 1024))
        log = JsonlLog(str(folder / "{stream}" / "rows.jsonl"), clock=clock, most_open=3)
        for index in range(20):
            add(log, index, stream=f"stream-{index % 7}")
            clock.passed += SECOND
        assert (log.dropped, len(caplog.records)) == (20, 1)
        (folder / "filler").unlink()
        for index in range(20, 30):
            add(log, index, stream=f"stream-{index % 7}")
            clock.passed += SECOND
        assert frames(*sorted(folder.glob("*/rows.jsonl"), key=lambda one: frames(one))) != []
        assert sorted(frames(*folder.glob("*/rows.jsonl"))) == list(range(20, 30))
        assert (*state(log), len(caplog.records)) == (20, None, 2)
        log.close(True)


def test_a_write_that_breaks_off_leaves_no_torn_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    log = JsonlLog(str(path), clock=clock)
    add(log, 0)
    write, cut = os.write, os.ftruncate
    calls: list[int] = []

    def broken(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) % 2 == 0:
            raise OSError(5, "Input/output error")
        return write(fd, data[:50])

    def refused(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", broken)
    add(log, 1)
    assert frames(path) == [0]  # cut back at once
    clock.passed += RETRY_NS
    monkeypatch.setattr(os, "ftruncate", refused)
    add(log, 2)
    assert path.read_bytes().count(b"\n") == 1
    assert not path.read_bytes().endswith(b"\n")  # it could not even be cut back
    monkeypatch.setattr(os, "write", write)
    clock.passed += RETRY_NS
    add(log, 3)
    assert log.error is not None
    monkeypatch.setattr(os, "ftruncate", cut)
    clock.passed += RETRY_NS
    add(log, 4)
    assert frames(path) == [0, 4]
    assert state(log) == (3, None)


def test_where_it_cannot_be_renamed_it_grows_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with ordinary_user() as folder:
        path = folder / "rows.jsonl"
        log = JsonlLog(str(path), rotate_bytes=1, clock=clock)
        add(log, 0)
        folder.chmod(0o500)
        for index in range(1, 30):
            add(log, index)
            clock.passed += SECOND // 10
        assert frames(path) == list(range(30))
        assert log.error == f"{path}: Permission denied: it cannot be renamed and grows on"
        assert (log.dropped, len(caplog.records)) == (0, 1)
        folder.chmod(0o700)
        clock.passed += RETRY_NS
        add(log, 30)
        assert frames(path) == [30]
        assert (*state(log), len(caplog.records)) == (0, None, 2)
        log.close(True)


def test_a_file_that_could_not_be_renamed_is_moved_by_somebody_else(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with ordinary_user() as folder:
        path = folder / "rows.jsonl"
        log = JsonlLog(str(path), rotate_bytes=2000, clock=clock)
        add(log, 0, boxes=20)
        folder.chmod(0o500)
        add(log, 1)
        assert log.error is not None
        folder.chmod(0o700)
        path.rename(folder / "moved")
        clock.passed += RETRY_NS
        add(log, 2, boxes=0)
        add(log, 3, boxes=0)
        assert (frames(folder / "moved"), frames(path)) == ([0, 1], [2, 3])
        assert (*state(log), len(caplog.records)) == (0, None, 2)
        log.close(True)


def test_what_others_have_emptied_has_room_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = JsonlLog(str(path), rotate_bytes=2000)
    add(log, 0, boxes=20)
    os.truncate(path, 0)
    add(log, 1, boxes=0)
    add(log, 2, boxes=0)
    assert (names(tmp_path), frames(path)) == (["rows.jsonl"], [1, 2])
    log.close(True)


def test_a_place_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("{}\n")
    for path, words in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "is no ordinary file"),
        (tmp_path / "file" / "rows.jsonl", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "zero\0", "null"),
    ):
        log = JsonlLog(str(path))
        add(log, 0)
        assert log.dropped == 1
        assert log.error is not None
        assert words in log.error
        assert "\n" not in log.error
    assert len(caplog.records) == 5


def test_two_services_do_not_write_the_same_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows.jsonl", HandClock()
    first, second = JsonlLog(str(path)), JsonlLog(str(path), clock=clock)
    add(first, 0)
    add(second, 1)
    assert second.error is not None
    assert "another process writes it" in second.error
    first.close(True)
    clock.passed += RETRY_NS
    add(second, 2)
    assert frames(path) == [0, 2]


def test_a_file_for_each_stream_and_few_of_them_open(tmp_path: Path) -> None:
    open_before = len(os.listdir("/dev/fd"))
    log = JsonlLog(str(tmp_path / "{stream}.jsonl"), rotate_bytes=5000, keep=2, most_open=4)
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
def test_names_of_streams_are_safe_and_stay_different(streams: list[str]) -> None:
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
    log = JsonlLog(str(path), rotate_bytes=20_000, keep=1000)

    def write(number: int) -> None:
        for index in range(100):
            add(log, index, stream=f"stream-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4), timeout=60))
    log.close(True)
    assert sorted(frames(*rotated_files(path), path)) == sorted(list(range(100)) * 4)


def test_numbers_must_be_possible() -> None:
    for wrong in ({"most_open": 0}, {"keep": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            JsonlLog("rows.jsonl", **wrong)  # type: ignore[arg-type]


CHILD = """
import os, sys
from tests.sink.results import found, frame, result_of
from vision_infer.sink.jsonl_log import JsonlLog
log = JsonlLog(sys.argv[1], rotate_bytes=int(sys.argv[3]), keep=100_000)
for index in range(int(sys.argv[2]), 10**9):
    one = frame(index)
    log.write(one, result_of(one, found(40)))
    os.write(1, b"%d\\n" % index)
"""


def test_a_killed_process_leaves_at_most_one_torn_row_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    start, expected = 0, set[int]()
    for attempt in range(6):
        words = [sys.executable, "-c", CHILD, str(path), str(start), "200000"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout is not None
            told = [int(child.stdout.readline()) for _ in range(40 + 37 * attempt)]
            child.send_signal(signal.SIGKILL)
            told += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
            assert child.wait(timeout=60) == -signal.SIGKILL
        expected |= set(told)
        start = told[-1] + 2  # one more may be in the file
        files = [*rotated_files(path), path]
        text = "".join(one.read_text(encoding="utf-8") for one in files)
        *whole, _last = text.split("\n")
        assert expected <= {json.loads(line)["frame"] for line in whole}
        for one in files[:-1]:
            assert one.read_bytes().endswith(b"\n")
        with path.open("ab") as file:  # such as the system may leave
            file.write(b'{"stream": "clip", "frame": 12')
    log = JsonlLog(str(path))
    add(log, start)
    log.close(True)
    assert set(frames(*rotated_files(path), path)) >= expected | {start}
