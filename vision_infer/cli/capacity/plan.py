"""``vision-infer plan``: estimate the machines and the cost for a set of cameras."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.capacity.bench import History, parse_size
from vision_infer.core.errors import OutputError, UsageError

if TYPE_CHECKING:
    from vision_infer.capacity.answer import MeasuredMachine
    from vision_infer.capacity.need import Need
    from vision_infer.capacity.plan import MachinePlan, PublishedBound


def plan_command(
    need_file: Annotated[Path | None, Argument(metavar="[NEED.yaml]", help="A file of requirements.")] = None,
    cameras: Annotated[int | None, Option(min=1, help="The number of cameras.")] = None,
    size: Annotated[str | None, Option(metavar="WxH|1080p", help="The resolution of the cameras. Default: 1920x1080.")] = None,
    codec: Annotated[str | None, Option(metavar="h264|hevc", help="The video codec of the cameras. Default: h264.")] = None,
    source_fps: Annotated[float | None, Option(metavar="F", help="The frame rate of each camera. Default: 15.")] = None,
    fps: Annotated[float | None, Option(metavar="F", help="The wanted results per second of each camera. Default: 10.")] = None,
    tiles: Annotated[
        str | None, Option(metavar="SIZE|ROWSxCOLUMNS", help="The tiles into which each frame is cut. Default: none.")
    ] = None,
    target_ms: Annotated[float | None, Option(metavar="MS", help="The maximum age of 99 % of the results. Default: 200.")] = None,
    task: Annotated[str | None, Option(metavar="detect|classify|embed", help="The task. Default: detect.")] = None,
    model: Annotated[str | None, Option(help="The model. Default: nanodet-416.")] = None,
    precision: Annotated[str | None, Option(metavar="auto|fp32|bf16|fp16|int8", help="The precision. Default: auto.")] = None,
    runtime: Annotated[str | None, Option(metavar="auto|NAME", help="The runtime, such as openvino. Default: auto.")] = None,
    margin: Annotated[float | None, Option(metavar="0–1", help="The share of the capacity to keep free. Default: 0.15.")] = None,
    price: Annotated[list[str] | None, Option(metavar="DEVICE=P", help="The price per hour. Repeatable.")] = None,
    currency: Annotated[str | None, Option(metavar="EUR", help="The currency of the prices. Default: EUR.")] = None,
    detections: Annotated[float | None, Option(metavar="N", help="The mean number of detections per frame.")] = None,
    viewers: Annotated[int | None, Option(min=0, metavar="N", help="The number of watched cameras.")] = None,
    gate_saves: Annotated[
        float | None, Option(metavar="0–1", help="Also estimate with a motion gate that saves this share.")
    ] = None,
    substream: Annotated[str | None, Option(metavar="WxH", help="Also estimate with this resolution. Default: 640x360.")] = None,
    other_model: Annotated[list[str] | None, Option(metavar="NAME", help="Also estimate with this model. Repeatable.")] = None,
    bench: Annotated[list[Path] | None, Option(metavar="FILE", help="The bench.json of another machine. Repeatable.")] = None,
    devices: Annotated[Path | None, Option(metavar="FILE", help="A file of devices with published figures.")] = None,
    out: Annotated[Path | None, Option(metavar="DIR", help="Write plan.md, plan.json and charts to this folder.")] = None,
    history: History = None,
    json_output: options.Json = False,
) -> None:
    """Estimate the number of devices for a set of cameras, their bottleneck, and the cost per result.

    The estimate uses the last 'vision-infer bench' of this machine, and those of other machines given by --bench.
    """
    from vision_infer.capacity.devices import read_devices

    video: dict[str, Any] = {"codec": codec, "fps": source_fps}
    if size is not None:
        video["width"], video["height"] = parse_size(size)
    what_if = {"gate_saves": gate_saves, "substream": None if substream is None else parse_size(substream), "models": other_model}
    given = {
        "cameras": cameras,
        "task": task,
        "model": model,
        "video": video,
        "tiles": tiles,
        "target": {"fps": fps, "age_ms": target_ms},
        "precision": precision,
        "runtime": runtime,
        "margin": margin,
        "currency": currency,
        "detections_per_frame": detections,
        "viewers": viewers,
        "prices": _prices(price or []),
        "what_if": what_if,
    }
    need = _need(need_file, given)
    known = read_devices(devices)
    default = {device.name: device.price_per_hour for device in known if device.price_per_hour is not None}
    need = need.model_copy(update={"prices": {**default, **need.prices}})
    machines = _machines(need, history, bench or [])
    _check_names(_prices(price or []), [machine.name for machine in machines] + [device.name for device in known])
    _report(
        need,
        machines,
        [device for device in known if device.name not in {machine.name for machine in machines}],
        out,
        json_output,
    )


def _need(file: Path | None, given: dict[str, Any]) -> Need:
    from pydantic import ValidationError

    from vision_infer.capacity.need import HINT, Need, read_need
    from vision_infer.config.validation_errors import SettingsError, problems_of

    base = {} if file is None else read_need(file).model_dump(exclude_unset=True)
    try:
        return Need.model_validate(_over(base, given))
    except ValidationError as error:
        raise SettingsError(problems_of(error, Need), HINT) from None


def _over(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge values field by field; given values take precedence, and None is ignored."""
    whole = dict(base)
    for name, value in given.items():
        if isinstance(value, dict):
            whole[name] = _over(whole.get(name, {}), value)
        elif value is not None:
            whole[name] = value
    return whole


