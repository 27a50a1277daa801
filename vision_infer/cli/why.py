"""``vision-infer why``: ask a running service why a stream had results or no results at a given time."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.service_client import TOKEN, ServiceClient, read_token
from vision_infer.core.errors import UsageError, VisionInferError

if TYPE_CHECKING:
    from rich.table import Table

FRAMES_SHOWN = 40
INGEST = {"rtp": "vision-infer, over RTP", "ffmpeg": "FFmpeg"}
_AGO = re.compile(r"-(\d+(?:\.\d+)?)(s|m|min|h)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def why_command(
    name: Annotated[str, Argument(metavar="STREAM", help="The name of the stream.")],
    time: Annotated[str, Argument(metavar="[TIME]", help="The time: 03:12:05 (local), 2026-11-24T03:12:05Z, or now.")] = "now",
    ago: Annotated[str | None, Option(metavar="SPAN", help="Instead of TIME, a duration before now: 90s, 5m, 2h.")] = None,
    url: Annotated[str, Option(metavar="URL", help="The URL of the service.")] = "http://127.0.0.1:8080",
    token_file: Annotated[Path | None, Option(metavar="FILE", help=f"A file with the token. Default: ${TOKEN}.")] = None,
    json_output: options.Json = False,
) -> int:
    """Explain why a stream had results or no results at a given time: its state, and the outcome of each frame.

    The service records the last 4,096 frames of each stream individually (more than two minutes at 30 fps), and the last day by
    minute.
    """
    from urllib.parse import quote

    now = datetime.now(UTC)
    at = _time_of(time, ago, now)
    path = f"/api/v1/streams/{quote(name, safe='')}/why?at={quote(at.isoformat())}"
    answer = ServiceClient(url, read_token(token_file), "--url").ask(path)
    if not isinstance(answer, dict) or "explanation" not in answer:
        raise VisionInferError(f"{url}: is not a vision-infer service", "Check --url.")
    if json_output:
        typer.echo(json.dumps(answer, indent=2))
        return 0
    _show(answer)
    return 0


def _time_of(time: str, ago: str | None, now: datetime) -> datetime:
    if ago is not None:
        found = _AGO.fullmatch(f"-{ago.removeprefix('-')}")
        if found is None:
            raise UsageError(f"--ago {ago}: is not a valid duration", "Write 90s, 5m or 2h.")
        return now - timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    if time == "now":
        return now
    try:
        moment = datetime.fromisoformat(f"{now.astimezone():%Y-%m-%d}T{time}" if re.match(r"\d\d?:\d\d", time) else time)
    except ValueError:
        raise UsageError(f"{time}: is not a valid time", "Write 03:12:05, 2026-11-24T03:12:05Z or now.") from None
    if moment.tzinfo is None:
        moment = moment.astimezone()
        if moment > now and "T" not in time and " " not in time:
            moment -= timedelta(days=1)
    return moment.astimezone(UTC)


def _show(answer: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    state, until, minute = answer["state"], answer["until"], answer["minute"]
    lines = [f"{answer['stream']} at {answer['at']}", answer["explanation"], answer["hint"]]
    if state is not None:
        lines.append(f"state       {state['state']} since {state['at']}{_reason(state)}")
    if until is not None:
        lines.append(f"next state  {until['state']} at {until['at']}{_reason(until)}")
    if minute is not None:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in minute["outcomes"].items())
        packets = f"; {minute['packets_lost']} packets lost" if minute.get("packets_lost") else ""
        lines.append(f"minute      {minute['from']}: {outcomes}; maximum age {minute['max_age_ms']} ms{packets}")
    if answer.get("ingest"):
        lines.append(f"read by     {INGEST[answer['ingest']]}{_reason({'reason': answer['ingest_reason']})}")
    for line in filter(None, lines):
        console.print(line, soft_wrap=True, markup=False)
    if answer["frames"]:
        console.print(_table(answer["frames"]))
        left = len(answer["frames"]) - FRAMES_SHOWN
        if left > 0:
            console.print(f"and {left} more; --json shows all")


def _reason(change: dict[str, Any]) -> str:
    return f" ({change['reason']})" if change["reason"] else ""


def _table(frames: list[dict[str, Any]]) -> Table:
    from rich.table import Column, Table

    numbers = (Column(name, justify="right") for name in ("decoded", "batched", "inferred", "result", "objects"))
    # One space between the columns: with a frame of eight digits and the longest outcome, the table fits into 80 columns.
    texts = (Column("frame", justify="right"), Column("captured"), Column("outcome"))
    table = Table(*texts, *numbers, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    middle = max(0, (len(frames) - FRAMES_SHOWN) // 2)
    for frame in frames[middle : middle + FRAMES_SHOWN]:
        times = frame["since_capture_ms"]
        inferred = bool(frame["batch"])
        table.add_row(
            "" if frame["index"] is None else str(frame["index"]),
            (frame["captured"] or frame["at"])[11:-1],
            frame["outcome"],
            *(_ms(times.get(name)) for name in ("decode_end", "preprocess_start", "inference_end", "result")),
            str(frame["detections"]) if inferred else "",
        )
    engines = sorted({frame["engine"] for frame in frames if frame["engine"]})
    table.caption = "times in milliseconds after capture" + (f"; {', '.join(engines)}" if engines else "")
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
