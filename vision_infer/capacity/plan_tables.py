"""The tables of a plan's page, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vision_infer.capacity.answer import CapacityAnswer
from vision_infer.capacity.calibration import simulated_runs
from vision_infer.capacity.need import Need
from vision_infer.capacity.plan import MachinePlan, Variant


def camera_count(count: int) -> str:
    """Return the number with its noun."""
    return "1 camera" if count == 1 else f"{count} cameras"


def usage_table(need: Need, answer: CapacityAnswer) -> str:
    """Return the utilization of each resource, as planned and with one camera too many."""
    rows: list[tuple[str, str, str]] = []
    names = {"decode": "decode", "convert": "conversion", "compute": "compute", "rest": "results"}
    found, edge = answer.outcome, answer.edge
    for part, name in names.items():
        if found.shares.get(part) or edge.shares.get(part):
            rows.append((f"CPU: {name}", f"{found.shares.get(part, 0):.0%}", f"{edge.shares.get(part, 0):.0%}"))
    rows.append(("CPU, total", f"{found.cpu:.0%}", f"{edge.cpu:.0%}"))
    if answer.costs.accelerator:
        rows.append(("accelerator: compute and copy", f"{found.accelerator:.0%}", f"{edge.accelerator:.0%}"))
    if answer.costs.decoders:
        rows.append(("decoding hardware", f"{found.decoders:.0%}", f"{edge.decoders:.0%}"))
    if answer.network_mbit_s is not None:
        mbit = answer.network_mbit_s / answer.each
        limit = "" if need.network_mbit_s is None else f" of {need.network_mbit_s:g}"
        rows.append(("network, Mbit/s", f"{answer.network_mbit_s:.0f}{limit}", f"{mbit * (answer.most + 1):.0f}{limit}"))
    if not answer.costs.accelerator:
        rows.append(("copy to the device", "none", "none"))
    rows.append(("results delivered", f"{found.delivered:.1%}", f"{edge.delivered:.1%}"))
    rows.append(("age p99", f"{found.age_p99_ms:.0f} ms", f"{edge.age_p99_ms:.0f} ms"))
    return markdown_table(
        ("resource", f"with {camera_count(answer.each)}", f"with {camera_count(answer.most + 1)} (too many)"), rows
    )


def memory_table(answer: CapacityAnswer) -> str:
    """Return the memory by purpose."""
    memory = answer.memory
    mb = "{:.0f} MB".format
    rows = [
        ("program", mb(memory.program / 1e6)),
        ("engine", mb(memory.engine / 1e6)),
        ("engine buffers", mb(memory.activations / 1e6)),
        (f"{answer.each} streams: decoder surfaces, images in flight", mb(memory.streams / 1e6)),
        ("preview: packets since the last key frame", mb(memory.preview / 1e6)),
        ("total", mb(memory.needed / 1e6) + ("" if memory.total is None else f" of {memory.total / 1e9:.1f} GB")),
    ]
    how = "measured while streams were running" if memory.measured else "calculated from the image size"
    return markdown_table((f"memory ({how})", "size"), rows)


def engine_table(plan: MachinePlan) -> str:
    """Return the estimates for all engines."""
    rows = []
    for answer in plan.engines:
        loss = next(row.loss_points for row in plan.machine.report.engines if row.engine == answer.engine)
        lost = "not measured" if loss is None else f"{loss:g} points"
        ms = answer.costs.batch_ms(answer.batch)
        age = f"{answer.outcome.age_p99_ms:.0f} ms" if answer.most else "—"
        rows.append((f"`{answer.engine}`", str(answer.batch), f"{ms:.1f} ms", lost, str(answer.most), age))
    return markdown_table(("engine", "best batch", "batch latency", "maximum loss", "cameras", "age p99 as planned"), rows)


def alternatives_table(need: Need, plan: MachinePlan) -> str:
    """Return the estimates for the alternatives."""
    rows = [_variant(need, Variant("**as planned**", plan.best))]
    rows += [_variant(need, variant) for variant in plan.what_if]
    return markdown_table(
        ("alternative", "cameras per device", f"devices for {need.cameras}", "age p99", "bottleneck", "per month"), rows
    )


def _variant(need: Need, variant: Variant) -> tuple[str, ...]:
    answer = variant.answer
    if answer is None:
        return variant.what, variant.why_not or "unknown", "", "", "", ""
    devices = "not possible" if answer.devices is None else str(answer.devices)
    month = "" if answer.money is None else price_text(answer.money.month, need)
    age = f"{answer.outcome.age_p99_ms:.0f} ms"
    return variant.what, str(answer.most), devices, age, answer.binding, month


def price_text(value: float, need: Need) -> str:
    """Return a price with its currency."""
    digits = 2 if value >= 1 else 4
    return f"{value:.{digits}f} {need.currency}".strip()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def simulation_tables(machines: Iterable[MachinePlan]) -> str:
    """Compare the simulation with the pipeline runs of the benchmarks."""
    parts = []
    for plan in machines:
        rows = []
        for row, found in simulated_runs(plan.machine.report):
            ages = f"{found.age_p50_ms:.0f} / {found.age_p95_ms:.0f} ms", f"{row.age_p50_ms:.0f} / {row.age_p95_ms:.0f} ms"
            rows.append(
                (str(row.streams), f"{found.results_per_s:.1f}", f"{row.results_per_s:.1f}", *ages, f"{row.other_cores:.1f}")
            )
        if rows:
            settings = plan.machine.report.settings
            video = (
                f"{settings.codec} {settings.width}×{settings.height} at {settings.source_fps:g} frames/s, "
                f"{settings.fps:g} results/s each"
            )
            head = (
                "streams",
                "results/s, simulated",
                "measured",
                "age p50 / p95, simulated",
                "measured",
                "cores of other programs",
            )
            parts.append(
                f"The simulation compared with the runs of the benchmark on {plan.machine.name} "
                f"({video}):\n\n{markdown_table(head, rows)}"
            )
    return "\n".join(parts)
