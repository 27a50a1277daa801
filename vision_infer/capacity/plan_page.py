"""A plan as a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vision_infer.capacity.answer import CapacityAnswer
from vision_infer.capacity.checked import checked
from vision_infer.capacity.need import Need
from vision_infer.capacity.plan import MachinePlan, Variant
from vision_infer.capacity.published import PublishedBound
from vision_infer.capacity.report import BenchReport

METHOD = """\
The number of cameras comes from a simulation of the service's own scheduler (mailboxes, pacing, shares, batches: the same
code), in which decoding, conversion, engine and results take the CPU time that `vision-infer bench` measured with the cores
busy. Pictures come by the clock; an age counts from the moment at which the picture was due, and a picture that gave no
result counts as missing. A device carries a number of cameras if 99% of the results are within the target, at least 98% of
the results that are wanted come, and the margin stays free on the processor, on an accelerator, and in memory."""


def plan_page(
    need: Need, machines: Sequence[MachinePlan], published: Sequence[PublishedBound], pictures: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        need: what is asked.
        machines: those that were measured, the best first.
        published: those that were not.
        pictures: their files' names, from the page's folder on.
    """
    first = machines[0]
    parts = [
        f"# {need.says()}\n",
        _answer(need, machines),
        _pictures(pictures[:1]),
        "## Devices\n",
        _devices(need, machines),
        _cpu_or_gpu(machines),
    ]
    if published:
        parts += ["### Not measured\n", _published(published)]
    for plan in machines:
        if plan.best is not None:
            parts += [f"## What binds on {plan.machine.name}\n", plan.best.why + "\n", _use(need, plan.best), _memory(plan.best)]
            parts += ["### Engines\n", _engines(plan)]
    parts += ["## What if\n", _what_if(need, first), _pictures(pictures[1:])]
    parts += [
        "## The seven steps\n",
        _steps(need, first),
        "## How it was reckoned\n",
        METHOD + "\n",
        _sources(machines),
        _checked(machines),
    ]
    return "\n".join(part for part in parts if part)


def _cameras(count: int) -> str:
    return "1 camera" if count == 1 else f"{count} cameras"


def _answer(need: Need, machines: Sequence[MachinePlan]) -> str:
    best = min(machines, key=lambda plan: _rank(plan.best))
    answer = best.best
    if answer is None or answer.devices is None:
        nearest = "" if answer is None else f" Nearest on {best.machine.name}: {answer.nearest}."
        return f"**No device that was measured meets the target.**{nearest}\n"
    margin = f"{need.margin:.0%} to spare"
    name = best.machine.name
    one = answer.devices == 1
    does = f"**{'One' if one else answer.devices} × {name} {'carries' if one else 'carry'} them, with {margin}.**"
    does += f" Each device carries {_cameras(answer.most)} with `{answer.engine}`"
    does += f" at batch {answer.batch}." if answer.batch > 1 else "."
    found = answer.outcome
    on = f"{_cameras(answer.each)} on {'it' if one else 'the fullest of them'}"
    ages = f"{found.age_p50_ms:.0f} ms (half of them), {found.age_p95_ms:.0f} ms (95%), {found.age_p99_ms:.0f} ms (99%)"
    does += f" With {on}, results come within {ages}; what is used up first is {answer.binding}."
    if answer.money is not None:
        money = answer.money
        does += (
            f" It costs {_price(money.month, need)} a month, {_price(money.stream_month, need)} for each camera, "
            f"{_price(money.per_1000_frames, need)} for 1,000 results."
        )
    return f"{does}\n{_doubts(need, best)}"


def _doubts(need: Need, plan: MachinePlan) -> str:
    """What speaks against the answer, beneath it."""
    report, answer = plan.machine.report, plan.best
    asked, video = report.settings, need.video
    same = (asked.codec, asked.width, asked.height, asked.source_fps) == (video.codec, video.width, video.height, video.fps)
    same = same and (asked.fps, asked.target_ms) == (need.fps, need.target.age_ms)
    found = []
    if report.disturbed:
        found.append(
            f"while it was benched, other programs used {report.other_cores:.1f} of its {report.machine.cores} cores: this holds "
            "for a quiet machine, and should be benched again on one"
        )
    elif same and answer is not None and report.carries is not None and report.carries < answer.most:
        found.append(f"in the bench's own runs it carried {report.carries}, and not {answer.most}")
    return "".join(f"\n**Mind:** {one}.\n" for one in found)


def _rank(answer: CapacityAnswer | None) -> tuple[float, float, float]:
    """The cheapest first where prices are known, then the one of which fewest are needed."""
    if answer is None or answer.devices is None:
        return math.inf, math.inf, math.inf
    return answer.money.month if answer.money else math.inf, answer.devices, answer.outcome.age_p99_ms


