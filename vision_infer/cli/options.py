"""The options that several commands share. Those of settings have the settings' descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_infer.config.run import RunSettings
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.core.geometry import Size


def _help(setting: str) -> str:
    return RunSettings.model_fields[setting].description or ""


def model_names(incomplete: str) -> list[str]:
    """Complete the name of a model that can be run."""
    from vision_infer.model.catalog import list_models

    return [entry.name for entry in list_models() if entry.name.startswith(incomplete)]


def catalog_names(incomplete: str) -> list[str]:
    """Complete the name of a model of the catalog."""
    from vision_infer.model.pull.available import available_names

    return [name for name in available_names() if name.startswith(incomplete)]


def engine_names(incomplete: str) -> list[str]:
    """Complete the name of an engine of the installed runtimes."""
    from vision_infer.engine.registry import engine_names as installed

    return [name for name in ("auto", *installed()) if name.startswith(incomplete)]


COMPLETIONS = {"model": model_names, "secondary": model_names, "engine": engine_names}
"""The functions that complete the values of options, by the name of the setting."""
Model = Annotated[str, typer.Option(help=_help("model"), autocompletion=model_names)]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The name of a model, or a deployment graph (.onnx).", autocompletion=model_names),
]
ModelDir = Annotated[Path | None, typer.Option(metavar="DIR", help=_help("model_dir"))]
Engine = Annotated[str, typer.Option(metavar="auto|NAME", help=_help("engine"), autocompletion=engine_names)]
EngineDir = Annotated[Path | None, typer.Option(metavar="DIR", help=_help("engine_dir"))]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", help="The device: auto, cpu or cuda:0.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help=_help("workers"))]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help=_help("threads"))]
Batch = Annotated[int | None, typer.Option(min=1, max=256, help=_help("batch"))]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")]
SummaryFile = Annotated[Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the summary to a JSON file.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print the summary as JSON to standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress and tables.")]


def parse_sizes(option: str, text: str | None) -> tuple[Size, ...]:
    """Parse sizes in the form HEIGHTxWIDTH, separated by commas."""
    from vision_infer.core.geometry import Size  # it imports NumPy

    found = []
    for part in [] if text is None else text.lower().split(","):
        height, _, width = part.strip().partition("x")
        if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
            raise UsageError(
                f"{option} {text}: is not a valid size", f"Write height and width: {option} 384x640, or {option} 384x640,640x640."
            )
        found.append(Size(int(width), int(height)))
    return tuple(found)
