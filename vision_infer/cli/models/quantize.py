"""``vision-infer model quantize``: convert a model to FP16 or INT8 and measure its loss of accuracy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.precision.quantization.quantize import QuantizeReport
    from vision_infer.precision.verification.agreement import Agreement

LAYERS_SHOWN = 10
CLASSES_SHOWN = 10


def quantize_command(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL", help="The name of an FP32 model, or a deployment graph (.onnx).", autocompletion=options.model_names
        ),
    ],
    data: Annotated[list[str], Option(metavar="SOURCE", help="Frames for calibration and evaluation. Repeatable.")],
    precision: Annotated[str, Option(metavar="int8|fp16", help="The precision of the new model.")] = "int8",
    form: Annotated[str, Option(metavar="cpu|tensorrt", help="The target of the INT8 graph.")] = "cpu",
    budget: Annotated[float, Option(min=0, metavar="POINTS", help="The maximum loss of accuracy, in points.")] = 1.0,
    accept_loss: Annotated[bool, Option("--accept-loss", help="Write it regardless of its loss, for 'auto' too.")] = False,
    name: Annotated[str | None, Option(help="Write a separate model. Default: next to its source, for 'auto'.")] = None,
    labels: Annotated[
        Path | None, Option(metavar="instances.json", help="Evaluate on these COCO annotations. Requires --images.")
    ] = None,
    images: Annotated[Path | None, Option(metavar="DIR", help="The folder of the images of --labels.")] = None,
    save_images: Annotated[Path | None, Option(metavar="DIR", help="Save the most different frames, FP32 on the left.")] = None,
    time_limit: Annotated[float, Option(min=1, metavar="SECONDS", help="The time limit of the search for FP32 layers.")] = 600.0,
    overwrite: options.Overwrite = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Convert a model to INT8 or FP16, measure its accuracy and speed on your own frames, and reject too large a loss."""
    from vision_infer.precision.quantization.quantize import QuantizeRequest, quantize_sizes

    if (labels is None) != (images is None):
        raise UsageError("--labels and --images must be used together", "Write --labels instances.json --images DIR")
    judge = None
    if labels is not None and images is not None:
        from vision_infer.precision.labeled import labeled_judge

        judge = labeled_judge(labels, images)
    request = QuantizeRequest(
        model,
        tuple(data),
        precision,  # type: ignore[arg-type]
        form,  # type: ignore[arg-type]
        budget,
        accept_loss,
        name,
        model_dir,
        overwrite,
        time_limit,
        save_images,
        judge=judge,
        ask=lambda refusal: not (quiet or json_output) and _ask(refusal),
    )
    reports = []
    for report in quantize_sizes(request, (lambda _: None) if quiet else _print_message):
        reports.append(report.to_dict())
        if not json_output:
            _print(report)
            typer.echo(f"wrote {report.path}; run it with: vision-infer run VIDEO --model {name or model}")
    if json_output:
        typer.echo(json.dumps({"graphs": reports}, indent=2))


def _ask(refusal: str) -> bool:
    """Ask on a terminal, because a second command would repeat the search; elsewhere, the answer is no."""
    on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return on_terminal and typer.confirm(f"{refusal}. Accept this loss?", err=True)


def _print_message(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(report: QuantizeReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    found = report.found
    if found is not None and found.recipe.kept:
        console.print(f"{len(found.recipe.kept)} of {found.count} layers stay in FP32. Layers with the largest error:")
        for layer in found.layers[:LAYERS_SHOWN]:
            precision = "fp32" if layer.name in found.recipe.kept else "int8"
            console.print(f"  {layer.name}  {precision}  noise {layer.error:.2%}", markup=False, soft_wrap=True)
    if found is not None and not found.finished:
        console.print("the search reached its time limit; a longer --time-limit may keep fewer layers in FP32")
    for engine in report.engines:
        lost, times = engine.agreement.lost, engine.times_faster.times
        speed = f"{times.median:.2f} times as fast as FP32 ({times.low:.2f} to {times.high:.2f}"
        speed += ", by CPU time, because other programs were running)" if engine.times_faster.by_cpu else ")"
        console.print(f"{engine.engine}: loss of {lost} points on {engine.agreement.frames} frames, {speed}", soft_wrap=True)
        console.print(f"  {_figures(engine.agreement)}", soft_wrap=True)
        for entry in engine.agreement.classes[:CLASSES_SHOWN] if engine is report.engines[0] else ():
            row = f"  {entry.label}: {entry.found} of {entry.objects} detected again, IoU {entry.mean_iou:.3f}, "
            console.print(f"{row}score {entry.score_change:+.3f}, count {entry.count_change:+d}", markup=False, soft_wrap=True)
    if report.accepted:
        console.print(f"{report.best.engine}: loss accepted, so 'auto' may select it: {report.accepted}", soft_wrap=True)
    if max(engine.times_faster.times.median for engine in report.engines) < 1:
        console.print("FP32 is faster on this machine, so 'auto' keeps it", soft_wrap=True)
    for path in report.pictures:
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _figures(agreement: Agreement) -> str:
    """Return the agreement of an engine with FP32, on one line."""
    drift, figures = agreement.drift, agreement.figures
    if drift is None:
        return ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in figures.items())
    count = f"{drift.count:+.1f} % detections (95 % {drift.count_low:+.1f} to {drift.count_high:+.1f}) of {drift.objects}"
    scores = f"scores {drift.score:+.3f} on average, mean difference {drift.score_difference:.3f}"
    again = f"{drift.found:.1f} % detected again, IoU {drift.iou:.3f}"
    again += "" if drift.details is None else f", details {drift.details:.3f}"
    return f"{again}; {count}; {scores}; agreement {figures['agreement']:.1f}"