def _devices(need: Need, machines: Sequence[MachinePlan]) -> str:
    head = ("device", "engine", "batch", "cameras each", f"for {need.cameras}", "first used up", "age p50 / p95 / p99")
    money = ("a month", "a camera-month", "1,000 results", "the same, full", "1,000 detections")
    rows = []
    for plan in machines:
        answer = plan.best
        if answer is None:
            continue
        found = answer.outcome
        row = [
            f"{plan.machine.name}: {plan.machine.report.machine.name}",
            f"`{answer.engine}`",
            str(answer.batch),
            str(answer.most),
        ]
        row += ["none is enough" if answer.devices is None else str(answer.devices), answer.binding]
        row.append(f"{found.age_p50_ms:.0f} / {found.age_p95_ms:.0f} / {found.age_p99_ms:.0f} ms")
        costs = answer.money
        if costs is None:
            row += [_no_price(plan)] + [""] * 4
        else:
            detections = "not asked" if costs.per_1000_detections is None else _price(costs.per_1000_detections, need)
            row += [_price(costs.month, need), _price(costs.stream_month, need), _price(costs.per_1000_frames, need)]
            row += [_price(costs.per_1000_frames_full, need), detections]
        rows.append(row)
    turned = [(name, *(row[number] for row in rows)) for number, name in enumerate((*head, *money))]
    kept = [row for row in turned if any(row[1:])]
    return _table(("", *(row[0] for row in rows)), kept[1:])


def _no_price(plan: MachinePlan) -> str:
    if plan.best is not None and plan.best.devices is None:
        return ""
    return f"no price: `--price '{plan.machine.name}=0.50'`"


def _cpu_or_gpu(machines: Sequence[MachinePlan]) -> str:
    by_kind: dict[bool, list[CapacityAnswer]] = {True: [], False: []}
    for plan in machines:
        for answer in plan.engines:
            by_kind[answer.costs.accelerator].append(answer)
    if not by_kind[True]:
        return (
            "**CPU or GPU:** no GPU was measured, so that nothing is said of one. Run `vision-infer bench --out DIR` on a "
            "machine with a GPU, and give its file: `vision-infer plan … --bench DIR/bench.json`.\n"
        )
    if not by_kind[False]:
        return "**CPU or GPU:** no engine of a processor was measured.\n"
    cpu, gpu = (max(found, key=lambda one: one.most) for found in (by_kind[False], by_kind[True]))
    return f"**CPU or GPU:** a processor carries {cpu.most} (`{cpu.engine}`), a GPU {gpu.most} (`{gpu.engine}`).\n"


def _published(bounds: Sequence[PublishedBound]) -> str:
    rows = []
    for one in bounds:
        memory = "" if one.device.memory_gb is None else f"{one.device.memory_gb:g} GB"
        most = "not known" if one.cameras is None else f"{one.cameras}, by decoding alone"
        rows.append((one.device.name, memory, most, one.says))
    table = _table(("device", "memory", "cameras at most", "by what"), rows)
    return table + "\nThese are others' figures, and no forecast: what the network costs there was not measured.\n"


def _use(need: Need, answer: CapacityAnswer) -> str:
    rows: list[tuple[str, str, str]] = []
    names = {"decode": "decode", "convert": "conversion", "compute": "compute", "rest": "results"}
    found, edge = answer.outcome, answer.edge
    for part, name in names.items():
        if found.shares.get(part) or edge.shares.get(part):
            rows.append((f"processor: {name}", f"{found.shares.get(part, 0):.0%}", f"{edge.shares.get(part, 0):.0%}"))
    rows.append(("processor, all", f"{found.cpu:.0%}", f"{edge.cpu:.0%}"))
    if answer.costs.accelerator:
        rows.append(("accelerator: compute, copy included", f"{found.accelerator:.0%}", f"{edge.accelerator:.0%}"))
    if answer.costs.decoders:
        rows.append(("decoding hardware", f"{found.decoders:.0%}", f"{edge.decoders:.0%}"))
    if answer.network_mbit_s is not None:
        mbit = answer.network_mbit_s / answer.each
        limit = "" if need.network_mbit_s is None else f" of {need.network_mbit_s:g}"
        rows.append(("network, Mbit/s", f"{answer.network_mbit_s:.0f}{limit}", f"{mbit * (answer.most + 1):.0f}{limit}"))
    if not answer.costs.accelerator:
        rows.append(("copy to the device", "none", "none"))
    rows.append(("results that come", f"{found.delivered:.1%}", f"{edge.delivered:.1%}"))
    rows.append(("age p99", f"{found.age_p99_ms:.0f} ms", f"{edge.age_p99_ms:.0f} ms"))
    return _table(("", f"with {answer.each}", f"with {answer.most + 1}: too many"), rows)


def _memory(answer: CapacityAnswer) -> str:
    memory = answer.memory
    mb = "{:.0f} MB".format
    rows = [
        ("program", mb(memory.program / 1e6)),
        ("engine", mb(memory.engine / 1e6)),
        ("its buffers", mb(memory.activations / 1e6)),
        (f"{answer.each} streams: decoders' surfaces, pictures on their way", mb(memory.streams / 1e6)),
        ("preview: packets since the last key frame", mb(memory.preview / 1e6)),
        ("all", mb(memory.needed / 1e6) + ("" if memory.total is None else f" of {memory.total / 1e9:.1f} GB")),
    ]
    how = "as it grew while streams were run" if memory.measured else "reckoned from the size of the pictures"
    return _table((f"memory ({how})", ""), rows)


