"""What waits on the disk is kept in order, survives a kill, is bounded, and says what it lost."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.disks import small_disk
from tests.support.hand_clock import HandClock
from vision_infer.sink.delivery.segment import Record, records_in
from vision_infer.sink.delivery.spool import Spool

MB = 1 << 20


def put(spool: Spool, count: int, size: int = 100) -> None:
    for _ in range(count):
        spool.append("detections", "door", "x" * size)


def drain(spool: Spool, most: int = 7) -> list[int]:
    numbers: list[int] = []
    while records := spool.read(most):
        numbers += [record.number for record in records]
        spool.acknowledge(records[-1].number)
    return numbers


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def abandon(spool: Spool) -> None:
    """What a kill leaves: nothing is finished, the system closes the files."""
    for fd in (spool._fd, spool._ack_fd, spool._lock_fd):
        if fd is not None:
            os.close(fd)
    spool._closed = True


def test_records_come_as_they_were_put_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", MB)
    spool.append("events", "yard", '{"a": "ü\\u0000"}')
    spool.append("engine", "", "{}")
    first, second = spool.read(10)
    assert (first.number, first.kind, first.stream, first.text) == (1, "events", "yard", '{"a": "ü\\u0000"}')
    assert (second.number, second.kind, second.stream) == (2, "engine", "")
    assert [record.number for record in spool.read(1)] == [1], "what is not acknowledged is read again"
    spool.acknowledge(1)
    assert [record.number for record in spool.read(10)] == [2]
    spool.close()


def test_what_waits_survives_a_kill_and_what_was_acknowledged_is_not_sent_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 16 * MB)
    put(spool, 500)
    spool.acknowledge(123)
    name = spool.name
    abandon(spool)
    again = Spool(tmp_path, 16 * MB)
    assert again.name == name
    assert again.waiting == 377
    again.append("detections", "door", "new")
    assert drain(again) == list(range(124, 502))
    assert again.dropped == {}
    assert again.waiting == 0
    again.close()
    # Numbers go on where all was sent, too.
    last = Spool(tmp_path, 16 * MB)
    put(last, 1)
    assert drain(last) == [502]
    last.close()


def test_a_torn_record_at_the_end_costs_itself_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 10)
    abandon(spool)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size - 5)
    again = Spool(tmp_path, MB)
    put(again, 1)
    assert drain(again) == [*range(1, 10), 10]
    again.close()


def test_damage_in_the_middle_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 64 * 1024)
    put(spool, 100)
    abandon(spool)
    second = files(tmp_path)[1]
    first_number = int(second.stem)
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 0xFF
    second.write_bytes(data)
    after = int(files(tmp_path)[2].stem)
    again = Spool(tmp_path, 64 * 1024)
    numbers = drain(again)
    missing = [number for number in range(1, 101) if number not in numbers]
    assert missing
    assert first_number < missing[0]
    assert missing[-1] == after - 1
    assert again.dropped == {"damaged": len(missing)}
    assert numbers == sorted(numbers)
    again.close()


def test_a_file_that_somebody_deletes_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 64 * 1024)
    spool._most_tail_bytes = 1
    put(spool, 100)
    second, third = files(tmp_path)[1:3]
    second.unlink()
    lost = int(third.stem) - int(second.stem)
    numbers = drain(spool)
    assert len(numbers) == 100 - lost
    assert spool.dropped == {"damaged": lost}
    assert spool.waiting == 0
    spool.close()


def test_when_it_is_full_the_oldest_goes_and_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 256 * 1024)
    put(spool, 10_000)
    assert sum(path.stat().st_size for path in files(tmp_path)) == spool.size_bytes
    assert 200 * 1024 < spool.size_bytes <= 256 * 1024
    numbers = drain(spool)
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


def test_files_of_what_was_sent_are_deleted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 256 * 1024)
    for _ in range(50):
        put(spool, 100)
        assert len(drain(spool, 64)) == 100
    assert len(files(tmp_path)) <= 2
    assert spool.dropped == {}
    spool.close()


def full_disk(fd: int, data: bytes) -> int:
    if fd < 3:
        return len(data)
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing_while_the_receiver_keeps_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    spool = Spool(tmp_path, 16 * MB, clock)
    put(spool, 2)
    write = os.write
    monkeypatch.setattr(os, "write", full_disk)
    put(spool, 3)
    assert str(spool.error) == f"{tmp_path}: No space left on device"
    assert spool.waiting == 5
    assert drain(spool, 2) == [1, 2, 3, 4, 5]
    put(spool, 1)
    monkeypatch.setattr(os, "write", write)
    put(spool, 1)  # not tried yet
    clock.move(1.1)
    put(spool, 1)
    assert spool.error is None
    abandon(spool)
    again = Spool(tmp_path, 16 * MB)
    assert [record.number for record in again.read(9)] == [8], "what was in memory only is lost with the process"
    again.close()


def test_a_full_disk_and_no_receiver_is_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 64 * 1024, HandClock())
    monkeypatch.setattr(os, "write", full_disk)
    put(spool, 1000)
    assert spool.waiting + spool.dropped["disk_error"] == 1000
    assert spool.waiting < 200
    numbers = drain(spool)
    assert numbers == list(range(1001 - len(numbers), 1001))
    assert spool.waiting == 0
    spool.close()


def test_a_torn_write_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    spool = Spool(tmp_path, MB, clock)
    put(spool, 1)
    write, calls = os.write, [0]

    def half(fd: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.EIO, "Input/output error")
        return write(fd, data[:10])

    monkeypatch.setattr(os, "write", half)
    put(spool, 1)
    monkeypatch.setattr(os, "write", write)
    clock.move(2)
    put(spool, 1)
    abandon(spool)
    again = Spool(tmp_path, MB)
    assert drain(again) == [1, 3]
    assert again.dropped == {"damaged": 1}
    again.close()


def test_two_processes_do_not_share_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    with pytest.raises(OSError):
        Spool(tmp_path, MB)
    spool.close()
    Spool(tmp_path, MB).close()


def test_numbers_that_would_begin_anew_have_another_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    put(spool, 3)
    drain(spool)
    spool.close()
    before = spool.name
    (tmp_path / "acknowledged").write_bytes(b"\xff" * 24)
    for path in files(tmp_path):
        path.unlink()
    again = Spool(tmp_path, MB)
    assert again.name != before
    again.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
def test_whatever_happens_order_is_kept_and_every_loss_is_counted(
    steps: list[tuple[str, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    draw = random.Random(seed)
    spool = Spool(folder, 64 * 1024)
    last_sent = 0
    torn = False
    for step, count in steps:
        if step == "put":
            for _ in range(count):
                put(spool, 1, draw.randrange(3000))
        elif step == "send":
            records = spool.read(count)
            for before, record in zip([last_sent, *(one.number for one in records)], records, strict=False):
                assert record.number > before
            if records:
                last_sent = records[-1].number
                spool.acknowledge(last_sent)
        else:
            abandon(spool)
            there = files(folder)
            if step == "tear" and there:
                os.truncate(there[-1], max(0, there[-1].stat().st_size - count))
                torn = True
            spool = Spool(folder, 64 * 1024)
            last_sent = spool._acknowledged
        assert spool.size_bytes == sum(path.stat().st_size for path in files(folder))
        assert spool.size_bytes <= 64 * 1024
        if not torn:
            assert spool.waiting == sum(1 for _ in spool.read(10_000, 10**9)) or len(spool._segments) > 1
    waiting = spool.waiting
    assert len(drain(spool)) == waiting
    spool.close()


def test_any_bytes_are_read_without_harm(tmp_path: Path) -> None:
    draw = random.Random(5)
    path = tmp_path / "s"
    good = Record(7, 1, "events", "door", "{}").packed()
    for _ in range(300):
        data = bytearray(good + good + draw.randbytes(draw.randrange(60)))
        for _ in range(draw.randrange(4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        for record, _ in records_in(fd, 0):
            assert record.number == 7
        os.close(fd)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(300_000) as disk:
        clock = HandClock()
        spool = Spool(disk / "s", 16 * MB, clock)
        put(spool, 2000, 500)
        assert str(spool.error) == f"{disk / 's'}: No space left on device"
        assert spool.dropped == {}, "the newest are in memory too"
        first = spool.read(100)
        spool.acknowledge(first[-1].number)
        numbers = [record.number for record in first] + drain(spool)
        assert numbers == list(range(1, 2001))
        clock.move(2)
        put(spool, 1)
        assert spool.error is None, "what was sent has made room"
        abandon(spool)
        again = Spool(disk / "s", 16 * MB)
        assert drain(again) == [2001]
        again.close()
