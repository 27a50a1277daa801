"""``vision-infer run``: infer video files, images and folders, or cameras."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vision_infer.cli import options
from vision_infer.cli.cluster import Cluster, InsecureCluster
from vision_infer.cli.settings_options import command_with_settings
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.errors import UsageError
from vision_infer.core.packages import require

if TYPE_CHECKING:
    from vision_infer.pipeline.runs.summary import RunSummary

_METAVARS = {
    "sources": "SOURCE",
    "start": "SECONDS",
    "end": "SECONDS",
    "duration": "SECONDS",
    "max_pixels": "N",
    "engine": "auto|NAME",
    "device": "auto|all|cpu|cuda:N,…",
    "per_class": "A=0.5,B=0.3",
    "classes": "A,B,…",
    "min_size": "PIXELS",
    "region": "FILE",
    "tiles": "SIZE|ROWSxCOLUMNS",
    "zones": "FILE",
    "counts": "FILE.csv",
    "secondary": "MODEL",
    "reidentify": "THRESHOLD",
    "hook": "MODULE:FUNCTION[,process=true]",
    "out": "FILE|DIR/|-",
    "formats": "jsonl,mp4,…",
    "crops": "DIR",
    "telemetry": "FILE",
    "sample": "uncertain|diverse|disagree|every:N",
    "sample_model": "MODEL",
    "sample_engine": "NAME",
    "preview_size": "HEIGHT",
}


def _run(
    given: dict[str, Any],
    summary: options.SummaryFile = None,
    json_summary: options.JsonSummary = False,
    quiet: options.Quiet = False,
    cluster: Cluster = None,
    insecure_cluster: InsecureCluster = False,
) -> int:
    """Detect objects in videos, images and folders, or in cameras.

    Several sources are decoded in parallel and batched together. The results of each source are written in order. No frame of a
    file is dropped; of a camera, the newest frame is inferred. Without --out, only the summary is printed.
    """
    settings = run_settings(**given)
    if "-" in settings.out and json_summary:
        raise UsageError("--json and --out - both write to standard output", "Use --summary FILE.json")
    if summary is not None:
        from vision_infer.sink.files.output_file import check_output

        check_output(summary, settings.overwrite)

    if cluster is not None:
        return _run_on_cluster(settings, cluster, insecure_cluster, (summary, json_summary, quiet))

    from vision_infer.stream.image_size import limit_opencv

    limit_opencv(settings.max_pixels)  # before cv2 is imported

    from vision_infer.cli.progress import open_progress
    from vision_infer.cli.signals import StopSignals
    from vision_infer.pipeline.runs.offline import run

    difference = None
    if settings.sample == "disagree":
        from vision_infer.precision.second_opinion import SecondOpinion

        difference = SecondOpinion(settings)
    if settings.hook or settings.telemetry is not None:
        _show_warnings()
    with StopSignals() as signals, open_progress(quiet) as progress:
        result = run(settings, signals.stopping, progress, difference)
    _report(result, summary, json_summary, quiet, settings.overwrite)
    return signals.exit_status or result.exit_status


run_command = command_with_settings(RunSettings, _run, metavars=_METAVARS, repeatable=("out", "hook"))


def _run_on_cluster(settings: RunSettings, address: str, insecure: bool, report: tuple[Path | None, bool, bool]) -> int:
    require("run --cluster", "ray", "fsspec")
    from vision_infer.cli.progress import ArchiveLines
    from vision_infer.cli.signals import StopSignals
    from vision_infer.cluster.archive import run_archive
    from vision_infer.cluster.connect import connect
    from vision_infer.core.clock import SYSTEM_CLOCK

    summary, json_summary, quiet = report
    connect(address, insecure)
    with StopSignals() as signals:
        lines = ArchiveLines(SYSTEM_CLOCK)
        result = run_archive(settings, signals.stopping, (lambda _: None) if quiet else lines)
    if not quiet:
        typer.echo(result.line(), err=True)
    _report_problems(result.sources)
    _write_summary(result.to_dict(), summary, json_summary, settings.overwrite)
    return signals.exit_status or result.exit_status


def _show_warnings() -> None:
    """Print logged warnings in the format of the command's own messages, on standard error above the progress bars."""
    import logging

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))


def _report(result: RunSummary, summary: Path | None, json_summary: bool, quiet: bool, overwrite: bool) -> None:
    if not quiet and (result.decoded or not result.failed):
        from vision_infer.cli.table import print_summary

        print_summary(result)
    _report_problems(result.sources)
    _write_summary(result.to_dict(), summary, json_summary, overwrite)


def _report_problems(sources: Iterable[Mapping[str, Any]]) -> None:
    """Print failures, even when quiet: one line for each source."""
    for source in sources:
        if source["error"]:
            typer.echo(f"error: {source['error']}", err=True)
        if source["hook_errors"]:
            failed = f"a hook failed on {source['hook_errors']} results"
            typer.echo(f"warning: {source['source']}: {failed}", err=True)
        if source["gaps"] and not source["error"]:
            typer.echo(f"warning: {source['source']}: {source['gaps']} gaps could not be decoded", err=True)
        for warning in source["warnings"]:
            if warning not in (source["error"] or ""):  # reported once
                typer.echo(f"warning: {source['source']}: {warning}", err=True)


def _write_summary(result: Mapping[str, Any], summary: Path | None, json_summary: bool, overwrite: bool) -> None:
    text = json.dumps(result, indent=2)
    if summary is not None:
        from vision_infer.sink.files.output_file import OutputFile, output_error

        file = OutputFile(str(summary), overwrite)
        try:
            file.partial.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            file.discard()
            raise output_error(summary, error) from error
        file.commit()
    if json_summary:
        sys.stdout.write(text + "\n")
