"""Hundreds of streams are added and removed and cameras reconnect many times; no resources are left behind."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.media import ROOT

KILOBYTES_EACH = 6
"""The allocator keeps 2 to 4 kB for each of the first hundreds of streams."""
LIMIT_S = 240.0


def _measured(module: str, argument: str) -> list[dict[str, Any]]:
    """Return the measurements that a process prints."""
    command = [sys.executable, "-W", "error", "-m", module, argument]
    # With an arena for each thread, fragmentation of the C library's heaps would hide a leak.
    environ = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "s3cret" not in done.stderr + done.stdout
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    locked = ClockMount("/locked", 320, 180, 20, user="user", password="another")
    with RtspServer(ClockMount("/clock", 320, 180, 20, key_interval=5), locked) as running:
        yield running


@pytest.fixture(scope="module")
def hundreds(server: RtspServer) -> list[dict[str, Any]]:
    """Return the resources after 100, 200 and 300 streams."""
    return _measured("tests.support.live_churn", server.url("/clock", "user", "s3cret"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["threads", "files", "tasks"])
def test_no_resources_are_left_open(hundreds: list[dict[str, Any]], what: str) -> None:
    assert hundreds[0][what] == hundreds[1][what] == hundreds[2][what]


@pytest.mark.slow
def test_memory_does_not_grow(hundreds: list[dict[str, Any]]) -> None:
    # Memory that the C library allocates once is not a leak; a leak grows every time.
    growth = min(after["rss"] - before["rss"] for before, after in itertools.pairwise(hundreds))
    assert growth <= 100 * KILOBYTES_EACH * 1024, growth / 100


@pytest.mark.slow
def test_repeated_reconnects_leave_nothing_behind(server: RtspServer) -> None:
    looks = _measured("tests.support.live_reconnects", str(server.port))
    growth: list[int] = []
    for before, after in itertools.pairwise(looks):
        assert after["reconnects"] - before["reconnects"] >= 4 * 10 - 4
        assert after["attempts"] > 30, "other connections were refused all the time"
        assert after["threads"] == before["threads"]
        growth.append(after["rss"] - before["rss"])
    # The C library allocates some megabytes once, in the first rounds; a leak grows in all of them.
    assert min(growth) <= 1 << 20, "for 40 reconnections and hundreds of refusals"
