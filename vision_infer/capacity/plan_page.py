"""Write a plan as a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vision_infer.capacity.answer import CapacityAnswer
from vision_infer.capacity.need import Need
from vision_infer.capacity.plan import MachinePlan, PublishedBound
from vision_infer.capacity.plan_tables import (
    alternatives_table,
    camera_count,
    engine_table,
    markdown_table,
    memory_table,
    price_text,
    simulation_tables,
    usage_table,
)
from vision_infer.capacity.report import BenchReport

METHOD = """\
The number of cameras comes from a simulation of the service's own scheduler (the same code for mailboxes, pacing, shares and
batches). Decoding, conversion, engine and results take the CPU time that `vision-infer bench` measured with busy cores. Frames
arrive in real time, the age of a result counts from the time at which its frame was due, and a frame without a result counts as
missing. A device supports a number of cameras if 99% of the results are within the target age, at least 98% of the wanted results
are delivered, and the margin stays free on the CPU, on an accelerator, and in memory. The costs are corrected so that the
simulation supports as many streams as the benchmark's own runs, and a plan never exceeds what those runs supported."""


def plan_page(
    need: Need, machines: Sequence[MachinePlan], published: Sequence[PublishedBound], charts: Sequence[str] = ()
) -> str:
    """Return the page."""
    first = machines[0]
    parts = [
        f"# {need.summary()}\n",
        _answer(need, machines),
        _images(charts[:1]),
        "## Devices\n",
        _devices(need, machines),
        _cpu_or_gpu(machines),
    ]
    if published:
        parts += ["### Not measured\n", _published(published)]
    for plan in machines:
        parts += [
            f"## Bottleneck of {plan.machine.name}\n",
            plan.best.why + "\n",
            usage_table(need, plan.best),
            memory_table(plan.best),
            "### Engines\n",
            engine_table(plan),
        ]
    parts += ["## Alternatives\n", alternatives_table(need, first), _images(charts[1:])]
    parts += [
        "## Requirements and choices\n",
        _steps(need, first),
        "## Method\n",
        METHOD + "\n",
        _sources(machines),
        simulation_tables(machines),
    ]
    return "\n".join(part for part in parts if part)


def _answer(need: Need, machines: Sequence[MachinePlan]) -> str:
    best = min(machines, key=lambda plan: _rank(plan.best))
    answer = best.best
    if answer.devices is None:
        return f"**No measured device meets the target.** The nearest on {best.machine.name}: {answer.nearest}.\n"
    margin = f"a margin of {need.margin:.0%}"
    name = best.machine.name
    single = answer.devices == 1
    text = f"**{'One' if single else answer.devices} × {name} {'is' if single else 'are'} enough, with {margin}.**"
    text += f" Each device supports {camera_count(answer.most)} with `{answer.engine}`"
    text += f" at batch {answer.batch}" if answer.batch > 1 else ""
    text += f"{_measured_text(answer)}."
    p50, p95, p99 = answer.ages_ms
    on = f"{camera_count(answer.each)} on {'it' if single else 'the fullest device'}"
    ages = f"{p50:.0f} ms (50%), {p95:.0f} ms (95%), {p99:.0f} ms (99%)"
    how = " (measured)" if answer.measured_ages_ms else ""
    text += f" With {on}, results are delivered within {ages}{how}. The bottleneck is {answer.binding}."
    if answer.money is not None:
        money = answer.money
        text += (
            f" The cost is {price_text(money.month, need)} per month, {price_text(money.stream_month, need)} per camera, and "
            f"{price_text(money.per_1000_frames, need)} per 1,000 results."
        )
    return f"{text}\n{_warning(best.machine.report)}"


def _measured_text(answer: CapacityAnswer) -> str:
    if answer.measured is None:
        return " (forecast; the benchmark did not run these streams)"
    return " (measured)" if answer.measured == answer.most else f" (measured without the margin: {answer.measured})"


def _warning(report: BenchReport) -> str:
    """Return the warning about a disturbed benchmark, if it was."""
    if not report.disturbed:
        return ""
    return (
        f"\n**Warning:** during the benchmark, other programs used {report.other_cores:.1f} of {report.machine.cores} cores. "
        "The machine may support more; repeat the benchmark while it is idle.\n"
    )


def _rank(answer: CapacityAnswer) -> tuple[float, float, float]:
    """Return a sort key: the cheapest first, then the lowest number of devices."""
    if answer.devices is None:
        return math.inf, math.inf, math.inf
    return answer.money.month if answer.money else math.inf, answer.devices, answer.outcome.age_p99_ms


