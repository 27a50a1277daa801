"""Run the service for a long time while cameras and clients misbehave; check memory, errors and the recovery of streams.

    python -m benchmarks.soak [--minutes 30] [--seed 1] [--ingest rtp]

``vision-infer serve`` runs four streams of two RTSP servers and the built-in camera with the clock model. Random faults are
injected one after the other; streams are added, changed and removed over the API, snapshots are taken, and clients connect that
never read. The median memory in the last sixth of the time is compared with that in the second sixth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.inputs import RESULTS
from benchmarks.live_reader import Reader
from benchmarks.live_service import ServiceFailedError
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad, open_files, rss_bytes, threads
from benchmarks.soak_faults import FAULTS, Rig
from benchmarks.verdict import Check, conclude, quantile
from tests.support.cameras import missing

STREAMS = 5
"""The number of streams in the configuration file."""
MAX_GROWTH_MB = 3.0
RECOVERY_S = 60.0
SAMPLE_S = 2.0
CALM_S = 10.0
"""The time at the end without faults, seconds."""
_EXPECTED = "the configuration file has changed but is invalid"
_PRINTED = ("vision-infer serves on", "live video on port")
_FFMPEG = "vision_infer.ffmpeg"
"""The logger of FFmpeg's messages about sources; the state of the stream shows their effect."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The resources of the service at a time."""

    at_s: float
    """The time since the start, seconds."""
    rss_mb: float
    threads: int
    files: int


class Sampler:
    """A thread that measures the process every two seconds."""

    def __init__(self, pid: int) -> None:
        self.samples: list[Sample] = []
        self._pid, self._began = pid, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            at_s = round(time.monotonic() - self._began, 1)
            self.samples.append(Sample(at_s, rss_bytes(self._pid) / 1e6, threads(self._pid), open_files(self._pid)))


@dataclass(frozen=True, slots=True)
class FaultRun:
    """A fault that is over."""

    fault: str
    lasted_s: float
    recovered_s: float
    """The time from its end until all streams were live; infinite if the limit was exceeded."""


def inject(rig: Rig, fault: str, until: float) -> FaultRun:
    """Run one fault while clients send requests; then wait until all streams are live again."""
    began = time.monotonic()
    rig.begin(fault)
    duration = rig.random.uniform(2, 10)
    while time.monotonic() < min(began + duration, until):
        time.sleep(0.5)
        rig.send_request()
    rig.heal(fault)
    healed = time.monotonic()
    recovered = float("inf")
    while time.monotonic() < healed + RECOVERY_S:
        if all_live(rig):
            recovered = time.monotonic() - healed
            break
        time.sleep(0.25)
    if recovered == float("inf"):
        print(f"NOT RECOVERED after '{fault}': {rig.service.states()}", flush=True)
    return FaultRun(fault, round(healed - began, 1), round(recovered, 2))


def all_live(rig: Rig) -> bool:
    """Return whether every stream of the configuration file is live."""
    states = rig.service.states()
    return all(states.get(name) == "live" for name in rig.settings()["streams"])


def unhandled(log: Path) -> list[str]:
    """Return the unexpected lines of the log: errors of the service, tracebacks, and lines that are not JSON."""
    found: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            if not line.startswith(_PRINTED):
                found.append(line)
            continue
        bad = "traceback" in row or row["level"] in ("error", "critical") or "unexpected" in row["message"]
        if bad and row["logger"] != _FFMPEG and _EXPECTED not in row["message"]:
            found.append(line)
    return found


def windows(samples: list[Sample], whole_s: float) -> tuple[list[float], list[float]]:
    """Return the memory in the second and in the last sixth of the time, MB."""
    sixth = whole_s / 6
    early = [sample.rss_mb for sample in samples if sixth <= sample.at_s < 2 * sixth]
    return early, [sample.rss_mb for sample in samples if whole_s - sixth <= sample.at_s < whole_s]


def soak(rig: Rig, minutes: float) -> tuple[list[FaultRun], list[Sample], int]:
    """Inject faults for the whole time; return them, the samples, and the number of results that a client received."""
    began = time.monotonic()
    end, printed = began + minutes * 60, began
    faults: list[FaultRun] = []
    sampler = Sampler(rig.service.pid)
    with Reader(rig.service.results_url, keep=False) as reader:
        while time.monotonic() < end:
            faults.append(inject(rig, rig.random.choice(FAULTS), end))
            time.sleep(rig.random.uniform(0, 4))
            if time.monotonic() - printed >= 60 and sampler.samples:
                printed = time.monotonic()
                print(f"{(printed - began) / 60:5.1f} min  {sampler.samples[-1]}  {len(faults)} faults", flush=True)
        sampler.end()
    return faults, sampler.samples, reader.count


def main() -> int:
    """Run the soak test, print the verdict, and write ``soak.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ingest", choices=("auto", "rtp", "ffmpeg"), default="auto", help="What reads the RTSP cameras.")
    args = parser.parse_args()
    if missing():
        print(f"{missing()}; run: make cameras", file=sys.stderr)
        return 1
    machine = describe_machine()
    with ForeignLoad() as foreign, Rig(args.seed, args.ingest) as rig:
        rig.service.wait_live(STREAMS)
        faults, samples, results = soak(rig, args.minutes)
        rig.remove_all()
        rig.close_readers()
        time.sleep(CALM_S)
        try:
            rig.service.wait(lambda: all_live(rig), RECOVERY_S, "not all streams recovered")
        except ServiceFailedError as error:
            print(error, file=sys.stderr)
        states = rig.service.states()
        status = rig.service.stop()
        log = rig.service.log
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "soak-service.log").write_bytes(log.read_bytes())
        errors = unhandled(log)
        unexpected = rig.unexpected
    early, late = windows(samples, args.minutes * 60)
    recovered = [run.recovered_s for run in faults]
    for line in (errors + unexpected)[:10]:
        print(f"UNHANDLED {line}", file=sys.stderr)
    print(f"{len(faults)} faults: {dict(Counter(run.fault for run in faults))}")
    print(f"{results} results; other programs used {foreign.cores:.2f} cores; recovery p50 {quantile(recovered, 0.5):.1f} s")
    print(f"threads {samples[0].threads} to {samples[-1].threads}, files {samples[0].files} to {samples[-1].files}")
    growth = statistics.median(late) - statistics.median(early) if early and late else float("nan")
    checks = [
        Check("memory: median of the last sixth − median of the second", growth, MAX_GROWTH_MB, "MB"),
        Check("unhandled errors in the log", len(errors), 0, ""),
        Check("unexpected responses of the API", len(unexpected), 0, ""),
        Check("maximum time until all streams were live after a fault", max(recovered), RECOVERY_S, "s"),
        Check("configured streams that are live at the end", list(states.values()).count("live"), STREAMS, "", at_most=False),
        Check("exit status after SIGTERM", abs(status), 0, ""),
    ]
    more = {
        "minutes": args.minutes,
        "seed": args.seed,
        "ingest": args.ingest,
        "foreign_cores": foreign.cores,
        "samples": [asdict(s) for s in samples],
    }
    return conclude("soak", machine, checks, [asdict(run) for run in faults], more)


if __name__ == "__main__":
    sys.exit(main())