def _prices(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--price {text}: is not a valid price", "Write 'this machine=0.12'.") from None
        if not name.strip():
            raise UsageError(f"--price {text}: has no device", "Write 'this machine=0.12'.")
    return found


def _check_names(prices: Mapping[str, float], names: Sequence[str]) -> None:
    for name in prices:
        if name not in names:
            raise UsageError(f"--price: unknown device {name!r}", f"the devices are: {', '.join(dict.fromkeys(names))}")


def _machines(need: Need, history: Path | None, benches: Sequence[Path]) -> list[MeasuredMachine]:
    from vision_infer.capacity.answer import MeasuredMachine
    from vision_infer.capacity.history import read_history
    from vision_infer.capacity.need import THIS_MACHINE
    from vision_infer.capacity.this_machine import this_machine
    from vision_infer.core.geometry import Size
    from vision_infer.model.catalog import home_dir

    key = this_machine().key
    reports = reversed(read_history(history or home_dir(os.environ) / "bench.jsonl"))
    own = [report for report in reports if report.machine.key == key]
    size = Size(need.video.width, need.video.height)
    # Prefer the same input size, then undisturbed benchmarks, longer ones, and the latest.
    own.sort(key=lambda r: (not r.settings.fits(size), r.interrupted, r.disturbed, not r.pipeline, r.settings.quick))
    usable = [report for report in own if report.settings.model == need.model and report.engines]
    machines = [MeasuredMachine(THIS_MACHINE, usable[0], tuple(own))] if usable else []
    for path in benches:
        report = _read_bench(path)
        if report.settings.model != need.model:
            raise UsageError(
                f"{path}: is a benchmark of {report.settings.model}, not of {need.model}",
                "Run vision-infer bench with that model there.",
            )
        machines.append(MeasuredMachine(path.absolute().parent.name or path.stem, report))
    if not machines:
        raise UsageError(
            f"there is no benchmark of {need.model} on this machine",
            f"Run: vision-infer bench --model {need.model} (--quick takes a minute)",
        )
    return machines


def _read_bench(path: Path) -> Any:
    from pydantic import ValidationError

    from vision_infer.capacity.report import BenchReport
    from vision_infer.config.yaml_lines import read_text

    try:
        return BenchReport.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UsageError(
            f"{path}: is not a bench.json of this version", "Create one with: vision-infer bench --out DIR"
        ) from error


def _report(need: Need, machines: Sequence[MeasuredMachine], others: Sequence[Any], out: Path | None, json_output: bool) -> None:
    from vision_infer.capacity.charts import LEFT_OUT, can_draw, draw_plan
    from vision_infer.capacity.plan import bound_of, plan_machine
    from vision_infer.capacity.plan_page import plan_page

    plans = [plan_machine(machine, need) for machine in machines]
    published = [bound_of(device, need) for device in others]
    charts: list[str] = []
    if out is not None and can_draw():
        charts = [path.name for path in draw_plan(need, plans[0], out)]
    page = plan_page(need, plans, published, charts)
    plain = json.dumps(_finite(_plain(need, plans, published)), indent=1, allow_nan=False) + "\n"
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "plan.md").write_text(page, encoding="utf-8")
            (out / "plan.json").write_text(plain, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}", "Use another folder for --out.") from error
        if not can_draw():
            typer.echo(LEFT_OUT, err=True)
        for name in ("plan.md", "plan.json", *charts):
            typer.echo(f"wrote {out / name}", err=True)
    if json_output:
        typer.echo(plain, nl=False)
    elif out is None:
        _print(page)
    else:
        typer.echo(page.split("\n\n")[1].replace("**", ""))


def _print(page: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(page))
    else:
        typer.echo(page, nl=False)


def _plain(need: Need, plans: Sequence[MachinePlan], published: Sequence[PublishedBound]) -> dict[str, Any]:
    return {
        "need": need.model_dump(mode="json"),
        "machines": [
            {
                "name": plan.machine.name,
                "machine": plan.machine.report.machine.model_dump(mode="json"),
                "bench": plan.machine.report.date.isoformat(),
                "best": asdict(plan.best),
                "engines": [asdict(answer) for answer in plan.engines],
                "what_if": [asdict(answer) for answer in plan.what_if],
                "notes": list(plan.notes),
            }
            for plan in plans
        ],
        "published": [
            {"device": bound.device.model_dump(mode="json"), "cameras_at_most": bound.cameras, "explanation": bound.explanation}
            for bound in published
        ],
    }


def _finite(value: Any) -> Any:
    """Replace infinite numbers, the age of results that never come, by null."""
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
