"""Print the summary of a run as tables on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vision_infer.pipeline.runs.summary import FINISHED_EARLIER, RunSummary


def print_summary(summary: RunSummary, console: Console | None = None) -> None:
    """Print the results, the time of each stage and the resources used."""
    console = console or Console(stderr=True, highlight=False)
    if len(summary.sources) > 1:
        console.print(_sources(summary))
    if all(source["state"] == FINISHED_EARLIER for source in summary.sources):
        console.print("all sources were finished by an earlier run")
        return
    console.print(_stages(summary))
    per_frame = 1000 * summary.cpu_seconds / summary.frames if summary.frames else 0.0
    every = f" of {summary.decoded} decoded" if summary.decoded != summary.frames else ""
    engines = summary.engine
    if len(summary.frames_by_engine) > 1:
        engines = ", then ".join(f"{engine} ({count})" for engine, count in summary.frames_by_engine.items())
    console.print(
        f"{summary.frames} frames{every} in {summary.seconds:.2f} s = {summary.fps:.1f} fps, {summary.detections} detections, "
        f"{summary.model} on {engines}",
        soft_wrap=True,
    )
    for reason in summary.engine_reasons:
        console.print(reason, soft_wrap=True, markup=False)
    busy = ", ".join(f"{stage} {fraction:.0%}" for stage, fraction in summary.busy.items())
    bound_by = "no bottleneck" if summary.bound_by == "nothing" else f"bound by {summary.bound_by}"
    console.print(f"{bound_by} (utilization: {busy})", soft_wrap=True)
    console.print(
        f"{per_frame:.1f} ms of CPU per frame, peak memory {summary.peak_rss_bytes / 1e6:.0f} MB, "
        f"started in {summary.startup_seconds:.2f} s",
        soft_wrap=True,
    )
    for line in [*_live_lines(summary), *_count_lines(summary)]:
        console.print(line, soft_wrap=True, markup=False)
    for output in summary.outputs:
        encoder = f" ({summary.encoders[output]})" if output in summary.encoders else ""
        console.print(f"wrote {output}{encoder}", soft_wrap=True, markup=False)
    if summary.interrupted:
        console.print("stopped; all results up to this point are written")


def _live_lines(summary: RunSummary) -> list[str]:
    """Return a line for each camera: the age of its results, and the reasons of its dropped frames."""
    lines = []
    for source in summary.sources:
        if "reconnects" in source:
            ages, dropped = source["age_ms"], source["dropped"]
            reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
            lost = source["rtp_packets"].get("lost", 0)
            lines.append(
                f"{source['name']}: age of results p50 {ages['p50']:.0f} ms, p95 {ages['p95']:.0f} ms; "
                f"{sum(dropped.values())} frames dropped{f' ({reasons})' if reasons else ''}, {source['reconnects']} reconnects"
                f"{f', {lost} packets lost' if lost else ''}"
            )
    return lines


def _count_lines(summary: RunSummary) -> list[str]:
    """Return a line for each line and zone of each source: how often it was crossed or visited, by label."""
    return [
        f"{source['name']}: {place}: " + ", ".join(_way(way, by_label) for way in ("in", "out"))
        for source in summary.sources
        for place, by_label in source["counts"].items()
    ]


def _way(way: str, by_label: dict[str, dict[str, int]]) -> str:
    labels = ", ".join(f"{label} {counts[way]}" for label, counts in by_label.items() if counts[way])
    return f"{way} {sum(counts[way] for counts in by_label.values())}{f' ({labels})' if labels else ''}"


def _stages(summary: RunSummary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for heading in ("mean ms", "p50", "p95", "p99", "share"):
        table.add_column(heading, justify="right")
    for stage, row in summary.stages.items():
        figures = (f"{row[key]:.2f}" for key in ("mean_ms", "p50_ms", "p95_ms", "p99_ms"))
        table.add_row(stage, *figures, f"{row['share']:.1%}")
    return table


def _sources(summary: RunSummary, limit: int = 20) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    for heading in ("frames", "detections", "gaps"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for source in summary.sources[:limit]:
        counts = (str(source[key]) for key in ("frames", "detections", "gaps"))
        table.add_row(str(source["name"]), *counts, str(source["state"]))
    if len(summary.sources) > limit:
        table.add_row(f"… and {len(summary.sources) - limit} more")
    return table
