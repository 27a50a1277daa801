"""``vision-infer run``: video files, pictures and folders in, detections out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vision_infer.cli import options

if TYPE_CHECKING:
    from vision_infer.pipeline.summary import RunSummary


def run_command(
    sources: options.Sources,
    model: options.Model = "nanodet-416",
    confidence: options.Confidence = None,
    iou: options.Iou = None,
    classes: options.Classes = None,
    track: options.Track = False,
    every: options.Every = 1,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    workers: options.Workers = None,
    threads: options.Threads = None,
    batch: options.Batch = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    summary: options.SummaryFile = None,
    json_summary: options.JsonSummary = False,
    quiet: options.Quiet = False,
    model_dir: options.ModelDir = None,
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
