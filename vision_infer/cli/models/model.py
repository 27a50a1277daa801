"""``vision-infer model``: list, import, export and evaluate models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.models.export import export_command
from vision_infer.cli.models.next_step import print_next_step
from vision_infer.cli.models.pull import pull_command
from vision_infer.cli.models.quantize import quantize_command
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.core.geometry import Size
    from vision_infer.model.catalog import ModelEntry
    from vision_infer.model.pull.available import AvailableModel

app = typer.Typer(help="List, show, download, import, export, quantize and evaluate models.", no_args_is_help=True)
app.command("quantize")(quantize_command)
app.command("pull")(pull_command)
app.command("export")(export_command)


@app.command("list")
def list_command(
    available: Annotated[bool, Option("--available", help="List the models of the catalog, which can be downloaded.")] = False,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> None:
    """List the models that can be run by name."""
    from vision_infer.model.catalog import list_models

    entries = list_models(model_dir)
    if available:
        _list_available({entry.name for entry in entries}, json_output)
        return
    if json_output:
        typer.echo(json.dumps([_row(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        if entry.card is None or entry.error:
            typer.echo(f"{entry.name}  {entry.origin}  invalid: {entry.error}")
            continue
        card = entry.card
        labels = f"{len(card.labels)} labels" if card.labels else "no labels"
        accuracy = "".join(f", {figure.metric} {figure.value:g} on {figure.dataset}" for figure in card.accuracy[:1])
        sizes = " and ".join(str(size) for size in _sizes_of(entry))
        typer.echo(f"{entry.name}  {entry.origin}  {card.task}, {sizes}, {labels}{accuracy}, {card.license or 'no license'}")


@app.command()
def show(
    model: Annotated[str, Argument(metavar="MODEL", help="The name of a model.", autocompletion=options.model_names)],
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> None:
    """Show the card of a model, or its catalog entry if it is not installed."""
    from vision_infer.model.catalog import list_models, model_card, resolve_model
    from vision_infer.model.pull.available import available_names, find_available

    if model in available_names() and model not in {entry.name for entry in list_models(model_dir)}:
        _show_available(find_available(model), json_output)
        return
    path = resolve_model(model, model_dir)
    card = model_card(model, model_dir)
    if json_output:
        typer.echo(card.model_dump_json(indent=2))
        return
    from vision_infer.model.model_folder import card_to_yaml

    typer.echo(f"# {path}\n{card_to_yaml(card)}", nl=False)


@app.command("import")
def import_command(
    file: Annotated[Path, Argument(metavar="FILE.onnx", help="An ONNX model as exported by its authors, or a deployment graph.")],
    name: Annotated[str, Option(help="The name of the new model, for 'run --model NAME'.")],
    head: Annotated[str | None, Option(metavar="NAME", help="The model family, such as yolox. Default: detected.")] = None,
    labels: Annotated[str | None, Option(metavar="coco|FILE", help="The labels, one per line. Default: class numbers.")] = None,
    keypoints: Annotated[
        Path | None, Option(metavar="FILE", help="Names and skeleton of keypoints, YAML. Default: the 17 of COCO.")
    ] = None,
    fit: Annotated[
        str | None, Option(metavar="center|top_left|stretch", help="How images fit the input. Default: the family's.")
    ] = None,
    fill: Annotated[int | None, Option(min=0, max=255, help="The gray level of the padding. Default: the family's.")] = None,
    color: Annotated[str | None, Option(metavar="rgb|bgr", help="The color order of the input. Default: the family's.")] = None,
    mean: Annotated[str | None, Option(metavar="A,B,C", help="The mean per channel to subtract, 0–255, in color order.")] = None,
    std: Annotated[str | None, Option(metavar="A,B,C", help="The standard deviation per channel, in color order.")] = None,
    inputs: Annotated[
        str | None, Option("--input", metavar="HxW[,HxW…]", help="Input sizes, height first. Default: the file's.")
    ] = None,
    scores: Annotated[
        str | None, Option(metavar="probabilities|sigmoid|softmax", help="The form of the scores. Default: detected.")
    ] = None,
    images: Annotated[
        Path | None, Option(metavar="DIR", help="Images for the verification. Default: synthetic.", file_okay=False)
    ] = None,
    candidates: Annotated[
        int | None, Option(min=1, max=5000, help="The maximum number of boxes before NMS. Default: 300.")
    ] = None,
    overwrite: options.Overwrite = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Convert an ONNX model to a deployment graph with a model card. Options default to the family's values.

    The graph is verified: its results must be the same as those of the original model.
    """
    import os

    from vision_infer.model.catalog import model_dir as user_folder
    from vision_infer.model.importing import ImportRequest, Proposal, import_model
    from vision_infer.precision.verification.comparison import read_images
    from vision_infer.precision.verification.import_check import verify_import

    shown = None if images is None else read_images(images)

    def verify(proposal: Proposal) -> None:
        for line in verify_import(proposal, shown):
            typer.echo(line)

    path = import_model(
        ImportRequest(
            file,
            name,
            head=head,
            labels=labels,
            keypoints=keypoints,
            fit=_one_of("--fit", fit, ("center", "top_left", "stretch")),  # type: ignore[arg-type]
            fill=None if fill is None else (fill, fill, fill),
            color=_one_of("--color", color, ("rgb", "bgr")),  # type: ignore[arg-type]
            mean=_three("--mean", mean),
            std=_three("--std", std),
            inputs=options.parse_sizes("--input", inputs),
            scores=_one_of("--scores", scores, ("probabilities", "sigmoid", "softmax")),  # type: ignore[arg-type]
            model_dir=user_folder(model_dir, os.environ),
            candidates=candidates,
            overwrite=overwrite,
        ),
        on_message=typer.echo,
        verify=verify,
    )
    print_next_step(path, name)


