"""The report of the runs: a table for the terminal, a JSON file, and a chart."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.statistic import Ratio, paired_ratio


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender."""

    cell: str
    """The model, the clip and the number of files."""
    contender: str
    round: int
    wall_s: float
    """The wall time of the whole process, measured from outside, seconds."""
    own_s: float
    """The time from the first open until the last result is written, as the program reports, seconds."""
    cpu_s: float
    peak_rss_bytes: int
    frames: int
    """The number of written rows."""
    detections: int

    @property
    def frames_per_second(self) -> float:
        """Frames per second by the time that the program reports."""
        return self.frames / self.own_s

    @property
    def whole_frames_per_second(self) -> float:
        """Frames per second by the wall time of the whole process."""
        return self.frames / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """The CPU time of the whole process per frame, milliseconds."""
        return self.cpu_s * 1e3 / self.frames


MEASURES = (
    ("throughput", "frames_per_second"),
    ("whole process", "whole_frames_per_second"),
    ("CPU per frame", "cpu_ms"),
    ("peak memory", "peak_rss_bytes"),
)
"""The figures of which ratios are shown: name, attribute of a run."""
PAIRS = (("us", "bare"), ("us", "loop"), ("control", "bare"))


def _values(runs: list[Run], cell: str, contender: str, attribute: str) -> list[float]:
    return [float(getattr(run, attribute)) for run in runs if run.cell == cell and run.contender == contender]


def cell_ratios(runs: list[Run], cell: str) -> dict[str, dict[str, Ratio]]:
    """Return the ratios of a cell: pair → measure → ratio. Pairs that did not run are left out."""
    ratios: dict[str, dict[str, Ratio]] = {}
    for first, second in PAIRS:
        if not (_values(runs, cell, first, "own_s") and _values(runs, cell, second, "own_s")):
            continue
        ratios[f"{first}/{second}"] = {
            name: paired_ratio(_values(runs, cell, first, attribute), _values(runs, cell, second, attribute))
            for name, attribute in MEASURES
        }
    return ratios


def cells(runs: list[Run]) -> list[str]:
    """Return the cells in the order in which they ran."""
    return list(dict.fromkeys(run.cell for run in runs))


def contenders(runs: list[Run]) -> list[str]:
    """Return the contenders in a fixed order."""
    return [name for name in ("us", "bare", "control", "loop") if any(run.contender == name for run in runs)]


def table(runs: list[Run]) -> str:
    """Return the medians of each contender and the ratios, cell by cell."""
    lines: list[str] = []
    for cell in cells(runs):
        here = [run for run in runs if run.cell == cell]
        lines += ["", f"{cell}   ({here[0].frames} frames)"]
        lines.append(
            f"  {'':8}{'frames/s':>10}{'seconds':>9}{'process s':>11}{'CPU ms/frame':>14}{'peak MB':>9}{'detections':>12}"
        )
        for name in contenders(here):
            medians = {
                key: statistics.median(_values(here, cell, name, key))
                for key in ("frames_per_second", "own_s", "wall_s", "cpu_ms", "peak_rss_bytes", "detections")
            }
            lines.append(
                f"  {name:8}{medians['frames_per_second']:10.1f}{medians['own_s']:9.2f}{medians['wall_s']:11.2f}"
                f"{medians['cpu_ms']:14.2f}{medians['peak_rss_bytes'] / 1e6:9.1f}{medians['detections']:12.0f}"
            )
        for pair, measures in cell_ratios(here, cell).items():
            lines += [f"  {pair:14}{measure:15}{ratio}" for measure, ratio in measures.items()]
    return "\n".join(lines)


def disagreements(runs: list[Run]) -> list[str]:
    """Return where contenders did different work: in frames, or in detections by more than 1 % of the bare program's."""
    found: list[str] = []
    for cell in cells(runs):
        frames = {run.contender: run.frames for run in runs if run.cell == cell}
        if len(set(frames.values())) > 1:
            found.append(f"{cell}: different numbers of frames: {frames}")
        ours, bare = (_values(runs, cell, name, "detections") for name in ("us", "bare"))
        if ours and bare and abs(ours[0] - bare[0]) > 0.01 * bare[0]:
            found.append(f"{cell}: {ours[0]:.0f} detections, but the bare program has {bare[0]:.0f}")
    return found


def write_json(path: Path, machine: dict[str, object], inputs: dict[str, object], skipped: list[str], runs: list[Run]) -> None:
    """Write all runs and ratios."""
    ratios = {
        cell: {
            pair: {name: asdict(ratio) | {"verdict": ratio.verdict} for name, ratio in measures.items()}
            for pair, measures in cell_ratios(runs, cell).items()
        }
        for cell in cells(runs)
    }
    content = {"machine": machine, "inputs": inputs, "skipped": skipped, "ratios": ratios, "runs": [asdict(run) for run in runs]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(path: Path, machine: dict[str, object], runs: list[Run]) -> None:
    """Draw throughput and peak memory of every cell; bars are medians, whiskers the minimum and maximum."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names, rows = contenders(runs), cells(runs)
    figure, axes = plt.subplots(2, 1, figsize=(1.5 * len(rows) + 4, 8), layout="constrained")
    for axis, attribute, unit, title in (
        (axes[0], "frames_per_second", 1.0, "frames per second (first open → last result)"),
        (axes[1], "peak_rss_bytes", 1e6, "peak memory, MB"),
    ):
        for number, name in enumerate(names):
            values = [[value / unit for value in _values(runs, cell, name, attribute)] for cell in rows]
            medians = [statistics.median(value) for value in values]
            whiskers = [
                [m - min(v) for m, v in zip(medians, values, strict=True)],
                [max(v) - m for m, v in zip(medians, values, strict=True)],
            ]
            positions = [cell + (number - (len(names) - 1) / 2) * 0.8 / len(names) for cell in range(len(rows))]
            bars = axis.bar(positions, medians, 0.8 / len(names), yerr=whiskers, capsize=2, label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axis.set_title(title)
        axis.set_xticks(range(len(rows)), [cell.replace(" · ", "\n") for cell in rows], fontsize=8)
        axis.grid(axis="y", alpha=0.3)
        axis.margins(y=0.12)
    axes[0].legend()
    rounds = max(run.round for run in runs)
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}, {rounds} rounds", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
