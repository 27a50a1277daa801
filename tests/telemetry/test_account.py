"""The account of a run, and the values of the operating system about the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vision_infer.core.trace import STAGES, Latency
from vision_infer.telemetry import process
from vision_infer.telemetry.account import Busy, StageAccount

MS = 1_000_000
DURATION = st.integers(0, 10_000 * MS)
LATENCIES = st.lists(st.builds(Latency, DURATION, DURATION, DURATION, DURATION, DURATION, DURATION), max_size=30)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the files under /proc are Linux's")


def account(latencies: list[Latency]) -> StageAccount:
    made = StageAccount()
    for latency in latencies:
        made.latency(latency)
        made.histograms["write"].record(latency.total_ns // 2)
    return made


def test_each_stage_is_counted_under_its_name() -> None:
    summary = account([Latency(1 * MS, 2 * MS, 3 * MS, 4 * MS, 10 * MS, 20 * MS)]).summary()
    assert list(summary) == list(STAGES)
    assert [stage["mean_ms"] for stage in summary.values()] == [1, 2, 3, 4, 10, 10]
    assert [stage["share"] for stage in summary.values()] == [0.0333, 0.0667, 0.1, 0.1333, 0.3333, 0.3333]


def test_an_empty_account_is_zero() -> None:
    for stage in StageAccount().summary().values():
        assert set(stage.values()) == {0.0}


@example([], [Latency(0, 0, 0, 0, 0, 2)])
@given(LATENCIES, LATENCIES)
def test_accounts_add_up(first: list[Latency], second: list[Latency]) -> None:
    merged = account(first)
    merged.merge(account(second))
    summary = merged.summary()
    assert summary == account(first + second).summary()
    whole = sum(stage["share"] for stage in summary.values())
    spent_ns = sum(histogram.sum_ns for histogram in merged.histograms.values())
    assert whole == pytest.approx(1.0 if spent_ns else 0.0, abs=0.001)
    for stage in summary.values():
        assert stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"]


def test_busy() -> None:
    busy = Busy()
    assert busy.fraction == 0.0
    busy.add(30, 100)
    busy.add(0, 100)
    assert (busy.busy_ns, busy.present_ns, busy.fraction) == (30, 200, 0.15)


@LINUX
def test_peak_memory_is_at_least_what_is_resident_now() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert process.peak_rss_bytes() >= 0.98 * resident
    assert process.peak_rss_bytes() > 2**20


@LINUX
def test_peak_memory_is_our_own_and_not_that_of_the_process_which_started_us() -> None:
    size = 300 * 2**20
    large = b"x" * size
    code = "from vision_infer.telemetry.process import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(large) < process.peak_rss_bytes()
    assert 2**20 < int(done.stdout) < size // 2


def test_cpu_time_rises_with_work() -> None:
    before = process.cpu_ns()
    while process.cpu_ns() == before:
        sum(range(1000))
    assert process.cpu_ns() > before > 0


@LINUX
def test_a_process_is_as_old_as_the_time_since_its_start() -> None:
    code = "from vision_infer.telemetry.process import process_age_s; print(process_age_s())"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lasted = time.monotonic() - started
    assert 0 < float(done.stdout) <= lasted + 0.05
    age = process.process_age_s()
    assert age is not None
    assert age > 0


@pytest.mark.parametrize("text", [None, "", "1 (a) b) R 0", "no status at all"])
def test_unknown_values_of_the_system(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "open", opener(text), raising=False)
    assert process.process_age_s() is None
    assert process.peak_rss_bytes() > 2**20, "as the C library counts it"


def test_peak_memory_in_the_units_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "open", opener(None), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    kilobytes = process.peak_rss_bytes()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.peak_rss_bytes() * 1024 == pytest.approx(kilobytes, rel=0.2)


def opener(text: str | None) -> Callable[..., object]:
    """A replacement for ``open``: a file with this text, or none."""
    from io import StringIO

    def opened(*_: object, **__: object) -> object:
        if text is None:
            raise FileNotFoundError("/proc/self")
        return StringIO(text)

    return opened
