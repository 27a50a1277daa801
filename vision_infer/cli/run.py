"""``vision-infer run``: video files, pictures and folders in, detections out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vision_infer.pipeline.summary import RunSummary

_WHAT = "Detection"
_HOW = "Engine"
_WHERE = "Output"


def run_command(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Video files, pictures and folders.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option(help="Name of a model, or a deployment graph (.onnx).", rich_help_panel=_WHAT)
    ] = "nanodet-416",
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Least score. Default: the model's.")] = None,
    iou: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Overlap above which the worse of two boxes goes. Default: the model's.")
    ] = None,
    classes: Annotated[str | None, typer.Option(metavar="A,B,…", help="Only these labels.")] = None,
    track: Annotated[
        bool,
        typer.Option(
            "--track",
            help="Number the objects across frames (ByteTrack); an object that has a number is followed below --confidence too.",
        ),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Infer every N-th frame.")] = 1,
    engine: Annotated[str, typer.Option(metavar="auto|NAME", help="Engine, such as onnxruntime-cpu-fp32.")] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", help="Where to run.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Batches in flight. Default: CPUs / threads; 2 on a GPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads of each batch. Default: 1, best for throughput.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=256, help="Largest batch. Default: 1 on the CPU, 8 on a GPU.")] = None,
    out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.jsonl|FILE.mp4|DIR/|-",
            help="Rows of all sources, annotated video, a set of both for each source, or rows on standard output. Repeatable.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    summary: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the summary as JSON.")] = None,
    json_summary: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")] = False,
    model_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own models. Default: $VISION_INFER_HOME/models.")
    ] = None,
) -> int:
    """Detect objects in video files, pictures and folders.

    Several sources are decoded side by side and batched together; each one's results come in its own order and nothing is
    dropped. Without --out only the summary is shown.
    """
    from vision_infer.config.run import run_settings

    settings = run_settings(
        sources=tuple(sources),
        model=model,
        model_dir=model_dir,
        engine=engine,
        device=device,
        workers=workers,
        threads=threads,
        batch=batch,
        every=every,
        confidence=confidence,
        iou=iou,
        classes=_split(classes),
        track=track,
        out=tuple(out or ()),
        overwrite=overwrite,
    )
    _check_standard_output(settings.out, json_summary)
    if summary is not None:
        from vision_infer.sink.output_file import check_output

        check_output(summary, overwrite)

    from vision_infer.cli.progress import open_progress
    from vision_infer.cli.signals import StopSignals
    from vision_infer.pipeline.offline import run

    with StopSignals() as signals, open_progress(quiet) as progress:
        result = run(settings, signals.stopping, progress)
    _report(result, summary, json_summary, quiet, overwrite)
    return signals.exit_status or _status_of(result)


def _split(classes: str | None) -> tuple[str, ...] | None:
    from vision_infer.core.errors import UsageError

    if classes is None:
        return None
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    if not names:
        raise UsageError("--classes: names no class", "give labels, such as --classes person,car")
    return names


def _check_standard_output(out: tuple[str, ...], json_summary: bool) -> None:
    from vision_infer.core.errors import UsageError

    if "-" in out and json_summary:
        raise UsageError("--json and --out - both want standard output", "use --summary FILE.json")


def _report(result: RunSummary, summary: Path | None, json_summary: bool, quiet: bool, overwrite: bool) -> None:
    text = json.dumps(result.to_dict(), indent=2)
    if not quiet and (result.decoded or not result.failed):
        from vision_infer.cli.table import print_summary

        print_summary(result)
    # Failures are told even when quiet: a line for each source.
    for source in result.sources:
        if source["error"]:
            typer.echo(f"error: {source['error']}", err=True)
        elif source["gaps"]:
            typer.echo(f"warning: {source['source']}: {source['gaps']} places could not be decoded", err=True)
    if summary is not None:
        from vision_infer.sink.output_file import OutputFile, output_error

        try:
            file = OutputFile(str(summary), overwrite)
            file.partial.write_text(text + "\n", encoding="utf-8")
            file.commit()
        except OSError as error:
            raise output_error(summary, error) from error
    if json_summary:
        sys.stdout.write(text + "\n")


def _status_of(result: RunSummary) -> int:
    return 1 if result.failed else 0
