"""``vision-infer model export``: export a model from PyTorch."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.models.next_step import print_next_step
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.core.geometry import Size
    from vision_infer.model.export.exporting import Run
    from vision_infer.model.export.family import Family, Origin
    from vision_infer.model.importing import Proposal


def export_command(
    family: Annotated[
        str | None, Argument(metavar="FAMILY[/VARIANT]|MODULE:FUNCTION", help="The model to export; see --list.")
    ] = None,
    name: Annotated[str | None, Option(help="The name of the new model, for 'run --model NAME'.")] = None,
    weights: Annotated[Path | None, Option(metavar="FILE", help="The weights: .safetensors, or a file from torch.save.")] = None,
    random: Annotated[bool, Option("--random", help="Use random weights: an untrained model, for tests.")] = False,
    download: Annotated[bool, Option("--download", help="Use the official weights, downloaded by the family's library.")] = False,
    inputs: Annotated[
        str | None, Option("--input", metavar="HxW[,HxW…]", help="Input sizes, height first. Default: the family's.")
    ] = None,
    labels: Annotated[
        str | None, Option(metavar="coco|FILE", help="The labels, one per line. Default: the official ones.")
    ] = None,
    classes: Annotated[
        int | None, Option("--num-classes", min=1, max=100_000, help="The number of classes. Default: the official one.")
    ] = None,
    prompts: Annotated[
        str | None, Option(metavar="TEXT[,TEXT…]", help="What an open-vocabulary model (owlv2) detects, described in English.")
    ] = None,
    opset: Annotated[int | None, Option(metavar="18…23", help="The ONNX operator set. Default: 18.")] = None,
    images: Annotated[Path | None, Option(metavar="DIR", help="Images for the verification. Default: synthetic.")] = None,
    candidates: Annotated[
        int | None, Option(min=1, max=5000, help="The maximum number of boxes before NMS. Default: 300.")
    ] = None,
    listed: Annotated[bool, Option("--list", help="List the families and their variants.")] = False,
    overwrite: options.Overwrite = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Export a model from PyTorch and verify it: the results of the graph must be the same as PyTorch's.

    Requires the extra: pip install '.[export]'.
    """
    import os

    from vision_infer.model.catalog import model_dir as user_folder
    from vision_infer.model.export.exporting import ExportRequest, export_model
    from vision_infer.model.export.to_onnx import OPSET
    from vision_infer.precision.verification.comparison import read_images

    if listed:
        _list()
        return
    key, found, variant = _find(family, name)
    origin = _origin(found, f"{key}/{variant}" if variant else key, weights, random, download)
    request = ExportRequest(
        key,
        str(name),
        user_folder(model_dir, os.environ),
        variant,
        origin,
        weights,
        options.parse_sizes("--input", inputs),
        labels,
        classes,
        tuple(text.strip() for text in (prompts or "").split(",") if text.strip()),
        OPSET if opset is None else opset,
        candidates,
        overwrite,
    )
    verify = _Verifier(None if images is None else read_images(images), origin == "random")
    with _stopped_in_one_line():
        path = export_model(request, found, typer.echo, verify)
    print_next_step(path, str(name))


class _Verifier:
    def __init__(self, images: Any, untrained: bool) -> None:
        self._images = images
        self._untrained = untrained

    def __call__(self, proposal: Proposal, runs: Mapping[Size, Run]) -> list[dict[str, Any]]:
        from vision_infer.precision.verification.export_check import verify_export
        from vision_infer.precision.verification.import_check import verify_import

        for line in verify_import(proposal, self._images, self._untrained):
            typer.echo(line)
        verified = verify_export(proposal, runs, self._images)
        for entry in verified:
            typer.echo(entry)
        return [entry.to_dict() for entry in verified]


def _find(family: str | None, name: str | None) -> tuple[str, Family, str]:
    from vision_infer.model.export.custom_model import custom_family
    from vision_infer.model.export.families import find_family

    if family is None:
        raise UsageError("no family is given", "Run 'vision-infer model export --list' to list them.")
    if name is None:
        raise UsageError("--name is missing", f"Write: vision-infer model export {family} --name NAME")
    return (family, custom_family(family), "") if ":" in family else find_family(family)


def _origin(family: Family, what: str, weights: Path | None, random: bool, download: bool) -> Origin:
    """Return the origin of the weights. It has no default, so that an untrained model is never mistaken for a trained one."""

    if (weights is not None) + random + download > 1:
        raise UsageError("--weights, --random and --download cannot be combined", "Use one of them.")
    if weights is not None:
        return "file"
    if family.library == "torch":
        if random or download:
            raise UsageError("--random and --download are valid for families only", "The function itself loads the weights.")
        return "given"
    if not (random or download):
        hint = (
            f"Use --weights FILE for your own, --download for the official ones ({family.official}), or --random "
            f"for an untrained model."
        )
        raise UsageError(f"{what}: no weights are given", hint)
    return "random" if random else "download"


@contextmanager
def _stopped_in_one_line() -> Iterator[None]:
    """On Ctrl-C and SIGTERM, clean up and end the export with one line."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped: nothing was written", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _list() -> None:
    from vision_infer.model.export.families import family_names, read_family
    from vision_infer.model.export.family import Refused

    for name in family_names():
        family = read_family(name)
        if isinstance(family, Refused):
            typer.echo(f"{name}  {family.title}  cannot be exported: {family.reason}")
            continue
        size = family.input_size(family.variants[0])
        typer.echo(
            f"{name}  {family.title}  {family.task}, {size.height}x{size.width}, variants {', '.join(family.variants)}; "
            f"official weights: {family.official}"
        )
    typer.echo("MODULE:FUNCTION  a model of your own, with its card: see docs/how-to/export-from-pytorch.md")
