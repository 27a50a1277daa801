"""``vision-infer model quantize``: a model in FP16 or INT8, with the proof of what it loses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_infer.cli import options
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.precision.quantization.quantize import QuantizeReport
    from vision_infer.precision.verification.agreement import Agreement

LAYERS_SHOWN = 10
CLASSES_SHOWN = 10


def quantize_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model in FP32, or a deployment graph (.onnx).")],
    data: Annotated[
        list[str],
        typer.Option(metavar="SOURCE", help="Frames to calibrate on and to judge by: videos, folders, streams.yaml. Repeatable."),
    ],
    precision: Annotated[str, typer.Option(metavar="int8|fp16", help="What it becomes.")] = "int8",
    form: Annotated[str, typer.Option(metavar="cpu|tensorrt", help="Of INT8: no form suits both.")] = "cpu",
    budget: Annotated[float, typer.Option(min=0, metavar="POINTS", help="How much accuracy may be lost.")] = 1.0,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Write it whatever it loses.")] = False,
    name: Annotated[str | None, typer.Option(help="A model of its own. Default: beside its source, for 'auto'.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="instances.json", help="Judge by these annotations in COCO's form; needs --images.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the pictures of --labels.")] = None,
    pictures: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw the frames that differ most, FP32 left.")] = None,
    time_limit: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For the search of layers.")] = 600.0,
    overwrite: options.Overwrite = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Convert a model to INT8 or FP16, measure on your own frames what it loses and gains, and refuse what loses too much."""
    from vision_infer.precision.quantization.quantize import QuantizeRequest, quantize_sizes

    if (labels is None) != (images is None):
        raise UsageError("--labels and --images: one needs the other", "write --labels instances.json --images DIR")
    judge = None
    if labels is not None and images is not None:
        from vision_infer.precision.labelled import labelled_judge

        judge = labelled_judge(labels, images)
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
        pictures,
        judge=judge,
    )
    reports = []
    for report in quantize_sizes(request, (lambda _: None) if quiet else _say):
        reports.append(report.to_dict())
        if not json_output:
            _print(report)
            fastest = max(report.proofs, key=lambda proof: proof.times_faster.times.median)
            # What was accepted in spite of its loss is taken where it is named, and by 'auto' never.
            named = f" --engine {fastest.engine}" if report.accepted and name is None else ""
            typer.echo(f"wrote {report.path}; run it with: vision-infer run VIDEO --model {name or model}{named}")
    if json_output:
        typer.echo(json.dumps({"graphs": reports}, indent=2))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(report: QuantizeReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    found = report.found
    if found is not None and found.recipe.kept:
        console.print(f"{len(found.recipe.kept)} of {found.count} layers stay in FP32; those that hurt most:")
        for layer in found.layers[:LAYERS_SHOWN]:
            told = "fp32" if layer.name in found.recipe.kept else "int8"
            console.print(f"  {layer.name}  {told}  noise {layer.error:.2%}", markup=False, soft_wrap=True)
    if found is not None and not found.finished:
        console.print("the search ended with its time; a longer --time-limit may keep fewer layers")
    for proof in report.proofs:
        lost, times = proof.agreement.lost, proof.times_faster.times
        speed = f"{times.median:.2f} times as fast as FP32 ({times.low:.2f} to {times.high:.2f}"
        speed += ", by processor time: other programs kept it busy)" if proof.times_faster.by_cpu else ")"
        console.print(f"{proof.engine}: {lost} points lost on {proof.agreement.frames} frames, {speed}", soft_wrap=True)
        console.print(f"  {_figures(proof.agreement)}", soft_wrap=True)
        for one in proof.agreement.classes[:CLASSES_SHOWN] if proof is report.proofs[0] else ():
            row = f"  {one.label}: {one.found} of {one.objects} found again, IoU {one.mean_iou:.3f}, "
            console.print(f"{row}score {one.score_change:+.3f}, count {one.count_change:+d}", markup=False, soft_wrap=True)
    if report.accepted:
        console.print(f"accepted as it is: {report.accepted}", soft_wrap=True)
    if max(proof.times_faster.times.median for proof in report.proofs) < 1:
        console.print("FP32 is faster on this machine: 'auto' stays with it", soft_wrap=True)
    for path in report.pictures:
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _figures(agreement: Agreement) -> str:
    """What an engine gives beside FP32, in a line."""
    drift, figures = agreement.drift, agreement.figures
    if drift is None:
        return ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in figures.items())
    count = f"{drift.count:+.1f} % detections (95 % {drift.count_low:+.1f} to {drift.count_high:+.1f}) of {drift.objects}"
    scores = f"scores {drift.score:+.3f} in the mean, {drift.score_difference:.3f} either way"
    return f"{drift.found:.1f} % found again, IoU {drift.iou:.3f}; {count}; {scores}; agreement {figures['agreement']:.1f}"
