"""``vision-infer bench``: what this machine can do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_infer.cli import options
from vision_infer.core.errors import OutputError, UsageError

if TYPE_CHECKING:
    from vision_infer.capacity.report import BenchReport, Settings

History = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Earlier benches (JSONL). Default: $VISION_INFER_HOME/bench.jsonl.")
]


def bench_command(
    model: options.Model = "nanodet-416",
    engine: Annotated[str, typer.Option(metavar="auto|NAME", help="Measure this engine only, and run streams on it.")] = "auto",
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture of the streams.")] = "1920x1080",
    codec: Annotated[str, typer.Option(metavar="h264|hevc", help="Of the streams.")] = "h264",
    source_fps: Annotated[int, typer.Option(min=1, max=120, help="Frames a second that each stream sends.")] = 15,
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="Results a second that are wanted of each stream.")] = 10.0,
    target_ms: Annotated[float, typer.Option(min=1, metavar="MS", help="Age that 99 % of the results must not exceed.")] = 200.0,
    quick: Annotated[bool, typer.Option("--quick", help="Within a minute: fewer kinds of video and batches, shorter.")] = False,
    streams: Annotated[bool, typer.Option("--streams/--no-streams", help="Run the whole pipeline too.")] = True,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write bench.json and pictures there.")] = None,
    history: History = None,
    engine_dir: options.EngineDir = None,
    model_dir: options.ModelDir = None,
    json_output: options.Json = False,
) -> int:
    """Measure this machine: decoding, conversion, each engine by batch, and how many streams meet the target.

    Ctrl-C keeps what was measured until then. Other work on the machine is a part of the figures: stop it first.
    """
    from vision_infer.capacity.bench import FULL, QUICK, BenchRequest, run_bench
    from vision_infer.capacity.history import read_history
    from vision_infer.cli.signals import StopSignals
    from vision_infer.core.geometry import best_input
    from vision_infer.engine.store.cache import engine_dir as folder_of_engines
    from vision_infer.model.catalogue import home_dir, model_inputs

    settings = _settings(model, engine, size, codec, source_fps, fps, target_ms, quick)
    inputs = model_inputs(model, model_dir)
    settings = settings.model_copy(update={"inputs": tuple((one.width, one.height) for one in inputs)})
    request = BenchRequest(
        inputs[best_input(settings.size, tuple(inputs))],
        settings,
        home_dir(os.environ) / "bench" / "clips",
        folder_of_engines(engine_dir, os.environ),
        QUICK if quick else FULL,
        streams,
    )
    history = history or home_dir(os.environ) / "bench.jsonl"
    earlier = read_history(history)  # what cannot be read is said before minutes are spent
    with StopSignals() as signals:
        report = run_bench(request, lambda line: typer.echo(f"… {line}", err=True), signals.stopping)
    _tell(report, history, earlier, out, json_output)
    return signals.exit_status


def _settings(
    model: str, engine: str, size: str, codec: str, source_fps: int, fps: float, target_ms: float, quick: bool
) -> Settings:
    from vision_infer.capacity.report import Settings

    width, height = parse_size(size)
    if codec not in ("h264", "hevc"):
        raise UsageError(f"--codec {codec}: no sample of it can be made", "use h264 or hevc")
    return Settings(
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
    """Width and height, pixels, of ``1920x1080``, ``1080p``, ``720p``, ``4k`` or the like.

    Raises:
        UsageError: it is no size of a video.
    """
    named = {"4k": (3840, 2160), "2160p": (3840, 2160), "1440p": (2560, 1440), "1080p": (1920, 1080), "720p": (1280, 720)}
    named |= {"480p": (854, 480), "360p": (640, 360)}
    if text.lower() in named:
        return named[text.lower()]
    match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", text, re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (64 <= width <= 8192 and 64 <= height <= 8192) or width % 2 or height % 2:
        raise UsageError(f"{text!r} is no size of a video", "write 1920x1080, 1080p, …: even, from 64 to 8192")
    return width, height


def _tell(report: BenchReport, history: Path, earlier: Sequence[BenchReport], out: Path | None, json_output: bool) -> None:
    from vision_infer.capacity.history import add_to_history
    from vision_infer.capacity.pictures import LEFT_OUT, can_draw, draw_bench
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
            raise OutputError(f"{out}: cannot be written: {error.strerror}", "name another folder with --out") from error
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
    """What has changed since earlier benches, in lines."""
    from vision_infer.capacity.history import changes, like

    if not report.comparable:
        return []
    alike = like(earlier, report)
    if not alike:
        return ["no earlier undisturbed bench of this machine with these settings to compare with"]
    since = f"since {alike[0].date:%Y-%m-%d %H:%M}"
    found = changes(alike, report)
    return [f"{since}: {line}" for line in found] or [f"{since}: nothing has changed by more than the noise"]
