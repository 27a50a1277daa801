"""The comparison on cameras: four of 1080p at 30 frames/s; results per second of all together, and their ages."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np

from benchmarks.inputs import FP32, ROOT
from benchmarks.live_bare import OPTIONS, TIMEOUT_S, luma
from benchmarks.peers.environments import HERE, REQUIREMENTS, Peers
from benchmarks.peers.live_meter import read
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import quantile, slope
from tests.support.cameras import Encoded, ReplayMount, RtspServer
from vision_infer.stream.time_code_reader import draw

CAMERAS = 4
FPS = 30
LOOP_S = 10
WARM_UP_S = 2.0
"""The time at the start whose results do not count, seconds."""
SERVICE = ("us", "auto", "bf16")
"""The contenders that are the service of vision-infer."""
CONTENDERS = ("us", "auto", "bf16", "ultralytics", "ultralytics torch", "roboflow", "naive")


class Coded(Encoded):
    """Video whose frames carry their position in milliseconds as a time code."""

    def image(self, number: int, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the image with its time code."""
        planes = super().image(number, frame).to_ndarray().astype(np.uint8, copy=False)
        draw(planes[: self.height], round(number * 1000 / self.fps))
        return av.VideoFrame.from_ndarray(planes, format="yuv420p")


STREET = Coded("bikes", 1920, 1080, FPS, kbit_s=4000, frames=LOOP_S * FPS)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One run of one contender on the cameras; ages in milliseconds."""

    contender: str
    sitting: int
    round: int
    results_per_s: float
    p50: float
    p95: float
    growth: float
    """The growth of the age, milliseconds per second: the maximum of all cameras."""
    foreign_cores: float


class Witness:
    """Measures when the frames of a camera were sent. It decodes only key frames, of which there is one per second.

    libavformat returns a frame when the next one begins, so a frame was sent one interval before it is received here.
    """

    def __init__(self, url: str) -> None:
        self._seen: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(url,), daemon=True)
        self._thread.start()

    def began(self) -> float:
        """Stop, and return the monotonic time at which the first frame of a loop was sent, modulo the loop, seconds.

        Raises:
            RuntimeError: If no frame was received.
        """
        self._stopping.set()
        self._thread.join()
        if not self._seen:
            raise RuntimeError("no frame of a camera could be read")
        first = self._seen[0]
        nearest = [(moment - first + LOOP_S / 2) % LOOP_S - LOOP_S / 2 for moment in self._seen]
        return first + min(nearest) - 1 / FPS

    def _watch(self, url: str) -> None:
        with av.open(url, options=OPTIONS, timeout=(TIMEOUT_S, TIMEOUT_S)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.skip_frame = "NONKEY"
            for frame in container.decode(stream):
                now, moment = time.monotonic(), read(luma(frame))
                if moment is not None:
                    self._seen.append(now - moment / 1000)
                if self._stopping.is_set():
                    return


def runs(peers: Peers, sitting: int, rounds: int, seconds: float) -> Iterator[LiveRun]:
    """Run every contender in each round on the same cameras; the first one changes from round to round."""
    present = [name for name in CONTENDERS if name.split()[0] not in REQUIREMENTS or name.split()[0] in peers.pythons]
    for number in range(1, rounds + 1):
        shift = number % len(present)
        for name in present[shift:] + present[:shift]:
            mounts = [ReplayMount(f"/camera-{place}", STREET) for place in range(CAMERAS)]
            with RtspServer(*mounts) as server:
                yield _run(name, peers, [server.url(mount.path) for mount in mounts], sitting, number, seconds)


def _run(name: str, peers: Peers, urls: list[str], sitting: int, number: int, seconds: float) -> LiveRun:
    # The witnesses stay connected longer than the contender, so that no camera restarts its video in between.
    witnesses = {url: Witness(url) for url in urls}
    with ForeignLoad() as foreign:
        command = _command(name, peers, urls, seconds + WARM_UP_S)
        limit_s = 120 + 2 * seconds
        program = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s)
    notes = json.loads(program.stdout.strip().splitlines()[-1])
    began = {url: witnesses[url].began() for url in urls}
    if name in SERVICE:
        notes = [(url, position_ms(captured, began[url]), received) for url, captured, received in notes]
    found = {url: _ages(url, notes, began[url]) for url in urls}
    ages = [age for results in found.values() for _, age in results]
    enough = [results for results in found.values() if len(results) > 2]
    growth = [slope([moment for moment, _ in results], [age * 1e3 for _, age in results]) for results in enough]
    count = len(ages) / seconds
    p50, p95 = (1e3 * quantile(ages, part) for part in (0.5, 0.95))
    return LiveRun(name, sitting, number, count, p50, p95, max(growth, default=float("nan")), foreign.cores)


def position_ms(captured: float, began: float) -> int:
    """Return the position of a frame in the camera's video, milliseconds, from the time of capture that the service reports.

    The nearest frame counts, so the service's clock selects the frame and does not change its age.
    """
    return round(round((captured - began) * FPS) % (LOOP_S * FPS) * 1000 / FPS)


def _ages(url: str, notes: Sequence[tuple[str, int, float]], began: float) -> list[tuple[float, float]]:
    """Return the time of completion and the age of each result of a camera after the warm-up, seconds.

    The position of the first frame is known modulo the loop; each further frame is less than a loop later.
    """
    completed = sorted((now, moment / 1000) for camera, moment, now in notes if camera == url)
    ages: list[tuple[float, float]] = []
    if not completed:
        return ages
    start = min(now for _, _, now in notes) + WARM_UP_S
    first_now, last = completed[0]
    sent = first_now - (first_now - began - last) % LOOP_S
    for now, moment in completed:
        sent += (moment - last) % LOOP_S
        last = moment
        if now >= start:
            ages.append((now, now - sent))
    return ages


def _command(name: str, peers: Peers, urls: list[str], seconds: float) -> list[str]:
    size, duration = "384x640", ["--seconds", str(seconds)]
    if name.startswith("ultralytics"):
        model_file = peers.raw["weights" if name.endswith("torch") else "batches"]
        program = [str(peers.pythons["ultralytics"]), str(HERE / "ultralytics_live.py"), "--model", str(model_file)]
        return [*program, "--size", *size.split("x"), *duration, *urls]
    model = ["--model", str(peers.graphs[size])]
    if name == "roboflow":
        return [str(peers.pythons[name]), str(HERE / "roboflow_pipeline.py"), *model, *duration, *urls]
    if name == "naive":
        return [sys.executable, str(HERE / "naive_live.py"), *model, *duration, *urls]
    engine = {"us": FP32[1], "bf16": "openvino-cpu-bf16", "auto": "auto"}[name]
    ours = [sys.executable, "-m", "benchmarks.peers.ours_live", *model, "--engine", engine, "--engine-dir", str(peers.engines)]
    return [*ours, *duration, *urls]


def table(found: Sequence[LiveRun]) -> str:
    """Return the table of medians."""
    lines = [f"{'cameras':<10}{'contender':<18}{'results/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'growth ms/s':>13}{'other cores':>15}"]
    for name in dict.fromkeys(run.contender for run in found):
        same = [run for run in found if run.contender == name]
        medians = [
            statistics.median(getattr(run, what) for run in same)
            for what in ("results_per_s", "p50", "p95", "growth", "foreign_cores")
        ]
        figures = "".join(f"{value:>{width}.1f}" for value, width in zip(medians, (9, 9, 9, 13, 15), strict=True))
        lines.append(f"{'4×1080p30':<10}{name:<18}{figures}")
    return "\n".join(lines)
