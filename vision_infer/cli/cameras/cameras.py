"""``vision-infer cameras``: add a camera to a configuration file, and list its cameras."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.cameras.login import PASSWORD, CameraLogin, PasswordFile, User, read_login, user_and_password
from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.errors import RefusedError, StreamError, UsageError

if TYPE_CHECKING:
    from vision_infer.config.serve import ServeSettings
    from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile

CHECK_S, WATCH_S = 10.0, 0.5
"""The time limit of the check that a frame arrives, and the time for which the camera is watched after it, seconds."""
_REFERENCE = re.compile(r"\$\{(\w+)\}")
app = typer.Typer(help="Add cameras to a configuration file, and list its cameras.", no_args_is_help=True)
Configuration = Annotated[Path, Option("--file", metavar="CAMERAS.yaml", help="The configuration file.")]


@app.command("add")
def add_command(
    address: Annotated[
        str, Argument(metavar="ADDRESS", help="The camera: its host, HOST:PORT, or the URL of its ONVIF service.")
    ],
    name: Annotated[str, Option(metavar="NAME", help="The name of the stream.")],
    user: User = None,
    password_file: PasswordFile = None,
    channel: Annotated[int | None, Option(min=1, max=256, help="The channel of a recorder, from 1.")] = None,
    file: Configuration = Path("cameras.yaml"),
    check: Annotated[bool, Option("--check/--no-check", help="Whether the camera is added only if a frame arrives.")] = True,
) -> None:
    """Ask a camera for its streams over ONVIF, and add it to a configuration file.

    The substream is used for detection, the main stream for viewing. The file contains a reference in place of the password.
    """
    from vision_infer.cli.cameras.entry import NotEditableError, entry_lines, replace_file, stream_urls, with_stream
    from vision_infer.config.serve_file import load_settings
    from vision_infer.config.yaml_lines import read_text
    from vision_infer.stream.onvif.camera import choose_streams
    from vision_infer.stream.redact import redact

    if not re.fullmatch(STREAM_NAME, name):
        hint = "Names have up to 64 letters, digits, dots, dashes and underscores, and begin with a letter or digit."
        raise UsageError("--name: is not a valid name", hint)
    settings = _settings(file) if file.exists() else load_settings(None, (), os.environ, {})
    if name.casefold() in {other.casefold() for other in settings.streams}:
        raise UsageError(f"{name}: {file} already has a stream of this name", "Choose another --name.")
    if len(settings.streams) >= settings.service.max_streams:
        raise UsageError(f"{file}: has service.max_streams streams ({len(settings.streams)})", "Raise service.max_streams.")
    login = read_login(user, password_file, (f"CAMERA_{re.sub('[^A-Z0-9]', '_', name.upper())}_PASSWORD", PASSWORD))
    camera = _asked(address, login, settings, file)
    detect, view = choose_streams(_of_channel(camera, channel))
    written = (login.user, login.reference) if login else ()
    stream = stream_urls(detect, view, *written)
    if check:
        _check(detect, login, settings)
    try:
        changed = with_stream(read_text(file) if file.exists() else "", name, stream)
    except NotEditableError as error:
        for line in entry_lines(name, stream):
            typer.echo(line)
        raise UsageError(f"{file}: {error}", "Paste the lines above into the file, below streams:.") from None
    replace_file(file, changed)
    typer.echo(f"added {name} to {file}:")
    shown = [replace(one, url=redact(one.url)) for one in (detect, view)]  # some cameras put a secret into the URL
    for line in entry_lines(name, stream_urls(shown[0], shown[1], *written)):
        typer.echo(line)
    _explain(camera, login)


@app.command("list")
def list_command(file: Configuration = Path("cameras.yaml"), json_output: options.Json = False) -> None:
    """List the cameras of a configuration file. Passwords are not needed, and shown as ***."""
    rows = _rows(file)
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        view = f"  view {row['view']}" if row["view"] else ""
        typer.echo(f"{row['name']}  {row['detect']}{view}{'' if row['enabled'] else '  (not enabled)'}")
    if not rows:
        typer.echo(f"{file}: no cameras")


def _settings(file: Path) -> ServeSettings:
    """Return the settings of a file. Variables that only its streams refer to need not be set: other cameras' passwords."""
    from vision_infer.config.serve_file import load_settings

    data = _content(file)
    streams = _REFERENCE.findall(str(data.pop("streams", "")))
    unused = dict.fromkeys(set(streams) - set(_REFERENCE.findall(str(data))), "unused")
    return load_settings(file, (), unused | dict(os.environ), {})


