"""Charts of benchmarks and plans. They require matplotlib, an optional package."""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vision_infer.capacity.answer import curve_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.plan import MachinePlan
from vision_infer.capacity.report import BenchReport, EngineRow
from vision_infer.core.errors import OutputError

LEFT_OUT = "charts are skipped because matplotlib is not installed. Run: pip install '.[plot]'"
GOOD, BAD, INK = "#2a7f62", "#b3402a", "#333333"


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_bench(report: BenchReport, folder: Path) -> list[Path]:
    """Draw the charts of a benchmark as PNG files.

    Raises:
        OutputError: A file cannot be written.
    """
    made = []
    if report.engines:
        made.append(_save(_engines(report), folder / "engines.png"))
    if report.pipeline:
        made.append(_save(_streams(report), folder / "streams.png"))
    return made


def _new_figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """Return an empty chart: (figure, axes)."""
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


def _save(figure: Any, path: Path) -> Path:
    """Write a chart.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "Use another folder for --out.") from error
    return path


def _engines(report: BenchReport) -> Any:
    """Draw throughput by batch latency: a line for each engine, a point for each batch size."""
    from matplotlib.ticker import LogLocator

    figure, axes = _new_figure(
        f"{report.settings.model}: throughput against latency, by batch", "batch latency, p99 [ms]", "images per second"
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
    """Draw the age of results by number of streams."""
    settings = report.settings
    video = (
        f"{settings.codec} {settings.width}x{settings.height} at {settings.source_fps:g} frames/s, "
        f"{settings.fps:g} results/s each"
    )
    figure, axes = _new_figure(f"Age by number of streams: {video}", "streams", "age of results [ms]")
    rows = report.pipeline
    streams = [row.streams for row in rows]
    for name, style in (("age_p50_ms", ":"), ("age_p95_ms", "--"), ("age_p99_ms", "-")):
        axes.plot(streams, [getattr(row, name) for row in rows], style, color=INK, label=name[4:7], linewidth=1.2)
    for holds, color in ((True, GOOD), (False, BAD)):
        those = [row for row in rows if row.holds == holds]
        label = "target met" if holds else "target missed"
        axes.plot([row.streams for row in those], [row.age_p99_ms for row in those], "o", color=color, label=label)
    for row in rows:
        if row.delivered < 0.995:
            at = (row.streams, row.age_p99_ms)
            axes.annotate(f"{row.delivered:.0%}", at, (0, 7), textcoords="offset points", fontsize=7, ha="center")
    axes.axhline(settings.target_ms, color=BAD, linewidth=0.8, alpha=0.7, label=f"target, {settings.target_ms:g} ms")
    axes.set_xlim(0, streams[-1] + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, 1.5 * max(settings.target_ms, *(row.age_p99_ms for row in rows)))
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    return figure


def draw_plan(need: Need, plan: MachinePlan, folder: Path) -> list[Path]:
    """Draw the age by number of cameras, and the alternatives, as PNG files.

    Raises:
        OutputError: A file cannot be written.
    """
    made = [_save(_ages(need, plan), folder / "plan-ages.png")]
    if any(variant.answer is not None for variant in plan.what_if):
        made.append(_save(_variants(need, plan), folder / "plan-what-if.png"))
    return made


def _ages(need: Need, plan: MachinePlan) -> Any:
    best = plan.best
    curve = curve_of(plan.machine, need, best)
    figure, axes = _new_figure(
        f"Age by number of cameras on {plan.machine.name}, {best.engine}", "cameras", "age of results [ms]"
    )
    cameras = [number for number, _ in curve]
    for name, style in (("age_p50_ms", ":"), ("age_p95_ms", "--"), ("age_p99_ms", "-")):
        axes.plot(cameras, [getattr(found, name) for _, found in curve], style, color=INK, label=name[4:7], linewidth=1.3)
    axes.axhline(need.target.age_ms, color=BAD, linewidth=0.9, label=f"target, {need.target.age_ms:g} ms")
    if best.most:
        axes.axvspan(0, best.most, color=GOOD, alpha=0.12, label=f"supported with a margin of {need.margin:.0%}: {best.most}")
    if need.cameras <= cameras[-1]:
        axes.axvline(need.cameras, color=GOOD, linewidth=1.2, linestyle="--", label=f"planned: {need.cameras}")
    busy = axes.twinx()
    busy.plot(cameras, [found.cpu * 100 for _, found in curve], color="#3465a4", linewidth=1, alpha=0.8)
    busy.set_ylabel("CPU utilization [%]", color="#3465a4")
    busy.set_ylim(0, 105)
    busy.spines["top"].set_visible(False)
    axes.set_xlim(left=0, right=cameras[-1])
    axes.set_ylim(0, 1.45 * max(need.target.age_ms, best.outcome.age_p99_ms))
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    return figure


def _variants(need: Need, plan: MachinePlan) -> Any:
    figure, axes = _new_figure("What if: cameras on one device", "cameras", "")
    bars = [
        ("as planned", plan.best.most),
        *((variant.what, variant.answer.most) for variant in plan.what_if if variant.answer is not None),
    ]
    bars.reverse()
    names = [name if len(name) < 46 else name[:45] + "…" for name, _ in bars]
    axes.barh(
        names, [most for _, most in bars], color=[GOOD if name == "as planned" else "#8aa7a0" for name in names], height=0.6
    )
    for position, (_, most) in enumerate(bars):
        axes.annotate(str(most), (most, position), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(need.cameras, color=INK, linewidth=1, linestyle="--")
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")
    return figure
