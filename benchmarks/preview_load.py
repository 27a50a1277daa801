"""What viewers cost the service: the rows of ``preview.py`` that need no browser."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
MAX_OF_A_CORE = 0.05
"""that a further viewer of 1080p may cost"""
VANISHING = 100
MAX_GROWTH_MB = 3.0
"""between the second and the last time, as in the soak"""
SPARE_FILES = 4
"""open files that come and go by themselves"""
GONE_S = 40.0
BESIDE = 10
LATER = 1.1
SETTLE_S = 3.0
_NULL = {"engine": "null"}
"""an engine that computes nothing"""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a row is measured."""

    seconds: float
    """each time"""
    rounds: int


Rows = tuple[list[Check], list[dict[str, Any]]]
"""what must be, and what was measured each time"""


class Viewers:
    """A process of viewers; a context manager. They are connected when it begins."""

    def __init__(self, service: LiveService, streams: list[str], count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.preview_viewers", service.url, *streams, "--count", str(count)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Viewers:
        said = self._line()
        if not said.startswith("ready"):
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
        """That have come so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def cpu_s(self) -> float:
        """CPU time of the process so far."""
        return cpu_s(self._process.pid)

    def kill(self) -> None:
        """They vanish, and say nothing."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass(frozen=True, slots=True)
class Load:
    """A time in which so many watched."""

    viewers: int
    cores: float
    """of the service"""
    packets_per_s: float
    client_cores: float
    foreign_cores: float


@contextmanager
def serving(mount: ReplayMount, **stream: object) -> Iterator[LiveService]:
    """A camera, and a service that watches it."""
    preview = {"max_viewers": 256, "max_viewers_per_stream": 256}
    with RtspServer(mount) as cameras:
        streams = {"street": {"detect": cameras.url(mount.path), **stream}}
        with LiveService({"preview": preview, "streams": streams}) as service:
            service.wait_live(1)
            time.sleep(SETTLE_S)
            yield service


def viewers(length: Length) -> Rows:
    """CPU of the service for each RTP packet and for each further viewer, 1080p at 30 pictures and 4 Mbit a second."""
    loads: list[Load] = []
    with serving(ReplayMount("/street", STREET_1080), keyframes_only=True) as service:  # decoding would hide what is looked for
        for _ in range(length.rounds):
            loads.append(_load(service, length.seconds, None, 0))
            for count in COUNTS:
                with Viewers(service, ["street"], count) as watching:
                    time.sleep(1.0)
                    loads.append(_load(service, length.seconds, watching, count))
    checks = []
    none = statistics.median(one.cores for one in loads if not one.viewers)
    for count in COUNTS:
        some = [one for one in loads if one.viewers == count]
        each = statistics.median((one.cores - none) / count for one in some)
        cost_us = statistics.median((one.cores - none) / one.packets_per_s * 1e6 for one in some)
        rate = statistics.median(one.packets_per_s / count for one in some)
        what = f"core of a viewer, {count} of them ({cost_us:.0f} µs a packet, {rate:.0f}/s)"
        checks.append(Check(what, each, MAX_OF_A_CORE, "cores"))
    return checks, [asdict(one) for one in loads]


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
    """The service when nobody watches."""

    at_s: float
    files: int
    threads: int
    rss_mb: float
    encoders: int
    gone_after_s: float
    """from the moment when all vanished until the service had noticed the last"""


def vanish(length: Length) -> Rows:
    """Viewers that are killed, a hundred at a time, of a stream that is passed on and of one that is encoded."""
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
                        raise RuntimeError(f"{watched:.0f} of {VANISHING} watch, {encoders:.0f} encoders run")
                    watching.kill()
                    vanished = time.monotonic()
                    service.wait(lambda: _metric(service, "viewers") == 0, GONE_S, "vanished viewers are still there")
                    gone = time.monotonic() - vanished
                time.sleep(1.0)
                now = time.monotonic() - began
                files, running, memory = open_files(service.pid), threads(service.pid), rss_bytes(service.pid) / 1e6
                found.append(After(now, files, running, memory, int(_metric(service, "encoders")), gone))
            errors = [line for line in service.log.read_text().splitlines() if '"level": "error"' in line or "Traceback" in line]
    last, second = found[-1], found[1]
    grown = last.rss_mb - second.rss_mb
    per_hundred = slope([float(number) for number in range(len(found) - 1)], [one.rss_mb for one in found[1:]])
    return [
        Check("open files more than before", last.files - before[0], SPARE_FILES, ""),
        Check("threads more than before", last.threads - before[1], SPARE_FILES, ""),
        Check("encoders that still run", last.encoders, 0, ""),
        Check(f"memory: last time − second ({per_hundred:.2f} MB for each hundred)", grown, MAX_GROWTH_MB, "MB"),
        Check("errors in the log", len(errors), 0, ""),
    ], [asdict(one) for one in found]


def _metric(service: LiveService, name: str) -> float:
    """The sum over all streams of a gauge of the preview."""
    text = service.ask("/metrics").decode()
    lines = [line for line in text.splitlines() if line.startswith(f"vision_infer_preview_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def beside(length: Length) -> Rows:
    """The ages of results while ten watch, and while nobody does, in turns."""
    found: list[dict[str, Any]] = []
    mount = ReplayMount("/street", STREET_1080)
    with serving(mount, fps=10) as service:  # neither the network nor the machine is at its limit: viewers are what is left
        for turn in range(2 * length.rounds):
            count = 0 if turn % 2 == 0 else BESIDE
            if count:
                with Viewers(service, ["street"], count) as watching:
                    time.sleep(1.0)
                    found.append({"viewers": count, **_ages(service, length.seconds), "packets": watching.packets()})
            else:
                found.append({"viewers": 0, **_ages(service, length.seconds)})
    none, some = ([one for one in found if bool(one["viewers"]) is watched] for watched in (False, True))
    age_none, age_some = (statistics.median(one["p95"] for one in them) for them in (none, some))
    rate_none, rate_some = (statistics.median(one["results_per_s"] for one in them) for them in (none, some))
    return [
        Check(f"age p95 while {BESIDE} watch (nobody: {age_none:.1f} + 10 %)", age_some, age_none * LATER, "ms"),
        Check("results a second / with nobody", rate_some / rate_none, 0.9, "of 1", at_most=False),
    ], found


def _ages(service: LiveService, seconds: float) -> dict[str, float]:
    with ForeignLoad() as foreign, Reader(service.results_url) as reader:
        time.sleep(seconds)
    ages = [row.told_ms for row in reader.rows]
    return {
        "results_per_s": len(ages) / seconds,
        "p50": quantile(ages, 0.5),
        "p95": quantile(ages, 0.95),
        "foreign_cores": foreign.cores,
    }
