"""Pictures of a bench and of a plan. They need matplotlib, which is not among what is always installed."""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vision_infer.capacity.report import BenchReport, EngineRow
from vision_infer.core.errors import OutputError

LEFT_OUT = "pictures are left out, matplotlib is not installed: pip install 'vision-infer[plot]'"
GOOD, BAD, INK = "#2a7f62", "#b3402a", "#333333"


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def draw_bench(report: BenchReport, folder: Path) -> list[Path]:
    """The pictures of a bench, as far as it measured what they show: PNG files.

    Raises:
        OutputError: one cannot be written.
    """
    made = []
    if report.engines:
        made.append(save(_engines(report), folder / "engines.png"))
    if report.pipeline:
        made.append(save(_streams(report), folder / "streams.png"))
    return made


def new_figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """An empty picture: (figure, axes)."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def save(figure: Any, path: Path) -> Path:
    """Write a picture.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "name another folder with --out") from error
    return path


def _engines(report: BenchReport) -> Any:
    """Throughput against the time of a batch, a line for each engine, a point for each batch size."""
    from matplotlib.ticker import LogLocator

    figure, axes = new_figure(
        f"{report.settings.model}: throughput against latency, by batch", "time of a batch, p99 [ms]", "pictures a second"
    )
    by_engine: dict[str, list[EngineRow]] = defaultdict(list)
    for row in report.engines:
        by_engine[row.engine].append(row)
    for engine, rows in by_engine.items():
        rows.sort(key=lambda row: row.batch)
        fps = [row.fps.median for row in rows]
        noise = [[row.fps.median - row.fps.low for row in rows], [row.fps.high - row.fps.median for row in rows]]
        line = axes.errorbar([row.p99_ms for row in rows], fps, yerr=noise, marker="o", markersize=4, capsize=2, label=engine)
        for row in rows:
            at = (row.p99_ms, row.fps.median)
            axes.annotate(str(row.batch), at, (4, 4), textcoords="offset points", fontsize=7, color=line[0].get_color())
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _streams(report: BenchReport) -> Any:
    """The ages of results against the number of streams."""
    asked = report.settings
    video = f"{asked.codec} {asked.width}x{asked.height} at {asked.source_fps:g} frames/s, {asked.fps:g} results/s each"
    figure, axes = new_figure(f"Age by number of streams: {video}", "streams", "age of results [ms]")
    rows = report.pipeline
    streams = [row.streams for row in rows]
    for name, style in (("age_p50_ms", ":"), ("age_p95_ms", "--"), ("age_p99_ms", "-")):
        axes.plot(streams, [getattr(row, name) for row in rows], style, color=INK, label=name[4:7], linewidth=1.2)
    for holds, colour in ((True, GOOD), (False, BAD)):
        those = [row for row in rows if row.holds == holds]
        label = "holds" if holds else "breaks: too old, or results are missing"
        axes.plot([row.streams for row in those], [row.age_p99_ms for row in those], "o", color=colour, label=label)
    for row in rows:
        if row.delivered < 0.995:
            at = (row.streams, row.age_p99_ms)
            axes.annotate(f"{row.delivered:.0%}", at, (0, 7), textcoords="offset points", fontsize=7, ha="center")
    axes.axhline(asked.target_ms, color=BAD, linewidth=0.8, alpha=0.7, label=f"target, {asked.target_ms:g} ms")
    axes.set_xlim(0, streams[-1] + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, 1.5 * max(asked.target_ms, *(row.age_p99_ms for row in rows)))
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    return figure
