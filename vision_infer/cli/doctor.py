"""``vision-infer doctor``: check this machine, its packages, and cameras."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.cameras.login import CameraLogin, PasswordFile, User, read_login
from vision_infer.cli.service_client import TOKEN, ServiceClient, read_token
from vision_infer.core.errors import UsageError
from vision_infer.core.finding import SEVERITIES, Finding, Severity, worst
from vision_infer.core.packages import require

STATUS: dict[Severity, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}
"""The exit status by the highest severity."""
DISCOVERY_S = 3.0


def doctor_command(
    sources: Annotated[
        list[str] | None,
        Argument(
            metavar="[CONFIG.yaml|URL]...",
            help="Cameras to check, such as rtsp:// URLs, or a configuration file: its cameras, sinks, login, OTLP and preview.",
        ),
    ] = None,
    discover: Annotated[
        bool, Option("--discover", help="Search for cameras in the local network (ONVIF), and ask them for their streams.")
    ] = False,
    user: User = None,
    password_file: PasswordFile = None,
    seconds: Annotated[float, Option(min=2, max=600, help="The maximum time per camera, in seconds.")] = 10.0,
    transport: Annotated[str, Option(metavar="tcp|udp", help="The transport of RTSP.")] = "tcp",
    preview: Annotated[
        str | None,
        Option(
            metavar="URL", help="Check instead whether live video of a running service reaches this machine: http://HOST:8080."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, Option(metavar="FILE", help=f"A file with the token of that service. Default: ${TOKEN}.")
    ] = None,
    json_output: options.Json = False,
) -> int:
    """Check this machine and cameras, and report what works, what does not, and how to fix it.

    Exit status: 0 no problems, 1 at least one warning, 2 at least one error.
    """
    if transport not in ("tcp", "udp"):
        raise UsageError(f"--transport {transport}: is not a valid transport", "Use tcp or udp.")
    if user is not None and not discover:
        raise UsageError("--user: is for --discover", "Write the user name and password into the URL of a camera.")
    found: list[Finding] = []
    local = (sources or [], discover, seconds, transport == "udp", token_file, read_login(user, password_file))
    for finding in _check(*local) if preview is None else _check_preview(preview, token_file):
        found.append(finding)
        if not json_output:
            show_finding(finding)
    if json_output:
        typer.echo(json.dumps({"worst": worst(found), "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        counts = {name: sum(finding.severity == name for finding in found) for name in SEVERITIES[:1:-1]}
        typer.echo(", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()))
    return STATUS[worst(found)]


def _check(
    sources: list[str], discover: bool, seconds: float, udp: bool, token_file: Path | None, login: CameraLogin | None
) -> Iterator[Finding]:
    """Yield all findings. Cameras come first, so that no other check disturbs their measurement."""
    from vision_infer.cli import camera_checks, checks, service_checks
    from vision_infer.cli.access.check_provider import check_provider
    from vision_infer.config.serve_file import load_settings
    from vision_infer.stream.source import LiveOptions

    files = [source for source in sources if source.lower().endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise UsageError(f"{files[1]}: is a second configuration", "Name one file.")
    settings = load_settings(Path(files[0]) if files else None, (), os.environ, {})
    urls = [source for source in sources if source not in files]
    urls += [stream.detect for stream in settings.streams.values() if stream.enabled]
    if urls:
        live = LiveOptions(transport="udp" if udp else "tcp", credentials=settings.credentials)
        yield from camera_checks.check_cameras(urls, live, seconds)
    if discover:
        yield from camera_checks.check_network(DISCOVERY_S, settings, login)
    yield from checks.check_sinks(settings.sinks)
    yield from check_provider(settings.access)
    yield from checks.check_telemetry(settings.telemetry)
    yield from service_checks.check_grpc_port(settings)
    yield from service_checks.check_shadow(settings)
    yield from checks.check_cpu()
    yield from checks.check_memory()
    gpus, has_gpu = checks.check_gpus()
    yield from gpus
    yield from checks.check_packages()
    yield from checks.check_runtimes(has_gpu)
    others: Iterable[Iterator[Finding]] = (checks.check_codecs(), checks.check_disks(), checks.check_clock(), checks.check_home())
    for check in others:
        yield from check
    if find_spec("aiortc") is not None:  # check_packages has reported it
        from vision_infer.cli.preview_checks import check_port

        yield from check_port(settings, read_token(token_file))


def _check_preview(url: str, token_file: Path | None) -> Iterator[Finding]:
    """Yield the findings about a running service, as seen from this machine."""
    from vision_infer.cli.preview_checks import check_service

    require("doctor --preview", "aiortc", extra="serve")
    yield from check_service(ServiceClient(url, read_token(token_file), "--preview"))


def show_finding(finding: Finding) -> None:
    """Print a finding and its hint."""
    typer.echo(f"{finding.severity:<8} {finding.area:<8} {finding.text}")
    if finding.hint:
        typer.echo(f"{'':<17} → {finding.hint}")
