"""``vision-infer run``: video files, pictures and folders in, detections out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vision_infer.cli import options

if TYPE_CHECKING:
    from vision_infer.config.run import RunSettings
    from vision_infer.pipeline.runs.summary import RunSummary


def run_command(
    sources: options.Sources,
    recursive: options.Recursive = False,
    track_index: options.TrackIndex = 0,
    start: options.Start = 0.0,
    end: options.End = None,
    every: options.Every = 1,
    fps: options.Fps = None,
    keyframes: options.Keyframes = False,
    decode: options.Decode = "auto",
    max_pixels: options.MaxPixels = 100_000_000,
    model: options.Model = "nanodet-416",
    model_dir: options.ModelDir = None,
    engine: options.Engine = "auto",
    engine_dir: options.EngineDir = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    threads: options.Threads = None,
    batch: options.Batch = None,
    gate: options.Gate = None,
    gate_heartbeat: options.GateHeartbeat = 5.0,
    confidence: options.Confidence = None,
    per_class: options.PerClass = None,
    iou: options.Iou = None,
    classes: options.Classes = None,
    min_size: options.MinSize = 0.0,
    region: options.Region = None,
    track: options.Track = False,
    secondary: options.Then = None,
    top: options.Top = 5,
    hook: options.Hook = None,
    out: options.Out = None,
    formats: options.Formats = None,
    crops: options.Crops = None,
    preview_fps: options.PreviewFps = None,
    preview_size: options.PreviewSize = None,
    rotate_mb: options.RotateMb = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    summary: options.SummaryFile = None,
    json_summary: options.JsonSummary = False,
    quiet: options.Quiet = False,
) -> int:
    """Detect objects in video files, pictures and folders.

    Several sources are decoded side by side and batched together; each one's results come in its own order and nothing is
    dropped. Without --out only the summary is shown.
    """
    settings = _settings(locals())  # the options, which have the names of the settings
    _check_standard_output(settings.out, json_summary)
    if summary is not None:
        from vision_infer.sink.files.output_file import check_output

        check_output(summary, overwrite)

    from vision_infer.cli.progress import open_progress
    from vision_infer.cli.signals import StopSignals
    from vision_infer.pipeline.runs.offline import run

    if hook is not None:
        _show_warnings()
    with StopSignals() as signals, open_progress(quiet) as progress:
        result = run(settings, signals.stopping, progress)
    _report(result, summary, json_summary, quiet, overwrite)
    return signals.exit_status or result.exit_status


def _settings(options_given: dict[str, Any]) -> RunSettings:
    from vision_infer.config.run import RunSettings, run_settings

    values = {name: value for name, value in options_given.items() if name in RunSettings.model_fields}
    values["sources"] = tuple(values["sources"])
    values["out"] = tuple(values["out"] or ())
    values["classes"] = _split("--classes", values["classes"])
    values["formats"] = _split("--formats", values["formats"])
    values["per_class"] = _thresholds(values["per_class"])
    return run_settings(**values)


def _split(option: str, text: str | None) -> tuple[str, ...] | None:
    from vision_infer.core.errors import UsageError

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError(f"{option}: names nothing", f"see 'vision-infer run --help' for {option}")
    return names


def _thresholds(text: str | None) -> dict[str, float]:
    from vision_infer.core.errors import UsageError

    scores: dict[str, float] = {}
    for part in _split("--per-class", text) or ():
        name, _, score = part.partition("=")
        try:
            least = float(score)
        except ValueError:
            raise UsageError(f"--per-class {part}: is no class with a score", "write --per-class person=0.5,car=0.3") from None
        if name.strip() in scores:
            raise UsageError(f"--per-class {part}: the class is there twice", "give one score for each class")
        scores[name.strip()] = least
    return scores


def _show_warnings() -> None:
    """Let what is logged as a warning look like our own lines; it goes to standard error as it is then, above the bars."""
    import logging

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))


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
        if source["hook_errors"]:
            failed = f"the hook failed on {source['hook_errors']} results, which went on unchanged"
            typer.echo(f"warning: {source['source']}: {failed}", err=True)
        if source["gaps"] and not source["error"]:
            typer.echo(f"warning: {source['source']}: {source['gaps']} places could not be decoded", err=True)
        for warning in source["warnings"]:
            if warning not in (source["error"] or ""):  # what broke a source is told once
                typer.echo(f"warning: {source['source']}: {warning}", err=True)
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
