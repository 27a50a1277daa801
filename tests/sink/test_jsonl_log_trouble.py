"""Rows of a service when the disk is full or broken, a file cannot be renamed, or another program changes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sink.rows_log import SECOND, HandClock, add, close_logs, frames, names, state  # noqa: F401 - an autouse fixture
from tests.support.disks import ordinary_user, small_disk
from tests.support.media import ROOT
from vision_infer.sink.archive.jsonl_log import RETRY_NS, JsonlLog
from vision_infer.sink.archive.rotation import Rotation, rotated_files


def test_a_file_that_another_program_moves_deletes_or_empties(tmp_path: Path) -> None:
    path, moved = tmp_path / "logs" / "rows.jsonl", tmp_path / "rows.jsonl.1"
    log = JsonlLog(str(path), Rotation(100_000))
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


def test_a_full_disk_only_loses_rows(caplog: pytest.LogCaptureFixture) -> None:
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
        log = JsonlLog(str(folder / "{stream}" / "rows.jsonl"), clock=clock, max_open=3)
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


def test_a_failed_write_leaves_no_incomplete_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert frames(path) == [0]  # cut back immediately
    clock.passed += RETRY_NS
    monkeypatch.setattr(os, "ftruncate", refused)
    add(log, 2)
    assert path.read_bytes().count(b"\n") == 1
    assert not path.read_bytes().endswith(b"\n")  # it could not be cut back
    monkeypatch.setattr(os, "write", write)
    clock.passed += RETRY_NS
    add(log, 3)
    assert log.error is not None
    monkeypatch.setattr(os, "ftruncate", cut)
    clock.passed += RETRY_NS
    add(log, 4)
    assert frames(path) == [0, 4]
    assert state(log) == (3, None)


def test_a_file_that_cannot_be_renamed_keeps_growing_and_reports_it(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with ordinary_user() as folder:
        path = folder / "rows.jsonl"
        log = JsonlLog(str(path), Rotation(1), clock=clock)
        add(log, 0)
        folder.chmod(0o500)
        for index in range(1, 30):
            add(log, index)
            clock.passed += SECOND // 10
        assert frames(path) == list(range(30))
        assert log.error == f"{path}: Permission denied: it cannot be renamed and keeps growing"
        assert (log.dropped, len(caplog.records)) == (0, 1)
        folder.chmod(0o700)
        clock.passed += RETRY_NS
        add(log, 30)
        assert frames(path) == [30]
        assert (*state(log), len(caplog.records)) == (0, None, 2)
        log.close(True)


def test_a_file_that_could_not_be_renamed_is_moved_by_another_program(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    with ordinary_user() as folder:
        path = folder / "rows.jsonl"
        log = JsonlLog(str(path), Rotation(2000), clock=clock)
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


def test_a_file_that_another_program_emptied_has_capacity_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = JsonlLog(str(path), Rotation(2000))
    add(log, 0, boxes=20)
    os.truncate(path, 0)
    add(log, 1, boxes=0)
    add(log, 2, boxes=0)
    assert (names(tmp_path), frames(path)) == (["rows.jsonl"], [1, 2])
    log.close(True)


def test_an_invalid_path_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("{}\n")
    for path, words in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "not a regular file"),
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


CHILD = """
import os, sys
from tests.sink.results import found, frame, result_of
from vision_infer.sink.archive.jsonl_log import JsonlLog
from vision_infer.sink.archive.rotation import Rotation
log = JsonlLog(sys.argv[1], Rotation(int(sys.argv[3]), keep=100_000))
for index in range(int(sys.argv[2]), 10**9):
    one = frame(index)
    log.write(one, result_of(one, found(40)))
    os.write(1, b"%d\\n" % index)
"""


def test_a_killed_process_leaves_at_most_one_incomplete_row_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    start, expected = 0, set[int]()
    for attempt in range(6):
        words = [sys.executable, "-c", CHILD, str(path), str(start), "200000"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout is not None
            printed = [int(child.stdout.readline()) for _ in range(40 + 37 * attempt)]
            child.send_signal(signal.SIGKILL)
            printed += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
            assert child.wait(timeout=60) == -signal.SIGKILL
        expected |= set(printed)
        start = printed[-1] + 2  # one more may be in the file
        files = [*rotated_files(path), path]
        text = "".join(one.read_text(encoding="utf-8") for one in files)
        *whole, _last = text.split("\n")
        assert expected <= {json.loads(line)["frame"] for line in whole}
        for one in files[:-1]:
            assert one.read_bytes().endswith(b"\n")
        with path.open("ab") as file:  # as the system may leave it
            file.write(b'{"stream": "clip", "frame": 12')
    log = JsonlLog(str(path))
    add(log, start)
    log.close(True)
    assert set(frames(*rotated_files(path), path)) >= expected | {start}
