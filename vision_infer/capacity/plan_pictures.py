"""The pictures of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vision_infer.capacity.answer import curve_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.pictures import BAD, GOOD, INK, new_figure, save
from vision_infer.capacity.plan import MachinePlan


def draw_plan(need: Need, plan: MachinePlan, folder: Path) -> list[Path]:
    """How ages rise with the number of cameras, and what else would carry how many: PNG files.

    Raises:
        OutputError: one cannot be written.
    """
    made = [save(_ages(need, plan), folder / "plan-ages.png")]
    if any(one.answer is not None for one in plan.what_if):
        made.append(save(_variants(need, plan), folder / "plan-what-if.png"))
    return made


def _ages(need: Need, plan: MachinePlan) -> Any:
    assert plan.best is not None
    best = plan.best
    curve = curve_of(plan.machine, need, best)
    figure, axes = new_figure(f"Age by number of cameras on {plan.machine.name}, {best.engine}", "cameras", "age of results [ms]")
    cameras = [number for number, _ in curve]
    for name, style in (("age_p50_ms", ":"), ("age_p95_ms", "--"), ("age_p99_ms", "-")):
        axes.plot(cameras, [getattr(found, name) for _, found in curve], style, color=INK, label=name[4:7], linewidth=1.3)
    axes.axhline(need.target.age_ms, color=BAD, linewidth=0.9, label=f"target, {need.target.age_ms:g} ms")
    if best.most:
        axes.axvspan(0, best.most, color=GOOD, alpha=0.12, label=f"carried with {need.margin:.0%} to spare: {best.most}")
    if need.cameras <= cameras[-1]:
        axes.axvline(need.cameras, color=GOOD, linewidth=1.2, linestyle="--", label=f"asked: {need.cameras}")
    busy = axes.twinx()
    busy.plot(cameras, [found.cpu * 100 for _, found in curve], color="#3465a4", linewidth=1, alpha=0.8)
    busy.set_ylabel("processor busy [%]", color="#3465a4")
    busy.set_ylim(0, 105)
    busy.spines["top"].set_visible(False)
    axes.set_xlim(left=0, right=cameras[-1])
    axes.set_ylim(0, 1.45 * max(need.target.age_ms, best.outcome.age_p99_ms))
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    return figure


def _variants(need: Need, plan: MachinePlan) -> Any:
    assert plan.best is not None
    figure, axes = new_figure("What if: cameras on one device", "cameras", "")
    bars = [("as asked", plan.best.most), *((one.what, one.answer.most) for one in plan.what_if if one.answer is not None)]
    bars.reverse()
    names = [name if len(name) < 46 else name[:45] + "…" for name, _ in bars]
    axes.barh(names, [most for _, most in bars], color=[GOOD if name == "as asked" else "#8aa7a0" for name in names], height=0.6)
    for place, (_, most) in enumerate(bars):
        axes.annotate(str(most), (most, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(need.cameras, color=INK, linewidth=1, linestyle="--")
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")
    return figure