@app.command()
def evaluate(
    model: Annotated[
        str,
        Argument(metavar="MODEL", help="The name of a model, or a deployment graph (.onnx).", autocompletion=options.model_names),
    ],
    data: Annotated[Path, Option(metavar="instances.json", help="Annotations in COCO format.")],
    images: Annotated[Path, Option(metavar="DIR", help="The folder of the images.")],
    confidence: Annotated[float | None, Option(min=0, max=1, help="The minimum confidence. Default: 0.001.")] = None,
    iou: Annotated[float | None, Option(min=0.01, max=1, help="The IoU threshold for NMS. Default: 0.65.")] = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    json_output: options.Json = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Measure the accuracy of a model on annotated images, with the complete pipeline of a run."""
    from vision_infer.config.run import run_settings
    from vision_infer.precision.accuracy import evaluate as measure

    settings = run_settings(
        sources=(str(images),), model=model, model_dir=model_dir, engine=engine, device=device, confidence=confidence, iou=iou
    )
    report = measure(settings, data, images)
    if json_output:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    typer.echo(f"{report.model} on {report.engine}: {report.images} images, {report.boxes} boxes\n{report.table}")
    if report.thresholds:
        typer.echo(
            "\nprecision and recall at IoU 0.5 by confidence, all classes together:\n--confidence  precision  recall     F1"
        )
    for row in report.thresholds:
        typer.echo(f"{row.confidence:12.2f}  {row.precision:7.1f} %  {row.recall:4.1f} %  {row.f1:4.1f} %")
    if report.details is not None:
        typer.echo(f"\n{report.details.words}:\n{report.details.table}")


def _list_available(installed: set[str], json_output: bool) -> None:
    from vision_infer.model.pull.available import list_available

    found = list_available()
    if json_output:
        rows = [model.model_dump(mode="json", by_alias=True) | {"here": model.name in installed} for model in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    for model in found:
        accuracy = ", ".join(f"{figure.metric} {figure.value:g} on {figure.dataset}" for figure in model.accuracy[:1])
        ready = (
            ", installed"
            if model.name in installed
            else ", requires manual steps"
            if model.by_hand
            else ", by export" * bool(model.export)
        )
        typer.echo(
            f"{model.name}  {model.family}  {model.task}, {model.input.width}x{model.input.height}, {accuracy}, "
            f"{model.license}{ready}"
        )


def _show_available(found: AvailableModel, json_output: bool) -> None:
    if json_output:
        typer.echo(found.model_dump_json(indent=2, by_alias=True))
        return
    import yaml

    data = found.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    typer.echo(f"# not installed; install it with: vision-infer model pull {found.name}")
    typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None), nl=False)


def _sizes_of(entry: ModelEntry) -> list[Size]:
    """Return the input sizes of a model, its card's first; empty for an invalid model."""
    return [] if entry.card is None else [entry.card.input_size, *entry.other_sizes]


def _row(entry: ModelEntry) -> dict[str, object]:
    sizes = [{"width": size.width, "height": size.height} for size in _sizes_of(entry)]
    return {
        "name": entry.name,
        "origin": entry.origin,
        "path": str(entry.path),
        "input_sizes": sizes,
        "error": entry.error or None,
    }


def _three(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{option} {text}: must be three numbers", f"Write {option} 123.7,116.3,103.5.")
    return values[0], values[1], values[2]


def _one_of(option: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    if value is not None and value not in choices:
        raise UsageError(f"{option} {value}: is not valid", f"Use {' or '.join(choices)}.")
    return value
