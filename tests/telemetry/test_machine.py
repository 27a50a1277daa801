"""The values of the kernel about the machine, read from fabricated folders."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from vision_infer.telemetry.machine import Grants, clock_synchronized, disk, grants, memory, nvidia_devices

GIB = 1 << 30


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    made(tmp_path / "proc" / "self", cgroup="0::/system.slice/vision-infer.service\n")
    return made(tmp_path / "proc", meminfo=f"MemTotal: {8 * GIB // 1024} kB\nMemAvailable: {6 * GIB // 1024} kB\nHugePages: 0\n")


def test_without_control_groups_there_are_no_limits(tmp_path: Path, proc: Path) -> None:
    assert grants(proc, tmp_path / "none") == grants(tmp_path / "none", tmp_path / "none") == Grants(None, None, None)
    found = memory(proc, tmp_path / "none")
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (8 * GIB, 6 * GIB)
    assert memory(tmp_path / "none") is None


def test_the_tightest_limit_of_the_parent_groups_counts(tmp_path: Path, proc: Path) -> None:
    root = tmp_path / "cgroup"
    made(root, cpu__max="max 100000\n", memory__max="max\n")
    made(root / "system.slice", cpu__max="150000 100000\n", memory__max=f"{4 * GIB}\n", memory__current=f"{3 * GIB}\n")
    stat = "usage_usec 5\nnr_periods 200\nnr_throttled 50\n"
    own = root / "system.slice/vision-infer.service"
    made(own, cpu__max="400000 100000\n", cpu__stat=stat, memory__max=f"{2 * GIB}\n", memory__current=f"{GIB}\n")
    made(root / "system.slice/other.service", cpu__max="1000 100000\n")
    assert grants(proc, root) == Grants(1.5, 0.25, 2 * GIB)
    found = memory(proc, root)
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (2 * GIB, GIB)


def test_control_groups_version_1(tmp_path: Path, proc: Path) -> None:
    root = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    made(root / "cpu,cpuacct/docker/abc", **{"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"})
    made(root / "memory/docker/abc", **{"memory.limit_in_bytes": f"{GIB}\n"})
    made(root / "memory", **{"memory.limit_in_bytes": "9223372036854771712\n"})
    assert grants(proc, root) == Grants(0.5, None, GIB)


@pytest.mark.parametrize("line", ["0::/../../../etc", "nonsense", "", "0::", "::::", "0::/\x00"])
def test_unreadable_files_give_no_limit(tmp_path: Path, proc: Path, line: str) -> None:
    (proc / "self" / "cgroup").write_text(line)
    root = made(tmp_path / "cgroup", cpu__max="garbage\n", cpu__stat="a b c\n", memory__max="-\n")
    assert grants(proc, root) == Grants(None, None, None)


def test_a_disk(tmp_path: Path) -> None:
    there = disk(tmp_path / "not" / "yet")
    assert there.free_bytes > 0
    assert there.problem == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    (tmp_path / "file").touch()
    assert disk(tmp_path / "file").problem == f"{tmp_path / 'file'} is not a folder"
    assert disk(Path("/proc/self")).problem


@pytest.mark.parametrize(("status", "known"), [(0, True), (0x2001, True), (0x40, False), (0x2041, False), (None, None)])
def test_the_clock_state_is_that_of_the_kernel(monkeypatch: pytest.MonkeyPatch, status: int | None, known: bool | None) -> None:
    """The status is at byte 40 of struct timex on 64-bit Linux; 0x40 is STA_UNSYNC, see adjtimex(2)."""

    class Library:
        def __init__(self, name: None, use_errno: bool) -> None:
            pass

        def adjtimex(self, timex: object) -> int:
            address = ctypes.addressof(timex._obj)  # type: ignore[attr-defined]
            ctypes.memmove(address + 40, (status or 0).to_bytes(4, "little"), 4)
            return -1 if status is None else 0

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert clock_synchronized() is known


def test_the_clock_of_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert clock_synchronized() is None


def test_graphics_devices_on_the_bus(tmp_path: Path) -> None:
    for name, kind, vendor in (("a", "0x030000", "0x10de"), ("b", "0x030200", "0x10de"), ("c", "0x040300", "0x10de")):
        made(tmp_path / name, **{"class": f"{kind}\n", "vendor": f"{vendor}\n"})
    made(tmp_path / "d", **{"class": "0x030000\n", "vendor": "0x8086\n"})
    (tmp_path / "e").mkdir()
    assert nvidia_devices(tmp_path) == 2
    assert nvidia_devices(tmp_path / "none") == 0