def _devices(need: Need, machines: Sequence[MachinePlan]) -> str:
    head = ("device", "engine", "batch", "cameras per device", f"devices for {need.cameras}", "bottleneck", "age p50 / p95 / p99")
    money = ("per month", "per camera and month", "per 1,000 results", "per 1,000 results, fully used", "per 1,000 detections")
    rows = []
    for plan in machines:
        answer = plan.best
        p50, p95, p99 = answer.ages_ms
        row = [
            f"{plan.machine.name}: {plan.machine.report.machine.name}",
            f"`{answer.engine}`",
            str(answer.batch),
            str(answer.most),
        ]
        row += ["not possible" if answer.devices is None else str(answer.devices), answer.binding]
        row.append(f"{p50:.0f} / {p95:.0f} / {p99:.0f} ms")
        costs = answer.money
        if costs is None:
            unknown = "" if answer.devices is None else f"unknown; set `--price '{plan.machine.name}=0.50'`"
            row += [unknown] + [""] * 4
        else:
            detections = "not requested" if costs.per_1000_detections is None else price_text(costs.per_1000_detections, need)
            row += [price_text(costs.month, need), price_text(costs.stream_month, need), price_text(costs.per_1000_frames, need)]
            row += [price_text(costs.per_1000_frames_full, need), detections]
        rows.append(row)
    transposed = [(name, *(row[number] for row in rows)) for number, name in enumerate((*head, *money))]
    kept = [row for row in transposed if any(row[1:])]
    return markdown_table(("value", *(row[0] for row in rows)), kept[1:])


def _cpu_or_gpu(machines: Sequence[MachinePlan]) -> str:
    by_kind: dict[bool, list[CapacityAnswer]] = {True: [], False: []}
    for plan in machines:
        for answer in plan.engines:
            by_kind[answer.costs.accelerator].append(answer)
    if not by_kind[True]:
        return (
            "**CPU or GPU:** no GPU was measured. To compare, run `vision-infer bench --out DIR` on a machine with a GPU, and "
            "pass its file: `vision-infer plan … --bench DIR/bench.json`.\n"
        )
    if not by_kind[False]:
        return "**CPU or GPU:** no CPU engine was measured.\n"
    cpu, gpu = (max(found, key=lambda answer: answer.most) for found in (by_kind[False], by_kind[True]))
    return f"**CPU or GPU:** a CPU supports {cpu.most} cameras (`{cpu.engine}`), a GPU {gpu.most} (`{gpu.engine}`).\n"


def _published(bounds: Sequence[PublishedBound]) -> str:
    rows = []
    for bound in bounds:
        memory = "" if bound.device.memory_gb is None else f"{bound.device.memory_gb:g} GB"
        limit = "unknown" if bound.cameras is None else f"{bound.cameras}, by decoding alone"
        rows.append((bound.device.name, memory, limit, bound.explanation))
    table = markdown_table(("device", "memory", "maximum cameras", "source"), rows)
    return (
        table
        + "\nThese are published figures and not estimates, because the cost of the model was not measured on these devices.\n"
    )


def _steps(need: Need, plan: MachinePlan) -> str:
    answer = plan.best
    report = plan.machine.report
    row = next(iter(report.engines), None)
    size = "" if row is None else f", {row.input_width}×{row.input_height}"
    price = "" if answer.money is None else price_text(answer.money.per_1000_frames, need)
    rows = [
        ("1 task", need.task, ""),
        ("2 model and size", need.model, f"{need.model}{size}"),
        ("3 targets", f"{need.fps:g} results/s each, 99% within {need.target.age_ms:g} ms", ""),
        ("4 precision", f"{need.precision}, loss of at most {need.loss_points:g} points", answer.engine.rpartition("-")[2]),
        ("5 runtime", need.runtime, answer.engine.rsplit("-", 2)[0]),
        ("6 margin", f"{need.margin:.0%} of CPU, accelerator and memory stay free", ""),
        ("7 cost", _asked_prices(need), f"{price} per 1,000 results" if price else ""),
    ]
    return markdown_table(("step", "required", "selected"), rows)


def _asked_prices(need: Need) -> str:
    if not need.prices:
        return "no prices"
    return ", ".join(f"{name}: {price:g} {need.currency} per hour".replace("  ", " ") for name, price in need.prices.items())


def _sources(machines: Iterable[MachinePlan]) -> str:
    lines = []
    for plan in machines:
        lines.append(f"- {plan.machine.name}: {_bench_line(plan.machine.report)}")
        lines += [f"    - {note}" for note in plan.notes]
    return "\n".join(lines) + "\n"


def _bench_line(report: BenchReport) -> str:
    quick = " --quick" if report.settings.quick else ""
    machine = report.machine
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 1e9:.1f} GB"
    return f"{machine.name}{memory}, {machine.system}; `vision-infer bench{quick}` of {report.date:%Y-%m-%d %H:%M} UTC"


def _images(names: Sequence[str]) -> str:
    return "".join(f"![{name.rpartition('.')[0].replace('-', ' ')}]({name})\n" for name in names)
