"""Parquet of a service: whole files only, rotated, including the parts that a killed process left."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.service.fakes import frame, result
from tests.support.details import KINDS, details, with_details
from tests.support.disks import small_disk
from tests.support.hand_clock import HandClock
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.sink.archive import parquet_log
from vision_infer.sink.archive.parquet_log import ParquetLog
from vision_infer.sink.archive.parquet_parts import Parts
from vision_infer.sink.archive.rotation import Rotation, rotated_files

HOURLY = Rotation(10**9, every_s=3600)
STATE = {"type": "state", "stream": "door", "state": "live", "at": "2026-11-24T18:00:00.123Z", "reason": ""}
CROSS = {
    "type": "event",
    "stream": "door",
    "frame": 7,
    "at": "2026-11-24T18:00:01.000Z",
    "kind": "cross",
    "place": "gate",
    "track_id": 3,
    "class_id": 0,
    "label": "person",
    "direction": "in",
    "counts": {"in": 4, "out": 2},
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_log, "_CHECK_S", 0.01)


def put(log: ParquetLog, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        log.write(frame(index=index), result(index=index))


def final(folder: Path, name: str = "rows") -> list[Path]:
    return rotated_files(folder / f"{name}.parquet")


def frames_of(*paths: Path) -> list[int]:
    return [number for path in paths for number in pq.read_table(path)["frame"].to_pylist()]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_both_series_are_whole_at_the_end(tmp_path: Path) -> None:
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    put(log, 50)
    log.add_event(lambda: json.dumps(STATE))
    log.add_event(lambda: json.dumps(CROSS))
    log.close(True)
    (rows,) = final(tmp_path)
    table = pq.read_table(rows)
    assert frames_of(rows) == [index for index in range(50) for _ in range(2)]
    assert table["captured_at"].type == pa.timestamp("ms", "UTC")
    assert table["captured_at"][0].as_py().timestamp() == 1_700_000_000
    assert set(table["label"].to_pylist()) == {"person", "car"}
    (events,) = final(tmp_path, "rows.events")
    state, cross = pq.read_table(events).to_pylist()
    assert (state["type"], state["state"], state["stream"], state["kind"]) == ("state", "live", "door", None)
    assert (cross["place"], cross["direction"], cross["count_in"], cross["count_out"]) == ("gate", "in", 4, 2)
    assert cross["at"].isoformat() == "2026-11-24T18:00:01+00:00"
    assert hidden(tmp_path) == []
    assert (log.written, log.error) == (102, None)


def test_streams_with_different_details_share_a_file(tmp_path: Path) -> None:
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    found = {kind: with_details(details(kind, 2)) for kind in KINDS}
    for kind, one in found.items():
        log.write(frame(kind), replace(result(kind), detections=one))
    put(log, 1)  # without details
    log.close(True)
    rows = pq.read_table(final(tmp_path)[0]).to_pylist()
    assert len(rows) == 8
    for kind, field in KINDS.items():
        expected = [getattr(detection, field) for detection in found[kind]]
        assert [row["stream"] for row in rows if row[field] is not None] == [kind] * 2
        actual = [row[field] for row in rows if row[field] is not None]
        if kind == "masks":
            assert actual == expected
        else:
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_new_file_begins_after_the_time_and_with_the_day(tmp_path: Path) -> None:
    clock = HandClock()
    log = ParquetLog(str(tmp_path / "rows.parquet"), Rotation(10**9, daily=True, every_s=600), clock)
    put(log, 10)
    wait_until(lambda: not log._queue, "the queue is empty")
    clock.move(61)
    wait_until(lambda: log.written == 20, "a part is written after a minute")
    assert final(tmp_path) == []
    clock.move(601)
    wait_until(lambda: len(final(tmp_path)) == 1, "a file after ten minutes")
    put(log, 5, 10)
    wait_until(lambda: not log._queue, "the queue is empty")
    clock.move(86_400)
    wait_until(lambda: len(final(tmp_path)) == 2, "a file with the day")
    log.close(True)
    assert frames_of(*final(tmp_path)) == [index for index in range(15) for _ in range(2)]


def test_older_files_are_deleted(tmp_path: Path) -> None:
    clock = HandClock()
    log = ParquetLog(str(tmp_path / "rows.parquet"), Rotation(1, keep=3), clock)
    for number in range(6):
        put(log, 1, number)
        wait_until(lambda: not log._queue, "the queue is empty")
        clock.move(61)
        wait_until(lambda: log.written == 2 * number + 2 and hidden(tmp_path) == [], "a file")  # noqa: B023
    log.close(True)
    assert frames_of(*final(tmp_path)) == [3, 3, 4, 4, 5, 5]


def test_many_parts_become_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_log, "ROWS_PER_PART", 8)
    monkeypatch.setattr("vision_infer.sink.archive.parquet_parts.ROWS_PER_GROUP", 64)
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    put(log, 200)
    log.close(True)
    (rows,) = final(tmp_path)
    assert frames_of(rows) == [index for index in range(200) for _ in range(2)]
    groups = pq.ParquetFile(rows).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [64] * 6 + [16]


CHILD = """
import sys
from pathlib import Path
from tests.service.fakes import frame, result
from vision_infer.sink.archive import parquet_log
from vision_infer.sink.archive.rotation import Rotation
parquet_log.PART_S = 0.05
log = parquet_log.ParquetLog(sys.argv[1], Rotation(10**9, every_s=3600))
index = 0
while True:
    log.write(frame(index=index), result(index=index))
    index += 1
    if index % 50 == 0:
        print(log.written, flush=True)
        import time; time.sleep(0.02)
