"""Print a benchmark as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vision_infer.capacity.report import BenchInterval, BenchReport


def print_bench(report: BenchReport, console: Console | None = None) -> None:
    """Print the measurements with their confidence intervals, and the verdict."""
    console = console or Console(highlight=False)
    quick = ", quick" if report.settings.quick else ""
    console.print(f"{report.machine.name}; {report.date:%Y-%m-%d %H:%M} UTC, {report.seconds:.0f} s{quick}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    for table in (_stages(report), _engines(report), _streams(report)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    console.print(verdict(report), soft_wrap=True, markup=False)
    if report.interrupted:
        console.print("interrupted; the measurements so far are kept", markup=False)


def verdict(report: BenchReport) -> str:
    """Return the number of streams that the machine supports, as a sentence."""
    settings = report.settings
    target = f"with 99% of the results within {settings.target_ms:g} ms"
    what = f"{settings.codec} {settings.width}x{settings.height}, {settings.fps:g} results/s each, {target}"
    count = report.carries
    if count is None:
        return "The number of supported streams was not measured."
    if count == 0:
        return f"The machine does not support a single stream of {what}."
    broken = min((row.streams for row in report.pipeline if not row.holds and row.streams > count), default=None)
    untried = count + 1 < broken if broken else True
    beyond = "" if broken is None else f" ({broken} were too many{', fewer were not tried' if untried else ''})"
    return f"The machine supports {count} {'stream' if count == 1 else 'streams'} of {what}{beyond}."


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _shown(found: BenchInterval, digits: int = 2) -> str:
    return f"{found.median:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})"


def _table(*headings: str) -> Table:
    # One space between the columns, so that the tables fit into 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _stages(report: BenchReport) -> Table:
    table = _table("stage (95% interval)", "CPU ms per frame", "frames/s, all cores")
    for row in report.decode:
        name = f"decode {row.codec} {row.width}x{row.height}, {row.mbit_s:g} Mbit/s, {row.where}"
        table.add_row(name, _shown(row.cpu_ms), _shown(row.fps, 0))
    for one in report.convert:
        name = f"convert {one.width}x{one.height} → {one.input_width}x{one.input_height}"
        table.add_row(name, _shown(one.cpu_ms), "")
    return table


def _engines(report: BenchReport) -> Table:
    table = _table("engine", "batch", "p50 / p99 ms", "images/s", "CPU ms", "MB", "loss")
    for row in report.engines:
        table.add_row(
            row.engine,
            f"{row.batch} × {row.in_flight}",
            f"{_ms(row.p50_ms)} / {_ms(row.p99_ms)}",
            _shown(row.fps, 1 if row.fps.high < 100 else 0),
            f"{row.cpu_ms.median:.2f}",
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
            "?" if row.loss_points is None else f"{row.loss_points:g}",
        )
    return table


def _streams(report: BenchReport) -> Table:
    table = _table("streams", "results/s", "delivered", "age p50", "p95", "p99 ms", "cores", "others", "MB", "target")
    for row in report.pipeline:
        table.add_row(
            str(row.streams),
            f"{row.results_per_s:.1f}",
            f"{row.delivered:.0%}",
            f"{row.age_p50_ms:.0f}",
            f"{row.age_p95_ms:.0f}",
            f"{row.age_p99_ms:.0f}",
            f"{row.cpu_cores:.2f}",
            f"{row.other_cores:.2f}",
            "" if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.0f}",
            "met" if row.holds else "missed",
        )
    return table
