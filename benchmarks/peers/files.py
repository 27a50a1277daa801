"""The comparison on files: speed, memory and start-up time of reading, inferring and writing rows."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from benchmarks.inputs import COMMAND, FP32, MEDIA, ROOT, InputMissingError, clip, copies, graph
from benchmarks.measure import measure
from benchmarks.peers.environments import HERE, REQUIREMENTS, Peers
from benchmarks.stage_cost import STAGES, Stages, cpu_ms
from vision_infer.engine.device import available_cpus
from vision_infer.engine.open import EngineRequest, open_engine

QUICK_FRAMES = 12
LIMIT_FRAMES = 40
"""The number of frames for each thread and stage in the measurement of the limit."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A model, the clips, and the contenders that run it."""

    name: str
    graph: Path
    """The deployment graph for vision-infer, the naive loop and the two sessions."""
    raw: Path | None
    """The same model as Ultralytics exported it, or its PyTorch weights; None if Ultralytics cannot run it."""
    size: tuple[int, int]
    """The input height and width."""
    videos: tuple[Path, ...]
    contenders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender; ``limit`` is calculated from the costs of the stages and has no process."""

    cell: str
    contender: str
    sitting: int
    round: int
    fps: float
    """Frames per second between the first open and the last row, as the program reports."""
    start_s: float = 0.0
    """The remaining time of the process: start, imports, loading the model, end."""
    peak_rss_bytes: int = 0
    cpu_ms: float = 0.0
    """CPU milliseconds of the whole process per frame."""
    frames: int = 0
    detections: int = 0


def cells(peers: Peers, only: Sequence[str], quick: bool) -> list[Cell]:
    """Return the cells that can be measured here; with ``quick`` the clip has only a few frames."""
    source = _beginning(clip("768x432")) if quick else clip("768x432")
    one, two = (source,), tuple(copies(source, 2))
    made: list[Cell] = []
    if peers.graphs:
        square, wide = peers.graphs["640x640"], peers.graphs["384x640"]
        fp32 = ("us", "ultralytics", "roboflow", "naive", "two sessions", "limit")
        made += [
            Cell("one", square, peers.raw["640x640"], (640, 640), one, fp32),
            Cell("two", square, peers.raw["640x640"], (640, 640), two, fp32),
            Cell("defaults", wide, peers.raw["weights"], (640, 640), one, ("auto", "bf16", "ultralytics")),
            # The same input for everyone: Ultralytics' own export for the shape of the video.
            Cell("wide", wide, peers.raw["384x640"], (384, 640), one, fp32),
        ]
    try:
        plain = ("us", "roboflow", "naive", "two sessions", "limit")
        made.append(Cell("yolox", graph("yolox-nano"), None, (416, 416), one, plain))
    except InputMissingError as error:
        peers.missing.append(f"YOLOX-nano: {error}")
    return [cell for cell in made if not only or cell.name in only]


def _beginning(source: Path) -> Path:
    MEDIA.mkdir(parents=True, exist_ok=True)
    made = MEDIA / f"{source.stem}-beginning{source.suffix}"
    with av.open(str(source)) as read, av.open(str(made), "w") as output:
        target = output.add_stream_from_template(read.streams.video[0])
        for packet in itertools.islice(read.demux(video=0), QUICK_FRAMES):
            packet.stream = target
            output.mux(packet)
    return made


def choose(peers: Peers) -> None:
    """Autotune the engines on the clip, as a long first run does in the background."""
    words = [str(COMMAND), "engine", "choose", str(peers.graphs["384x640"]), "--data", str(clip("768x432"))]
    done = subprocess.run([*words, "--engine-dir", str(peers.engines)], capture_output=True, text=True, check=False)
    print("auto:", *(done.stdout or done.stderr).strip().splitlines()[:1], file=sys.stderr)


def runs(cell: Cell, peers: Peers, folder: Path, sitting: int, rounds: int) -> Iterator[Run]:
    """Run every contender in each round, directly one after the other; the first one changes from round to round."""
    present = [name for name in cell.contenders if name not in REQUIREMENTS or name in peers.pythons]
    for number in range(1, rounds + 1):
        shift = number % len(present)
        for name in present[shift:] + present[:shift]:
            yield _limit(cell, sitting, number) if name == "limit" else _run(cell, name, peers, folder, sitting, number)


def _run(cell: Cell, name: str, peers: Peers, folder: Path, sitting: int, number: int) -> Run:
    out = folder / "rows.jsonl"
    cost = measure(_command(cell, name, peers, out))
    summary = json.loads(cost.stdout if name in ("us", "auto", "bf16") else cost.stdout.strip().splitlines()[-1])
    frames, seconds = int(summary["frames"]), float(summary["seconds"])
    start, cpu = cost.wall_s - seconds, cost.cpu_s * 1e3 / frames
    return Run(
        cell.name, name, sitting, number, frames / seconds, start, cost.peak_rss_bytes, cpu, frames, int(summary["detections"])
    )


def _command(cell: Cell, name: str, peers: Peers, out: Path) -> list[str]:
    videos, model = [str(video) for video in cell.videos], ["--model", str(cell.graph)]
    if name == "ultralytics":
        program = [str(peers.pythons[name]), str(HERE / "ultralytics_files.py"), "--model", str(cell.raw)]
        return [*program, "--size", *map(str, cell.size), "--out", str(out), *videos]
    if name == "roboflow":
        return [str(peers.pythons[name]), str(HERE / "roboflow_pipeline.py"), *model, "--out", str(out), *videos]
    if name in ("us", "auto", "bf16"):
        engine = {"us": FP32, "bf16": ("--engine", "openvino-cpu-bf16"), "auto": ()}[name]
        kept = ["--engine-dir", str(peers.engines), "--out", str(out), "--overwrite", "--json", "--quiet"]
        return [str(COMMAND), "run", *videos, *model, *engine, *kept]
    script = "user_loop.py" if name == "naive" else "bare_reference.py"
    return [sys.executable, str(ROOT / "benchmarks" / script), *model, "--out", str(out), *videos]


def _limit(cell: Cell, sitting: int, number: int) -> Run:
    cores = available_cpus()
    with open_engine(cell.graph, EngineRequest(engine=FP32[1], workers=cores)) as engine:
        engine.warm_up()
        stages = Stages(engine, cell.videos[0])
        cost = sum(cpu_ms(getattr(stages, stage), cores, LIMIT_FRAMES) for stage in STAGES)
    return Run(cell.name, "limit", sitting, number, 1000 * cores / cost, cpu_ms=cost)


def fps(found: Sequence[Run], cell: str, contender: str) -> list[float]:
    """Return the frames/s of each round, in order."""
    return [run.fps for run in found if (run.cell, run.contender) == (cell, contender)]


def table(found: Sequence[Run]) -> str:
    """Return the table of medians, minima and maxima."""
    lines = [f"{'cell':<10}{'contender':<14}{'frames/s':>9}{'min':>8}{'max':>8}{'CPU ms':>9}{'start s':>9}{'peak MB':>9}"]
    for cell, name in dict.fromkeys((run.cell, run.contender) for run in found):
        same = [run for run in found if (run.cell, run.contender) == (cell, name)]
        speeds = [run.fps for run in same]
        line = f"{cell:<10}{name:<14}{statistics.median(speeds):>9.1f}{min(speeds):>8.1f}{max(speeds):>8.1f}"
        line += f"{statistics.median(run.cpu_ms for run in same):>9.1f}"
        if name != "limit":
            line += f"{statistics.median(run.start_s for run in same):>9.2f}"
            line += f"{statistics.median(run.peak_rss_bytes for run in same) / 1e6:>9.0f}"
        lines.append(line)
    return "\n".join(lines)