def _content(file: Path) -> dict[str, Any]:
    """Return the content of a file without any replacement."""
    from vision_infer.config.yaml_lines import YamlError, compose, plain, read_text

    try:
        tree = compose(read_text(file))
        data = {} if tree is None else plain(tree)
    except YamlError as error:
        raise UsageError(f"{file}: line {error.line}: {error.message}") from None
    return data if isinstance(data, dict) else {}


def _rows(file: Path) -> list[dict[str, Any]]:
    from vision_infer.stream.redact import redact

    streams = _content(file).get("streams") or {}
    if not isinstance(streams, dict) or not all(isinstance(stream, dict) for stream in streams.values()):
        raise UsageError(f"{file}: the streams are not valid", f"Run: vision-infer serve {file} --check")
    return [
        {
            "name": name,
            "enabled": stream.get("enabled", True) is not False,
            "detect": redact(str(stream.get("detect", stream.get("url", "")))),
            "view": redact(str(stream["view"])) if stream.get("view") else None,
        }
        for name, stream in streams.items()
    ]


def _asked(address: str, login: CameraLogin | None, settings: ServeSettings, file: Path) -> OnvifCamera:
    """Return the camera at an address. The user name is that of the options, or else of ``credentials`` in the file."""
    from vision_infer.stream.onvif.device_http import WrongPasswordError
    from vision_infer.stream.onvif.read_camera import camera_streams, service_address

    url = service_address(address)
    user, password = user_and_password(url, login, settings.credentials)
    try:
        return camera_streams(url, user, password, settings.service.allow_networks)
    except WrongPasswordError as error:
        if user:
            raise
        hint = f"Add --user NAME, or write the user name and password to credentials: in {file}."
        raise WrongPasswordError(error.message, hint) from None


def _of_channel(camera: OnvifCamera, channel: int | None) -> tuple[OnvifProfile, ...]:
    """Return the profiles of a channel, of which a camera has one, and a recorder several."""
    channels = camera.channels
    if channel is None and len(channels) > 1:
        raise UsageError(f"the device has {len(channels)} channels", f"Add --channel N, from 1 to {len(channels)}.")
    if (channel or 1) > len(channels):
        has = f"{len(channels)} channels" if len(channels) > 1 else "one channel"
        raise UsageError(f"--channel {channel}: the device has {has}", "Choose an existing channel.")
    return channels[(channel or 1) - 1]


def _check(detect: OnvifProfile, login: CameraLogin | None, settings: ServeSettings) -> None:
    """Open the stream for detection, and print what it sends.

    Raises:
        StreamError: No frame arrives.
    """
    from urllib.parse import quote

    from vision_infer.cli.doctor import show_finding
    from vision_infer.stream.discovery.probe import ProbeError, probe
    from vision_infer.stream.discovery.probe_findings import find_in_probe
    from vision_infer.stream.source import LiveOptions

    url = detect.url
    if login is not None:
        user, password = quote(login.user, safe=""), quote(login.password, safe="")
        url = url.replace("://", f"://{user}:{password}@", 1)
    live = LiveOptions(allow_networks=settings.service.allow_networks, credentials=settings.credentials)
    try:
        found = probe(url, live, watch_s=WATCH_S, limit_s=CHECK_S)
    except ProbeError as error:
        kind = RefusedError if error.refused else StreamError
        raise kind(error.message, f"{error.hint} The camera was not added; --no-check adds it without this check.") from None
    for finding in find_in_probe(found):
        show_finding(finding)


def _explain(camera: OnvifCamera, login: CameraLogin | None) -> None:
    """Print what else has to be known or done."""
    if login is not None and login.variable:
        typer.echo(f"Set the environment variable {login.variable} to the password before you start the service.")
    for host in camera.replaced_hosts:
        typer.echo(f"The camera reported addresses at {host}; the address that answered is used instead.")
