"""Files: who reads, infers and writes rows faster, and what it takes of memory and start-up."""

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
"""of each thread and stage, when the limit is measured"""


@dataclass(frozen=True, slots=True)
class Cell:
    """A network, a clip, and who runs it."""

    name: str
    graph: Path
    """the deployment graph, of ours, the naive loop and the two sessions"""
    raw: Path | None
    """the same network as Ultralytics exported it, or its PyTorch weights; None: it cannot run it"""
    size: tuple[int, int]
    """height and width"""
    videos: tuple[Path, ...]
    contenders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender; ``limit`` is what the stages' cost would allow, and has no process."""

    cell: str
    contender: str
    sitting: int
    round: int
    fps: float
    """by the program's own clock: first open to last row"""
    start_s: float = 0.0
    """what the process took besides: start, imports, loading the network, end"""
    peak_rss_bytes: int = 0
    cpu_ms: float = 0.0
    """of the whole process, for each frame"""
    frames: int = 0
    detections: int = 0


def cells(peers: Peers, only: Sequence[str], quick: bool) -> list[Cell]:
    """The cells that can be measured here, in order; quick ones have a clip of some pictures."""
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
    """Let the engines be tried once on the clip, as a long first run does beside its work."""
    words = [str(COMMAND), "engine", "choose", str(peers.graphs["384x640"]), "--data", str(clip("768x432"))]
    done = subprocess.run([*words, "--engine-dir", str(peers.engines)], capture_output=True, text=True, check=False)
    print("auto:", *(done.stdout or done.stderr).strip().splitlines()[:1], file=sys.stderr)


def runs(cell: Cell, peers: Peers, folder: Path, sitting: int, rounds: int) -> Iterator[Run]:
    """Every contender in each round, one right after the other; another one begins each round."""
    there = [name for name in cell.contenders if name not in REQUIREMENTS or name in peers.pythons]
    for number in range(1, rounds + 1):
        shift = number % len(there)
        for name in there[shift:] + there[:shift]:
            yield _limit(cell, sitting, number) if name == "limit" else _run(cell, name, peers, folder, sitting, number)


def _run(cell: Cell, name: str, peers: Peers, folder: Path, sitting: int, number: int) -> Run:
    out = folder / "rows.jsonl"
    cost = measure(_command(cell, name, peers, out))
    told = json.loads(cost.stdout if name in ("us", "auto", "bf16") else cost.stdout.strip().splitlines()[-1])
    frames, seconds = int(told["frames"]), float(told["seconds"])
    start, cpu = cost.wall_s - seconds, cost.cpu_s * 1e3 / frames
    return Run(
        cell.name, name, sitting, number, frames / seconds, start, cost.peak_rss_bytes, cpu, frames, int(told["detections"])
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
    """Of each round, in order."""
    return [run.fps for run in found if (run.cell, run.contender) == (cell, contender)]


def table(found: Sequence[Run]) -> str:
    """What was measured: the middle of all rounds, and the least and the most."""
    lines = [f"{'cell':<10}{'contender':<14}{'frames/s':>9}{'least':>8}{'most':>8}{'CPU ms':>9}{'start s':>9}{'peak MB':>9}"]
    for cell, name in dict.fromkeys((run.cell, run.contender) for run in found):
        of = [run for run in found if (run.cell, run.contender) == (cell, name)]
        speeds = [run.fps for run in of]
        line = f"{cell:<10}{name:<14}{statistics.median(speeds):>9.1f}{min(speeds):>8.1f}{max(speeds):>8.1f}"
        line += f"{statistics.median(run.cpu_ms for run in of):>9.1f}"
        if name != "limit":
            line += f"{statistics.median(run.start_s for run in of):>9.2f}"
            line += f"{statistics.median(run.peak_rss_bytes for run in of) / 1e6:>9.0f}"
        lines.append(line)
    return "\n".join(lines)
