"""The spool keeps its records in order, survives a kill, is bounded, and counts what it loses."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.disks import small_disk
from tests.support.hand_clock import HandClock
from vision_infer.sink.delivery.spool import FILE, Spool

MB = 1 << 20


def put(spool: Spool, count: int, size: int = 100, batch: int = 1) -> None:
    for start in range(0, count, batch):
        spool.append([("detections", "door", "x" * size)] * min(batch, count - start))


def drain(spool: Spool, limit: int = 7) -> list[int]:
    numbers: list[int] = []
    while records := spool.read(limit):
        numbers += [record.number for record in records]
        spool.acknowledge(records[-1].number)
    return numbers


def files_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def killed(spool: Spool, folder: Path, copy: Path) -> Path:
    """Return a copy of the files as a kill leaves them at this moment: nothing is finished."""
    shutil.copytree(folder, copy)
    spool.close()
    return copy


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_records_are_read_as_they_were_appended(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", MB)
    spool.append([("events", "yard", '{"a": "ü\\u0000"}'), ("engine", "", "{}")])
    first, second = spool.read(10)
    assert (first.number, first.kind, first.stream, first.text) == (1, "events", "yard", '{"a": "ü\\u0000"}')
    assert (second.number, second.kind, second.stream) == (2, "engine", "")
    assert [record.number for record in spool.read(1)] == [1], "a record that is not acknowledged is read again"
    spool.acknowledge(1)
    assert [record.number for record in spool.read(10)] == [2]
    spool.append([("events", "yard", "\udcff")])
    assert [record.text for record in spool.read(10)] == ["{}", "\\udcff"]
    spool.close()


def test_a_read_is_bounded_in_bytes_but_never_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 10, 1000)
    assert len(spool.read(10, 3000)) == 3
    assert len(spool.read(10, 1)) == 1
    spool.close()


def test_waiting_records_survive_a_kill_and_acknowledged_ones_are_not_sent_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", 16 * MB)
    put(spool, 500)
    spool.acknowledge(123)
    name = spool.name
    again = Spool(killed(spool, tmp_path / "a", tmp_path / "b"), 16 * MB)
    assert again.name == name
    assert again.waiting == 377
    put(again, 1)
    assert drain(again) == list(range(124, 502))
    assert again.dropped == {}
    assert again.waiting == 0
    again.close()
    last = Spool(tmp_path / "b", 16 * MB)
    put(last, 1)
    assert drain(last) == [502], "numbers go on where all records were sent, too"
    last.close()


def test_a_killed_process_loses_no_record_that_was_appended(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from vision_infer.sink.delivery.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), 1 << 24)\n"
        "for number in range(300): spool.append([('events', 'door', str(number))])\n"
        "spool.acknowledge(50); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    spool = Spool(tmp_path, 16 * MB)
    assert [record.text for record in spool.read(1000)] == [str(number) for number in range(50, 300)]
    spool.close()


def test_a_torn_write_at_the_end_costs_only_the_last_records(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", MB)
    put(spool, 10)
    copy = killed(spool, tmp_path / "a", tmp_path / "b")
    wal = copy / (FILE + "-wal")
    os.truncate(wal, wal.stat().st_size - 5)
    again = Spool(copy, MB)
    put(again, 1)
    assert drain(again) == list(range(1, 11))
    again.close()


def test_a_record_with_flipped_bits_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    for number in range(100):
        spool.append([("events", "door", f"<{number:04d}>" * 50)])
    spool.close()
    overwrite(tmp_path / FILE, (tmp_path / FILE).read_bytes().index(b"<0050>"), b"!")
    again = Spool(tmp_path, MB)
    assert drain(again) == [number for number in range(1, 101) if number != 51]
    assert again.dropped == {"damaged": 1}
    again.close()


def test_a_damaged_page_is_counted_and_the_spool_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 100, 1000)
    spool.close()
    overwrite(tmp_path / FILE, 12 * 4096, b"\xa5" * 4096)
    again = Spool(tmp_path, MB)
    numbers = drain(again)
    assert numbers == list(range(1, len(numbers) + 1))
    assert again.dropped == {"damaged": 100 - len(numbers)}
    assert again.waiting == 0
    assert (tmp_path / f"{FILE}.damaged").exists()
    put(again, 1)
    assert drain(again) == [101]
    again.close()


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_file_that_is_not_a_database_is_set_aside_and_counted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    spool = Spool(tmp_path, MB)
    assert spool.dropped == {"damaged": 1}
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == content
    put(spool, 3)
    assert drain(spool) == [1, 2, 3]
    spool.close()


def test_a_deleted_file_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 100)
    (tmp_path / FILE).unlink()
    spool.sync()
    assert spool.dropped == {"damaged": 100}
    assert spool.waiting == 0
    put(spool, 2)
    copy = Spool(killed(spool, tmp_path, tmp_path.with_name("copy")), MB)
    assert drain(copy) == [101, 102]
    copy.close()


def test_damage_anywhere_is_survived_and_order_is_kept(tmp_path: Path) -> None:
    draw = random.Random(5)
    spool = Spool(tmp_path / "good", MB)
    put(spool, 60, 500)
    spool.close()
    for turn in range(40):
        folder = tmp_path / str(turn)
        shutil.copytree(tmp_path / "good", folder)
        for _ in range(draw.randrange(1, 4)):
            overwrite(folder / FILE, draw.randrange((folder / FILE).stat().st_size), draw.randbytes(draw.choice([1, 40, 4000])))
        again = Spool(folder, MB)
        put(again, 1)
        numbers = drain(again)
        assert numbers == sorted(set(numbers))
        assert numbers, "the spool goes on with what is appended"
        assert again.waiting == 0
        again.close()


def test_a_full_spool_drops_the_oldest_records_and_counts_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 512 * 1024)
    put(spool, 10_000, batch=16)
    assert 256 * 1024 < spool.size_bytes <= 512 * 1024
    assert files_size(tmp_path) <= 512 * 1024
    numbers = drain(spool, 100)
    assert numbers == list(range(numbers[0], 10_001))
    assert spool.dropped == {"spool_full": numbers[0] - 1}
    spool.close()


def test_a_record_larger_than_the_spool_leaves_it_usable(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 64 * 1024)
    put(spool, 3)
    put(spool, 1, 100_000)
    put(spool, 1)
    assert drain(spool)[-1] == 5
    spool.close()


def test_space_of_sent_records_is_given_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 8 * MB)
    for _ in range(5):
        put(spool, 1000, 4000, batch=50)
        assert len(drain(spool, 64)) == 1000
        spool.sync()
        assert spool.size_bytes < 64 * 1024
    spool.close()
    assert files_size(tmp_path) < 64 * 1024
    assert spool.dropped == {}


class FullDisk(sqlite3.Connection):
    """A connection on a disk that takes no more rows while ``full``, and cannot be read while ``unreadable``."""

    full = False
    unreadable = False

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        if FullDisk.unreadable and sql.startswith("SELECT *"):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            raise error
        if FullDisk.full and sql.startswith(("INSERT", "DELETE")):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *parameters)  # type: ignore[arg-type]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[FullDisk]:
    connect = sqlite3.connect
    monkeypatch.setattr(FullDisk, "full", False)
    monkeypatch.setattr(FullDisk, "unreadable", False)
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=FullDisk, **options))
    return FullDisk


def test_a_full_disk_loses_nothing_while_the_receiver_keeps_up(tmp_path: Path, disk: type[FullDisk]) -> None:
    clock = HandClock()
    spool = Spool(tmp_path / "a", 16 * MB, clock)
    put(spool, 2)
    disk.full = True
    put(spool, 3)
    assert str(spool.error) == f"{tmp_path / 'a'}: database or disk is full"
    assert spool.waiting == 5
    assert drain(spool, 2) == [1, 2, 3, 4, 5]
    put(spool, 1)
    disk.full = False
    put(spool, 1)
    assert spool.waiting == 2, "the disk is not tried again yet"
    assert str(spool.error).endswith("full")
    clock.move(1.1)
    put(spool, 1)
    assert spool.error is None
    again = Spool(killed(spool, tmp_path / "a", tmp_path / "b"), 16 * MB)
    assert [record.number for record in again.read(9)] == [6, 7, 8], "records in memory are written once the disk takes them"
    again.close()


@pytest.mark.parametrize("damage", ["crc = crc + 1", "text = 'text'", "stream = CAST(x'ff' AS TEXT), crc = crc + 1"])
def test_records_in_memory_wait_for_the_stored_ones_behind_a_damaged_record(
    tmp_path: Path, disk: type[FullDisk], damage: str
) -> None:
    spool = Spool(tmp_path, MB, HandClock())
    put(spool, 6)
    assert spool._db is not None
    with spool._db:
        spool._db.execute(f"UPDATE records SET {damage} WHERE number = 3")
    disk.full = True
    put(spool, 1)
    assert [record.number for record in spool.read(10)] == [1, 2]
    assert drain(spool, 2) == [1, 2, 4, 5, 6, 7]
    assert spool.dropped == {"damaged": 1}
    assert spool.waiting == 0
    spool.close()


def test_damaged_records_in_front_do_not_hide_the_stored_ones_from_a_short_read(tmp_path: Path, disk: type[FullDisk]) -> None:
    spool = Spool(tmp_path, MB, HandClock())
    put(spool, 6)
    assert spool._db is not None
    with spool._db:
        spool._db.execute("UPDATE records SET crc = crc + 1 WHERE number <= 2")
    disk.full = True
    put(spool, 1)
    assert drain(spool, 2) == [3, 4, 5, 6, 7]
    assert spool.dropped == {"damaged": 2}
    spool.close()


def test_a_record_with_a_damaged_stream_name_is_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 2)
    assert spool._db is not None
    with spool._db:
        spool._db.execute("UPDATE records SET stream = CAST(x'ff' AS TEXT) WHERE number = 1")
    assert [record.stream for record in spool.read(9)] == ["\ufffd", "door"]
    spool.close()


def test_a_disk_that_cannot_be_read_for_a_while_loses_nothing(tmp_path: Path, disk: type[FullDisk]) -> None:
    clock = HandClock()
    spool = Spool(tmp_path, MB, clock)
    put(spool, 3)
    disk.unreadable = True
    assert spool.read(9) == []
    assert str(spool.error) == f"{tmp_path}: disk I/O error"
    put(spool, 1)
    assert spool.read(9) == [], "the record in memory is newer than the stored ones"
    assert spool.waiting == 4
    assert spool.unreadable
    clock.move(1.1)
    put(spool, 1)
    assert str(spool.error).endswith("I/O error"), "a disk that is written does not mean that it is read"
    disk.unreadable = False
    assert len(spool.read(9)) == 5
    assert spool.error is None
    assert drain(spool) == [1, 2, 3, 4, 5]
    assert spool.dropped == {}
    spool.close()


def test_a_full_disk_without_a_receiver_is_bounded_and_counted(tmp_path: Path, disk: type[FullDisk]) -> None:
    spool = Spool(tmp_path, 64 * 1024, HandClock())
    disk.full = True
    put(spool, 1000)
    assert spool.waiting + spool.dropped["disk_error"] == 1000
    assert spool.waiting < 200
    numbers = drain(spool)
    assert numbers == list(range(1001 - len(numbers), 1001))
    assert spool.waiting == 0
    spool.close()


def test_two_processes_do_not_share_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    code = "import sys, pathlib; from vision_infer.sink.delivery.spool import Spool; Spool(pathlib.Path(sys.argv[1]), 1 << 20)"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert "OSError: [Errno 5] database is locked" in other.stderr
    with pytest.raises(OSError, match="locked"):
        Spool(tmp_path, MB)
    put(spool, 1)
    assert drain(spool) == [1]
    spool.close()
    Spool(tmp_path, MB).close()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Spool(tmp_path / "file" / "s", MB)


def test_a_spool_that_begins_again_at_one_has_another_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 3)
    drain(spool)
    spool.close()
    before = spool.name
    (tmp_path / FILE).unlink()
    again = Spool(tmp_path, MB)
    assert again.name != before
    again.close()


def test_the_status_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    clock = HandClock()
    spool = Spool(tmp_path, MB, clock)
    first = clock.wall_ns()
    put(spool, 2)
    clock.move(5)
    put(spool, 1)
    with spool._lock:  # as the appending thread holds it while the disk is slow
        assert (spool.waiting, spool.oldest_wall_ns) == (3, first)
        assert spool.size_bytes > 0
    spool.acknowledge(2)
    assert spool.oldest_wall_ns == clock.wall_ns()
    spool.acknowledge(3)
    assert spool.waiting == 0
    spool.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 40)),
            st.tuples(st.just("send"), st.integers(1, 40)),
            st.tuples(st.just("kill"), st.just(0)),
            st.tuples(st.just("tear"), st.integers(1, 300)),
        ),
        max_size=30,
    ),
    seed=st.integers(0, 2**16),
)
def test_order_is_kept_and_every_loss_is_counted(
    steps: list[tuple[str, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("spool")
    folder = root / "0"
    draw = random.Random(seed)
    spool = Spool(folder, 256 * 1024)
    last_sent = 0
    for turn, (step, count) in enumerate(steps):
        if step == "put":
            for _ in range(count):
                put(spool, 1, draw.randrange(9000))
        elif step == "send":
            records = spool.read(count)
            for before, record in zip([last_sent, *(one.number for one in records)], records, strict=False):
                assert record.number > before
            if records:
                last_sent = records[-1].number
                spool.acknowledge(last_sent)
        else:
            waiting = spool.waiting
            folder = killed(spool, folder, root / f"{turn + 1}")
            wal = folder / (FILE + "-wal")
            if step == "tear" and wal.exists():
                os.truncate(wal, max(0, wal.stat().st_size - count))
                last_sent = 0  # the acknowledgment may be in the torn part
            spool = Spool(folder, 256 * 1024)
            assert step == "tear" or spool.waiting == waiting
        assert spool.size_bytes <= 256 * 1024
        assert spool.waiting == len(spool.read(10_000, 10**9))
    waiting = spool.waiting
    assert len(drain(spool)) == waiting
    spool.close()


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(400_000) as disk:
        clock = HandClock()
        spool = Spool(disk / "s", 16 * MB, clock)
        put(spool, 2000, 500)
        assert str(spool.error) == f"{disk / 's'}: database or disk is full"
        assert spool.dropped == {}, "the newest are in memory"
        first = spool.read(100)
        spool.acknowledge(first[-1].number)
        numbers = [record.number for record in first] + drain(spool)
        assert numbers == list(range(1, 2001))
        clock.move(2)
        put(spool, 1)
        assert spool.error is None, "the space of what was sent is free again"
        again = Spool(killed(spool, disk / "s", tmp_path / "copy"), 16 * MB)
        assert drain(again) == [2001]
        again.close()
