"""``vision-infer plan``: what a set of cameras needs, and what it costs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vision_infer.cli import options
from vision_infer.cli.capacity.bench import History, parse_size
from vision_infer.core.errors import OutputError, UsageError

if TYPE_CHECKING:
    from vision_infer.capacity.answer import Measured
    from vision_infer.capacity.need import Need
    from vision_infer.capacity.plan import MachinePlan
    from vision_infer.capacity.published import PublishedBound


def plan_command(
    need_file: Annotated[
        Path | None, typer.Argument(metavar="[NEED.yaml]", help="All of it in a file; options go before it.")
    ] = None,
    cameras: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH|1080p", help="What they send. Default: 1920x1080.")] = None,
    codec: Annotated[str | None, typer.Option(metavar="h264|hevc", help="The same. Default: h264.")] = None,
    source_fps: Annotated[float | None, typer.Option(metavar="F", help="Frames a second that each sends. Default: 15.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="F", help="Results a second of each. Default: 10.")] = None,
    target_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Age that 99 % of the results must not exceed. Default: 200.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="detect|classify|embed", help="Default: detect.")] = None,
    model: Annotated[str | None, typer.Option(help="Network. Default: nanodet-416.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="auto|fp32|bf16|fp16|int8", help="Default: auto.")] = None,
    runtime: Annotated[str | None, typer.Option(metavar="auto|NAME", help="Such as openvino. Default: auto.")] = None,
    margin: Annotated[float | None, typer.Option(metavar="0–1", help="Share that is to stay free. Default: 0.15.")] = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE=P", help="Of an hour: 'this machine=0.12'. Repeatable.")
    ] = None,
    currency: Annotated[str | None, typer.Option(metavar="EUR", help="Of the prices.")] = None,
    detections: Annotated[float | None, typer.Option(metavar="N", help="In a frame, on average: for their price.")] = None,
    viewers: Annotated[int | None, typer.Option(min=0, metavar="N", help="Cameras that are watched at the same time.")] = None,
    gate_saves: Annotated[
        float | None, typer.Option(metavar="0–1", help="What if a motion gate saves this share of the frames.")
    ] = None,
    substream: Annotated[str | None, typer.Option(metavar="WxH", help="What if this is sent. Default: 640x360.")] = None,
    other_model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What if it is this network; it needs a bench. Repeatable.")
    ] = None,
    bench: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="bench.json of another machine; its folder names it. Repeatable.")
    ] = None,
    devices: Annotated[Path | None, typer.Option(metavar="FILE", help="Devices with published figures, instead of ours.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write plan.md, plan.json and pictures there.")] = None,
    history: History = None,
    json_output: options.Json = False,
) -> None:
    """Say how many devices a set of cameras takes, what binds them, and what a result costs.

    It answers from the last 'vision-infer bench' of this machine, and from those of others that are given.
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
    _check_names(_prices(price or []), [one.name for one in machines] + [device.name for device in known])
    _tell(need, machines, [device for device in known if device.name not in {one.name for one in machines}], out, json_output)


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
    """What is given goes before what is there, field by field; None is not given."""
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
            raise UsageError(f"--price {text}: is no price", "write 'this machine=0.12'") from None
        if not name.strip():
            raise UsageError(f"--price {text}: names no device", "write 'this machine=0.12'")
    return found


def _check_names(prices: Mapping[str, float], names: Sequence[str]) -> None:
    for name in prices:
        if name not in names:
            raise UsageError(f"--price: there is no device {name!r} here", f"there are: {', '.join(dict.fromkeys(names))}")


def _machines(need: Need, history: Path | None, benches: Sequence[Path]) -> list[Measured]:
    from vision_infer.capacity.answer import Measured
    from vision_infer.capacity.history import read_history
    from vision_infer.capacity.need import THIS_MACHINE
    from vision_infer.capacity.this_machine import this_machine
    from vision_infer.core.geometry import Size
    from vision_infer.model.catalogue import home_dir

    key = this_machine().key
    mine = [one for one in reversed(read_history(history or home_dir(os.environ) / "bench.jsonl")) if one.machine.key == key]
    size = Size(need.video.width, need.video.height)
    # The right input goes first; then an undisturbed bench before a disturbed one, a longer one before a quick one, the last.
    mine.sort(key=lambda one: (not one.settings.fits(size), one.interrupted, one.disturbed, not one.pipeline, one.settings.quick))
    right = [one for one in mine if one.settings.model == need.model and one.engines]
    machines = [Measured(THIS_MACHINE, right[0], tuple(mine))] if right else []
    for path in benches:
        report = _read_bench(path)
        if report.settings.model != need.model:
            raise UsageError(f"{path}: is a bench of {report.settings.model}, not of {need.model}", "bench that network there")
        machines.append(Measured(path.absolute().parent.name or path.stem, report))
    if not machines:
        raise UsageError(
            f"no bench of {need.model} on this machine yet", f"vision-infer bench --model {need.model} (with --quick: a minute)"
        )
    return machines


def _read_bench(path: Path) -> Any:
    from pydantic import ValidationError

    from vision_infer.capacity.report import BenchReport
    from vision_infer.config.yaml_lines import read_text

    try:
        return BenchReport.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UsageError(f"{path}: is no bench.json of this version", "vision-infer bench --out DIR writes one") from error


def _tell(need: Need, machines: Sequence[Measured], others: Sequence[Any], out: Path | None, json_output: bool) -> None:
    from vision_infer.capacity.pictures import LEFT_OUT, can_draw
    from vision_infer.capacity.plan import plan_machine
    from vision_infer.capacity.plan_page import plan_page
    from vision_infer.capacity.plan_pictures import draw_plan
    from vision_infer.capacity.published import bound_of

    plans = [plan_machine(machine, need) for machine in machines]
    published = [bound_of(device, need) for device in others]
    pictures: list[str] = []
    if out is not None and can_draw():
        pictures = [path.name for path in draw_plan(need, plans[0], out)]
    page = plan_page(need, plans, published, pictures)
    plain = json.dumps(_finite(_plain(need, plans, published)), indent=1, allow_nan=False) + "\n"
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "plan.md").write_text(page, encoding="utf-8")
            (out / "plan.json").write_text(plain, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}", "name another folder with --out") from error
        if not can_draw():
            typer.echo(LEFT_OUT, err=True)
        for name in ("plan.md", "plan.json", *pictures):
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
                "best": None if plan.best is None else asdict(plan.best),
                "engines": [asdict(one) for one in plan.engines],
                "what_if": [asdict(one) for one in plan.what_if],
                "notes": list(plan.notes),
            }
            for plan in plans
        ],
        "published": [
            {"device": one.device.model_dump(mode="json"), "cameras_at_most": one.cameras, "says": one.says} for one in published
        ],
    }


def _finite(value: Any) -> Any:
    """The same with null for what is infinite: the age of results that never come."""
    if isinstance(value, dict):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
