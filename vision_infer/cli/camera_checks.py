"""The checks of cameras in ``vision-infer doctor``. Each check returns its findings and never raises."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain, count
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vision_infer.cli.cameras.login import PASSWORD, CameraLogin, user_and_password
from vision_infer.core.errors import StreamError
from vision_infer.core.finding import Finding
from vision_infer.core.packages import install

if TYPE_CHECKING:
    from vision_infer.config.serve import ServeSettings
    from vision_infer.stream.discovery.discover import DiscoveredDevice
    from vision_infer.stream.onvif.camera import OnvifCamera
    from vision_infer.stream.source import LiveOptions

CAMERAS_AT_ONCE = 4
"""With more cameras at once, their decoding would affect each other's jitter."""


def check_cameras(urls: Sequence[str], live: LiveOptions, limit_s: float) -> list[Finding]:
    """Open and measure each camera, a few at a time. The findings are in the order of the URLs."""
    with ThreadPoolExecutor(CAMERAS_AT_ONCE) as pool:
        probes = [pool.submit(_camera, number, url, live, limit_s) for number, url in enumerate(urls, 1)]
        return [finding for probe in probes for finding in probe.result()]


def _camera(number: int, url: str, live: LiveOptions, limit_s: float) -> list[Finding]:
    from vision_infer.config.stream_url import check_url, is_file
    from vision_infer.stream.discovery.probe import ProbeError, probe
    from vision_infer.stream.discovery.probe_findings import find_in_failure, find_in_probe
    from vision_infer.stream.redact import redact

    try:  # no message contains a part of the URL, which may be a mistyped password
        check_url(url)
    except ValueError as error:
        return [Finding("camera", "error", f"camera {number}: the URL {error}")]
    if is_file(url) and not os.path.lexists(url.removeprefix("file://")):
        text = f"camera {number}: is not a URL, file or device"
        return [
            Finding("camera", "error", text, "Write rtsp://USER:PASSWORD@HOST/PATH; the path is in the manual of the camera.")
        ]
    try:
        return find_in_probe(probe(url.removeprefix("file://"), live, limit_s=limit_s))
    except ProbeError as error:
        return [find_in_failure(redact(url), error)]


def check_network(wait_s: float, settings: ServeSettings, login: CameraLogin | None) -> list[Finding]:
    """Search for cameras with ONVIF discovery, and ask each for its streams.

    Args:
        wait_s: The time for which answers are collected, seconds.
        settings: The settings, of which ``credentials`` and ``service.allow_networks`` are used.
        login: The user name and password for all cameras; None for those of ``credentials``.
    """
    from vision_infer.stream.discovery.discover import discover

    try:
        devices = discover(wait_s)
    except StreamError as error:
        return [Finding("network", "warning", error.message, error.hint)]
    if not devices:
        text = f"no camera responded within {wait_s:g} s"
        hint = "Enable ONVIF in the cameras, and check that this machine is in their network: routers do not forward multicast."
        return [Finding("network", "note", text, hint)]
    if find_spec("onveef") is None:
        missing = [
            Finding(
                "network", "note", "the streams of the cameras were not read: the package onveef is missing", install("onvif")
            )
        ]
        return [*map(_device, devices), *missing]
    with ThreadPoolExecutor(CAMERAS_AT_ONCE) as pool:
        asked = list(pool.map(lambda device: _asked(device, settings, login), devices))
    taken = {name.casefold() for name in settings.streams}
    return [
        finding
        for device, answer in zip(devices, asked, strict=True)
        for finding in (
            _device(device),
            *([answer] if isinstance(answer, Finding) else _streams(device, answer, login, settings, taken)),
        )
    ]


def _device(device: DiscoveredDevice) -> Finding:
    words = (device.address, device.name, device.hardware, device.location, *device.services)
    return Finding("network", "ok", " ".join(filter(None, words)), facts=asdict(device))


def _service(device: DiscoveredDevice) -> str:
    from vision_infer.stream.onvif.read_camera import service_address

    return device.own_service or service_address(device.address)


def _asked(device: DiscoveredDevice, settings: ServeSettings, login: CameraLogin | None) -> OnvifCamera | Finding:
    """Return what a device offers, or why it cannot be read."""
    from vision_infer.stream.onvif.device_http import WrongPasswordError
    from vision_infer.stream.onvif.read_camera import camera_streams

    url = _service(device)
    user, password = user_and_password(url, login, settings.credentials)
    try:
        return camera_streams(url, user, password, settings.service.allow_networks)
    except WrongPasswordError as error:
        if user:
            return Finding("camera", "warning", error.message, error.hint)
        text = f"{device.address}: the user name and password are needed to read its streams"
        hint = f"Add --user NAME, with the password in ${PASSWORD} or --password-file FILE, or a CONFIG.yaml with credentials:."
        return Finding("camera", "note", text, hint)
    except StreamError as error:
        return Finding("camera", "warning", error.message, error.hint)


def _streams(
    device: DiscoveredDevice, camera: OnvifCamera, login: CameraLogin | None, settings: ServeSettings, taken: set[str]
) -> Iterator[Finding]:
    """Yield the streams of each channel, with a command that adds it and a line for a configuration.

    Args:
        device: The device.
        camera: What it offers.
        login: The user name and password of the options.
        settings: The settings with ``credentials``.
        taken: The names of streams that exist or were proposed, in lower case; the proposed ones are added.
    """
    from vision_infer.cli.cameras.entry import entry_line, stream_urls
    from vision_infer.stream.onvif.camera import choose_streams
    from vision_infer.stream.redact import has_secret, redact

    _, password = user_and_password(_service(device), login, settings.credentials)
    maker = " ".join(filter(None, (camera.manufacturer, camera.model)))
    for number, profiles in enumerate(camera.channels, 1):
        pair = choose_streams(profiles)
        name = _free_name(camera.name or device.name or camera.model, taken)
        roles = [
            f"{role} {redact(one.url)} ({one.codec} {one.width}x{one.height}, {one.frame_rate:g} frames/s)"
            for role, one in zip(("detect", "view"), pair, strict=True)
        ]
        hint = f"Run: vision-infer cameras add {_address(device)} --name {name}"
        hint += f" --channel {number}" if len(camera.channels) > 1 else ""
        hint += f" --user {shlex.quote(login.user)}" if login else ""
        if not any(has_secret(one.url, password) for one in pair):
            line = entry_line(name, stream_urls(*pair, *((login.user, login.reference) if login else ())))
            hint += f"; or paste below streams: in cameras.yaml: {line}"
        channel = f" channel {number}" if len(camera.channels) > 1 else ""
        facts = {role: {**asdict(one), "url": redact(one.url)} for role, one in zip(("detect", "view"), pair, strict=True)}
        yield Finding("camera", "ok", f"{device.address}{channel}: {maker}: {', '.join(roles)}", hint, facts)


def _address(device: DiscoveredDevice) -> str:
    """Return the shortest address for ``cameras add``, quoted for a shell, since the device chose it."""
    from vision_infer.stream.onvif.read_camera import service_address

    service = _service(device)
    short = (device.address, urlsplit(service).netloc)
    return shlex.quote(next((address for address in short if service_address(address) == service), service))


def _free_name(wanted: str, taken: set[str]) -> str:
    """Return a name for a stream that no other one has."""
    base = re.sub("[^a-z0-9]+", "-", wanted.lower()).strip("-")[:40].rstrip("-") or "camera"
    name = next(name for name in chain([base], (f"{base}-{number}" for number in count(2))) if name not in taken)
    taken.add(name)
    return name
