"""The rows of ``preview.py`` that need no browser: the cost of viewers for the service."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

from benchmarks.inputs import ROOT
from benchmarks.live_inputs import STREET_1080
from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.processes import ForeignLoad, cpu_s, open_files, rss_bytes, threads
from benchmarks.verdict import Check, quantile, slope
from tests.support.cameras import Encoded, ReplayMount, RtspServer

COUNTS = (1, 5, 20)
FIRST_PERCENT = 5.0
"""The maximum cost of the first viewer of a 1080p stream, in % of a core."""
FURTHER_PERCENT = 1.0
"""The maximum cost of each further viewer of the stream, in % of a core."""
VANISHING = 100
MAX_GROWTH_MB = 3.0
"""The maximum growth between the second and the last round."""
SPARE_FILES = 4
"""The number of files and threads that may come and go by themselves."""
GONE_S = 40.0
VIEWERS_BESIDE = 10
MAX_AGE_RATIO = 1.1
SETTLE_S = 3.0
_NULL = {"engine": "null"}
"""Settings with an engine that computes nothing."""


@dataclass(frozen=True, slots=True)
class Length:
    """The duration of the measurement of a row."""

    seconds: float
    """The duration of each round, seconds."""
    rounds: int


Rows = tuple[list[Check], list[dict[str, Any]]]
"""The checks, and the measurements of each round."""


class Viewers:
    """Runs viewers in a separate process until the context ends; they are connected when it begins."""

    def __init__(self, service: LiveService, streams: list[str], count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.preview_viewers", service.url, *streams, "--count", str(count)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Viewers:
        line = self._line()
        if not line.startswith("ready"):
            self.kill()
            raise RuntimeError("the viewers did not connect")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def packets(self) -> int:
        """Return the number of packets received so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def cpu_s(self) -> float:
        """Return the CPU time of the process so far, seconds."""
        return cpu_s(self._process.pid)

    def kill(self) -> None:
        """Kill the viewers, so that they do not end their sessions."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass(frozen=True, slots=True)
class Load:
    """The load during a time with a number of viewers."""

    viewers: int
    cores: float
    """The CPU use of the service."""
    packets_per_s: float
    client_cores: float
    foreign_cores: float


@contextmanager
def serving(mount: ReplayMount, **stream: object) -> Iterator[LiveService]:
    """Start a camera and a service that reads it."""
    preview = {"max_viewers": 256, "max_viewers_per_stream": 256}
    with RtspServer(mount) as cameras:
        streams = {"street": {"detect": cameras.url(mount.path), **stream}}
        with LiveService({"preview": preview, "streams": streams}) as service:
            service.wait_live(1)
            time.sleep(SETTLE_S)
            yield service


def viewers(length: Length) -> Rows:
    """Measure the CPU time of the service per RTP packet and per viewer: 1080p at 30 frames/s and 4 Mbit/s."""
    loads: list[Load] = []
    with serving(ReplayMount("/street", STREET_1080), keyframes_only=True) as service:  # decoding would hide the cost of viewers
        for _ in range(length.rounds):
            loads.append(_load(service, length.seconds, None, 0))
            for count in COUNTS:
                with Viewers(service, ["street"], count) as watching:
                    time.sleep(1.0)
                    loads.append(_load(service, length.seconds, watching, count))
    checks = []
    cores = {count: statistics.median(load.cores for load in loads if load.viewers == count) for count in (0, *COUNTS)}
    for fewer, count in pairwise((0, *COUNTS)):
        watched = [load for load in loads if load.viewers == count]
        cost_us = statistics.median((load.cores - cores[0]) / load.packets_per_s * 1e6 for load in watched)
        rate = statistics.median(load.packets_per_s / count for load in watched)
        which = "the first viewer" if not fewer else f"each further viewer, from {fewer} to {count}"
        each = 100 * (cores[count] - cores[fewer]) / (count - fewer)
        what = f"CPU of {which} ({cost_us:.0f} µs per packet, {rate:.0f}/s)"
        checks.append(Check(what, each, FURTHER_PERCENT if fewer else FIRST_PERCENT, "% of a core"))
    return checks, [asdict(load) for load in loads]


def _load(service: LiveService, seconds: float, watching: Viewers | None, count: int) -> Load:
    with ForeignLoad() as foreign:
        began, used = time.monotonic(), service.cpu_s()
        packets, theirs = (0, 0.0) if watching is None else (watching.packets(), watching.cpu_s())
        time.sleep(seconds)
        took = time.monotonic() - began
        used = service.cpu_s() - used
        if watching is not None:
            packets, theirs = watching.packets() - packets, watching.cpu_s() - theirs
    return Load(count, used / took, packets / took, theirs / took, foreign.cores)


@dataclass(frozen=True, slots=True)
class After:
    """The service after all viewers have disconnected."""

    at_s: float
    files: int
    threads: int
    rss_mb: float
    encoders: int
    gone_after_s: float
    """The time until the service has detected that all viewers are gone, seconds."""


def vanish(length: Length) -> Rows:
    """Kill a hundred viewers at a time, of a forwarded and of an encoded stream, and measure the remaining resources."""
    found: list[After] = []
    began = time.monotonic()
    small = Encoded("bikes", 320, 180, 15, kbit_s=200, frames=60)
    other = Encoded("bikes", 320, 180, 15, codec="h265", kbit_s=200, frames=60)
    with RtspServer(ReplayMount("/plain", small), ReplayMount("/h265", other)) as cameras:
        streams = {name: {"detect": cameras.url(f"/{name}")} for name in ("plain", "h265")}
        preview = {"max_viewers": 256, "max_viewers_per_stream": 256}
        with LiveService({**_NULL, "preview": preview, "streams": streams}) as service:
            service.wait_live(2)
            time.sleep(SETTLE_S)
            before = (open_files(service.pid), threads(service.pid))
            for _ in range(max(3, length.rounds)):
                with Viewers(service, list(streams), VANISHING) as watching:
                    watched, encoders = _metric(service, "viewers"), _metric(service, "encoders")
                    if (watched, encoders) != (VANISHING, 1):
                        raise RuntimeError(f"{watched:.0f} of {VANISHING} viewers are connected, {encoders:.0f} encoders run")
                    watching.kill()
                    vanished = time.monotonic()
                    service.wait(lambda: _metric(service, "viewers") == 0, GONE_S, "the service still counts killed viewers")
                    gone = time.monotonic() - vanished
                time.sleep(1.0)
                now = time.monotonic() - began
                files, running, memory = open_files(service.pid), threads(service.pid), rss_bytes(service.pid) / 1e6
                found.append(After(now, files, running, memory, int(_metric(service, "encoders")), gone))
            errors = [line for line in service.log.read_text().splitlines() if '"level": "error"' in line or "Traceback" in line]
    last, second = found[-1], found[1]
    grown = last.rss_mb - second.rss_mb
    per_hundred = slope([float(number) for number in range(len(found) - 1)], [row.rss_mb for row in found[1:]])
    return [
        Check("additional open files", last.files - before[0], SPARE_FILES, ""),
        Check("additional threads", last.threads - before[1], SPARE_FILES, ""),
        Check("running encoders", last.encoders, 0, ""),
        Check(f"memory: last round − second ({per_hundred:.2f} MB per 100 viewers)", grown, MAX_GROWTH_MB, "MB"),
        Check("errors in the log", len(errors), 0, ""),
    ], [asdict(row) for row in found]


def _metric(service: LiveService, name: str) -> float:
    """Return the sum over all streams of a gauge of the preview."""
    text = service.ask("/metrics").decode()
    lines = [line for line in text.splitlines() if line.startswith(f"vision_infer_preview_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def beside(length: Length) -> Rows:
    """Measure the ages of results with ten viewers and without viewers, in turn."""
    found: list[dict[str, Any]] = []
    mount = ReplayMount("/street", STREET_1080)
    with serving(mount, fps=10) as service:  # below the limits of the model and the machine, so that only the viewers matter
        for turn in range(2 * length.rounds):
            count = 0 if turn % 2 == 0 else VIEWERS_BESIDE
            if count:
                with Viewers(service, ["street"], count) as watching:
                    time.sleep(1.0)
                    found.append({"viewers": count, **_ages(service, length.seconds), "packets": watching.packets()})
            else:
                found.append({"viewers": 0, **_ages(service, length.seconds)})
    groups = [[row for row in found if bool(row["viewers"]) is watched] for watched in (False, True)]
    age_without, age_with = (statistics.median(row["p95"] for row in rows) for rows in groups)
    rate_without, rate_with = (statistics.median(row["results_per_s"] for row in rows) for rows in groups)
    what = f"age p95 with {VIEWERS_BESIDE} viewers ({age_without:.1f} without, + 10 %)"
    return [
        Check(what, age_with, age_without * MAX_AGE_RATIO, "ms"),
        Check("results/s with viewers / without", rate_with / rate_without, 0.9, "of 1", at_most=False),
    ], found


def _ages(service: LiveService, seconds: float) -> dict[str, float]:
    with ForeignLoad() as foreign, Reader(service.results_url) as reader:
        time.sleep(seconds)
    ages = [row.reported_ms for row in reader.rows]
    return {
        "results_per_s": len(ages) / seconds,
        "p50": quantile(ages, 0.5),
        "p95": quantile(ages, 0.95),
        "foreign_cores": foreign.cores,
    }
