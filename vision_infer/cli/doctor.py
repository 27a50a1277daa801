"""``vision-infer doctor``: what this machine can do, what is missing, and what a camera sends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from vision_infer.cli import options
from vision_infer.core.errors import UsageError
from vision_infer.core.finding import SEVERITIES, Finding, Severity, worst

STATUS: dict[Severity, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}
"""exit status by the worst that was found"""
DISCOVERY_S = 3.0


def doctor_command(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="Cameras to look at: rtsp://, http://, /dev/video0, …")
    ] = None,
    discover: Annotated[bool, typer.Option("--discover", help="Look for cameras in the local network (ONVIF).")] = False,
    seconds: Annotated[float, typer.Option(min=2, max=600, help="The most that a camera may take.")] = 10.0,
    transport: Annotated[str, typer.Option(metavar="tcp|udp", help="Of RTSP.")] = "tcp",
    json_output: options.Json = False,
) -> int:
    """Look at this machine, and at cameras: what works, what does not, and what to do about it.

    Exit status: 0 all is well, 1 something will cost (a warning), 2 something does not work (an error).
    """
    if transport not in ("tcp", "udp"):
        raise UsageError(f"--transport {transport}: unknown", "use tcp or udp")
    found: list[Finding] = []
    for one in _look(urls or [], discover, seconds, transport == "udp"):
        found.append(one)
        if not json_output:
            _show(one)
    if json_output:
        typer.echo(json.dumps({"worst": worst(found), "findings": [asdict(one) for one in found]}, indent=2))
    else:
        counts = {name: sum(one.severity == name for one in found) for name in SEVERITIES[:1:-1]}
        typer.echo(", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()))
    return STATUS[worst(found)]


def _look(urls: list[str], discover: bool, seconds: float, udp: bool) -> Iterator[Finding]:
    """All findings, cameras first: nothing of ours shall disturb what is measured of them."""
    from vision_infer.cli import checks
    from vision_infer.stream.source import LiveOptions

    if urls:
        yield from checks.check_cameras(urls, LiveOptions(transport="udp" if udp else "tcp"), seconds)
    if discover:
        yield from checks.check_network(DISCOVERY_S)
    yield from checks.check_cpu()
    yield from checks.check_memory()
    gpus, has_gpu = checks.check_gpus()
    yield from gpus
    yield from checks.check_packages()
    yield from checks.check_runtimes(has_gpu)
    rest: Iterable[Iterator[Finding]] = (checks.check_codecs(), checks.check_disks(), checks.check_clock(), checks.check_home())
    for check in rest:
        yield from check


def _show(one: Finding) -> None:
    typer.echo(f"{one.severity:<8} {one.area:<8} {one.text}")
    if one.hint:
        typer.echo(f"{'':<17} → {one.hint}")