"""


def test_a_killed_process_loses_only_rows_in_memory(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    safe = 0
    while safe < 1000:
        safe = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert final(tmp_path) == [], "only whole files have names"
    assert hidden(tmp_path)
    log = ParquetLog(str(target), HOURLY)
    put(log, 1, 10**6)
    log.close(True)
    kept, new = final(tmp_path)
    frames = frames_of(kept)
    assert len(frames) >= safe
    assert frames == sorted(frames)
    assert frames[-1] - frames[0] == len(set(frames)) - 1, "without a gap"
    assert frames_of(new) == [10**6, 10**6]
    assert hidden(tmp_path) == []


def test_a_kill_after_the_file_is_finished_duplicates_nothing(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "rows.parquet", 10**18)
    table = pa.table({"frame": [1]})
    parts.add(table)
    pq.write_table(table, parts.final)
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    log.close(True)
    assert final(tmp_path) == [parts.final]
    assert hidden(tmp_path) == []


def test_damaged_parts_are_left_out(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "rows.parquet", 10**18)
    for number in range(3):
        parts.add(pa.table({"frame": [number]}))
    (parts.folder / "000002.parquet").write_bytes(b"PAR1 no")
    (parts.folder / "000004.partial").write_bytes(b"PAR1")
    broken = Parts(tmp_path / "rows.parquet", 10**18)
    (broken.folder / "000001.parquet").write_bytes(b"")
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    log.close(True)
    assert frames_of(parts.final) == [0, 2]
    assert final(tmp_path) == [parts.final]
    assert broken.folder.exists(), "unreadable parts are left in place"


def test_a_failing_disk_is_reported_and_retried_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_log, "ROWS_PER_PART", 10)
    monkeypatch.setattr(parquet_log, "RETRY_S", 0.05)
    full = [True]
    add = Parts.add

    def fail(self: Parts, table: Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, table)

    monkeypatch.setattr(Parts, "add", fail)
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY)
    put(log, 100)
    wait_until(lambda: log.drops["disk_error"] == 90, lambda: str(log.drops))
    assert log.error == f"{tmp_path / 'rows.parquet'}: No space left on device"
    full[0] = False
    wait_until(lambda: log.error is None and log.written == 20, "the log works again")
    put(log, 1, 100)
    log.close(True)
    assert frames_of(*final(tmp_path)) == [index for index in [*range(10), 100] for _ in range(2)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = ParquetLog(str(tmp_path / "file" / "rows.parquet"), HOURLY)
    put(log, 1)
    log.close(True)
    assert log.error is not None
    assert os.path.getsize(tmp_path / "file") == 0


def test_new_columns_begin_a_new_file(tmp_path: Path) -> None:
    clock = HandClock()
    log = ParquetLog(str(tmp_path / "rows.parquet"), HOURLY, clock)
    put(log, 1)
    wait_until(lambda: not log._queue, "the queue is empty")
    clock.move(61)
    wait_until(lambda: log.written == 2, "a part")
    plain = result(index=1)
    descriptions = [Description(embedding=np.full(size, 0.5, np.float32)) for size in (4, 8)]
    for index, size in ((1, 0), (2, 0), (3, 1)):
        log.write(frame(index=index), replace(plain, frame=index, detections=Detections.empty(), description=descriptions[size]))
        if index < 3:
            wait_until(lambda: not log._queue, "the queue is empty")
            clock.move(61)
            wait_until(lambda: log.written == 2 + index, "a part")  # noqa: B023
    log.close(True)
    assert log.error is None
    with_them = [path for path in final(tmp_path) if "embedding" in pq.read_schema(path).names]
    assert frames_of(*final(tmp_path)) == [0, 0, 1, 2, 3]
    assert frames_of(*with_them) == [1, 2]


def test_a_disk_that_is_really_full_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_log, "ROWS_PER_PART", 2000)
    monkeypatch.setattr(parquet_log, "RETRY_S", 0.05)
    with small_disk(400_000) as disk:
        filler = disk / "filler"
        log = ParquetLog(str(disk / "rows.parquet"), HOURLY)
        filler.write_bytes(b"\0" * 390_000)
        put(log, 4000)
        wait_until(lambda: log.error is not None, "the error is reported")
        assert "No space left on device" in str(log.error)
        filler.unlink()
        wait_until(lambda: log.error is None, lambda: str(log.error))
        put(log, 10, 10_000)
        log.close(True)
        (rows,) = final(disk)
        frames = frames_of(rows)
        assert frames == sorted(frames)
        assert frames[-1] == 10_009
        assert log.drops["disk_error"] + len(frames) // 2 == 4010
        assert hidden(disk) == []
