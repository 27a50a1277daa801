"""``vision-infer bench``: measure the capacity of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from vision_infer.cli import options
from vision_infer.core.errors import OutputError, UsageError

if TYPE_CHECKING:
    from vision_infer.capacity.report import BenchReport, BenchSettings

History = Annotated[
    Path | None, Option(metavar="FILE", help="The history of benchmarks. Default: $VISION_INFER_HOME/bench.jsonl.")
]


def bench_command(
    model: options.Model = "nanodet-416",
    engine: Annotated[str, Option(metavar="auto|NAME", help="Measure this engine only, and run the streams on it.")] = "auto",
    size: Annotated[str, Option(metavar="WxH", help="The resolution of the streams.")] = "1920x1080",
    codec: Annotated[str, Option(metavar="h264|hevc", help="The video codec of the streams.")] = "h264",
    source_fps: Annotated[int, Option(min=1, max=120, help="The frame rate of each stream.")] = 15,
    fps: Annotated[float, Option(min=0.1, max=240, help="The wanted results per second of each stream.")] = 10.0,
    target_ms: Annotated[
        float, Option(min=1, metavar="MS", help="The maximum age of 99 % of the results, in milliseconds.")
    ] = 200.0,
    quick: Annotated[bool, Option("--quick", help="Finish in about a minute: fewer and shorter measurements.")] = False,
    streams: Annotated[bool, Option("--streams/--no-streams", help="Also measure the complete pipeline.")] = True,
    out: Annotated[Path | None, Option(metavar="DIR", help="Write bench.json and charts to this folder.")] = None,
    history: History = None,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> int:
    """Measure this machine: decoding, conversion, each engine by batch size, and the number of streams that meet the target.

    Ctrl-C keeps the measurements so far. Stop other programs first, because they affect the results.
    """
    from vision_infer.capacity.bench import FULL, QUICK, BenchRequest, run_bench
    from vision_infer.capacity.history import read_history
    from vision_infer.cli.signals import StopSignals
    from vision_infer.core.geometry import best_input
    from vision_infer.engine.store.cache import engine_dir as folder_of_engines
    from vision_infer.model.catalog import home_dir, model_inputs

    settings = _settings(model, engine, size, codec, source_fps, fps, target_ms, quick)
    inputs = model_inputs(model, model_dir)
    settings = settings.model_copy(update={"inputs": tuple((input_size.width, input_size.height) for input_size in inputs)})
    request = BenchRequest(
        inputs[best_input(settings.size, tuple(inputs))],
        settings,
        home_dir(os.environ) / "bench" / "clips",
        folder_of_engines(engine_dir, os.environ),
        QUICK if quick else FULL,
        streams,
    )
    history = history or home_dir(os.environ) / "bench.jsonl"
    earlier = read_history(history)  # fails before the measurements, which take minutes
    with StopSignals() as signals:
        report = run_bench(request, lambda line: typer.echo(f"… {line}", err=True), signals.stopping)
    _report(report, history, earlier, out, json_output)
    return signals.exit_status


def _settings(
    model: str, engine: str, size: str, codec: str, source_fps: int, fps: float, target_ms: float, quick: bool
) -> BenchSettings:
    from vision_infer.capacity.report import BenchSettings

    width, height = parse_size(size)
    if codec not in ("h264", "hevc"):
        raise UsageError(f"--codec {codec}: no sample can be generated", "Use h264 or hevc.")
    return BenchSettings(
        model=Path(model).stem if model.endswith(".onnx") else model,
        codec=codec,
        width=width,
        height=height,
        source_fps=source_fps,
        fps=fps,
        target_ms=target_ms,
        engine=engine,
        quick=quick,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Return the width and height in pixels of ``1920x1080``, ``1080p``, ``720p``, ``4k`` and so on.

    Raises:
        UsageError: The text is not a valid video size.
    """
    named = {"4k": (3840, 2160), "2160p": (3840, 2160), "1440p": (2560, 1440), "1080p": (1920, 1080), "720p": (1280, 720)}
    named |= {"480p": (854, 480), "360p": (640, 360)}
    if text.lower() in named:
        return named[text.lower()]
    match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", text, re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (64 <= width <= 8192 and 64 <= height <= 8192) or width % 2 or height % 2:
        raise UsageError(f"{text!r} is not a valid video size", "Write 1920x1080, 1080p, …; even numbers from 64 to 8192.")
    return width, height


def _report(report: BenchReport, history: Path, earlier: Sequence[BenchReport], out: Path | None, json_output: bool) -> None:
    from vision_infer.capacity.charts import LEFT_OUT, can_draw, draw_bench
    from vision_infer.capacity.history import add_to_history
    from vision_infer.cli.capacity.bench_table import print_bench

    if json_output:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_bench(report)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "bench.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}", "Use another folder for --out.") from error
        typer.echo(f"wrote {out / 'bench.json'}", err=True)
        if can_draw():
            for path in draw_bench(report, out):
                typer.echo(f"wrote {path}", err=True)
        else:
            typer.echo(LEFT_OUT, err=True)
    for line in _compared(report, earlier):
        typer.echo(line, err=True)
    add_to_history(history, report)
    typer.echo(f"added to {history}", err=True)


def _compared(report: BenchReport, earlier: Sequence[BenchReport]) -> list[str]:
    """Return the changes since earlier benchmarks, one line each."""
    from vision_infer.capacity.history import changes, like

    if not report.comparable:
        return []
    alike = like(earlier, report)
    if not alike:
        return ["there is no earlier undisturbed benchmark of this machine with these settings to compare with"]
    since = f"since {alike[0].date:%Y-%m-%d %H:%M}"
    found = changes(alike, report)
    return [f"{since}: {line}" for line in found] or [f"{since}: no change larger than the noise"]