def _engines(plan: MachinePlan) -> str:
    rows = []
    for answer in plan.engines:
        loss = next(row.loss_points for row in plan.machine.report.engines if row.engine == answer.engine)
        told = "not measured" if loss is None else f"{loss:g} points"
        ms = answer.costs.batch_ms(answer.batch)
        age = f"{answer.outcome.age_p99_ms:.0f} ms" if answer.most else "—"
        rows.append((f"`{answer.engine}`", str(answer.batch), f"{ms:.1f} ms", told, str(answer.most), age))
    return _table(("engine", "best batch", "a batch takes", "accuracy lost, at most", "cameras", "age p99 as planned"), rows)


def _what_if(need: Need, plan: MachinePlan) -> str:
    rows = [_variant(need, Variant("**as asked**", plan.best))]
    rows += [_variant(need, one) for one in plan.what_if]
    return _table(
        ("what if", "cameras on one device", f"devices for {need.cameras}", "age p99", "first used up", "a month"), rows
    )


def _variant(need: Need, one: Variant) -> tuple[str, ...]:
    answer = one.answer
    if answer is None:
        return one.what, one.why_not or "not known", "", "", "", ""
    devices = "none is enough" if answer.devices is None else str(answer.devices)
    month = "" if answer.money is None else _price(answer.money.month, need)
    age = f"{answer.outcome.age_p99_ms:.0f} ms"
    return one.what, str(answer.most), devices, age, answer.binding, month


def _steps(need: Need, plan: MachinePlan) -> str:
    answer = plan.best
    report = plan.machine.report
    row = next((one for one in report.engines), None)
    size = "" if row is None else f", {row.input_width}×{row.input_height}"
    taken = "none" if answer is None else answer.engine
    rows = [
        ("1 task", need.task, ""),
        ("2 network and size", need.model, f"{need.model}{size}"),
        ("3 targets", f"{need.fps:g} results/s each, 99% within {need.target.age_ms:g} ms", ""),
        ("4 precision", f"{need.precision}, at most {need.loss_points:g} points lost", taken.rpartition("-")[2]),
        ("5 runtime", need.runtime, taken.rsplit("-", 2)[0]),
        ("6 margin", f"{need.margin:.0%} of processor, accelerator and memory stay free", ""),
        ("7 cost of a useful output", _asked_prices(need), _taken_price(need, answer)),
    ]
    return _table(("step", "asked", "taken"), rows)


def _asked_prices(need: Need) -> str:
    if not need.prices:
        return "no prices were given"
    return ", ".join(f"{name}: {price:g} {need.currency} an hour".replace("  ", " ") for name, price in need.prices.items())


def _taken_price(need: Need, answer: CapacityAnswer | None) -> str:
    return "" if answer is None or answer.money is None else f"{_price(answer.money.per_1000_frames, need)} for 1,000 results"


def _sources(machines: Iterable[MachinePlan]) -> str:
    lines = []
    for plan in machines:
        lines.append(f"- {plan.machine.name}: {_told(plan.machine.report)}")
        lines += [f"    - {note}" for note in plan.notes]
    return "\n".join(lines) + "\n"


def _checked(machines: Iterable[MachinePlan]) -> str:
    """The simulation against the runs of the bench."""
    parts = []
    for plan in machines:
        rows = []
        for row, found in checked(plan.machine.report):
            ages = f"{found.age_p50_ms:.0f} / {found.age_p95_ms:.0f} ms", f"{row.age_p50_ms:.0f} / {row.age_p95_ms:.0f} ms"
            rows.append(
                (str(row.streams), f"{found.results_per_s:.1f}", f"{row.results_per_s:.1f}", *ages, f"{row.other_cores:.1f}")
            )
        if rows:
            asked = plan.machine.report.settings
            video = f"{asked.codec} {asked.width}×{asked.height} at {asked.source_fps:g} frames/s, {asked.fps:g} results/s each"
            head = (
                "streams",
                "results/s, simulated",
                "measured",
                "age p50 / p95, simulated",
                "measured",
                "cores that others used",
            )
            parts.append(f"The simulation against the bench's own runs on {plan.machine.name} ({video}):\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _told(report: BenchReport) -> str:
    quick = " --quick" if report.settings.quick else ""
    machine = report.machine
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 1e9:.1f} GB"
    return f"{machine.name}{memory}, {machine.system}; `vision-infer bench{quick}` of {report.date:%Y-%m-%d %H:%M} UTC"


def _price(value: float, need: Need) -> str:
    digits = 2 if value >= 1 else 4
    return f"{value:.{digits}f} {need.currency}".strip()


def _pictures(names: Sequence[str]) -> str:
    return "".join(f"![{name.rpartition('.')[0].replace('-', ' ')}]({name})\n" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
