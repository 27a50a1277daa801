"""The checks of cameras in ``vision-infer doctor``. Each check returns its findings and never raises."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
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
        asked = [pool.submit(_streams, device, settings, login) for device in devices]
        return [
            finding for device, streams in zip(devices, asked, strict=True) for finding in (_device(device), *streams.result())
        ]


def _device(device: DiscoveredDevice) -> Finding:
    words = (device.address, device.name, device.hardware, device.location, *device.services)
    return Finding("network", "ok", " ".join(filter(None, words)), facts=asdict(device))


def _streams(device: DiscoveredDevice, settings: ServeSettings, login: CameraLogin | None) -> list[Finding]:
    """Return the streams of each channel of a device, or why they cannot be read."""
    from vision_infer.stream.onvif.device_http import WrongPasswordError
    from vision_infer.stream.onvif.read_camera import camera_streams, service_address

    # A device may name only its own address: the password is sent to the device that answered.
    own = [url for url in device.services if urlsplit(url).hostname == device.address]
    url = own[0] if own else service_address(device.address)
    user, password = user_and_password(url, login, settings.credentials)
    try:
        camera = camera_streams(url, user, password, settings.service.allow_networks)
    except WrongPasswordError as error:
        if user:
            return [Finding("camera", "warning", error.message, error.hint)]
        text = f"{device.address}: the user name and password are needed to read its streams"
        hint = f"Add --user NAME, with the password in ${PASSWORD} or --password-file FILE, or a CONFIG.yaml with credentials:."
        return [Finding("camera", "note", text, hint)]
    except StreamError as error:
        return [Finding("camera", "warning", error.message, error.hint)]
    sources = list(dict.fromkeys(profile.source for profile in camera.profiles))
    return [_channel(device, camera, number, source, login) for number, source in enumerate(sources, 1)]


def _channel(device: DiscoveredDevice, camera: OnvifCamera, number: int, source: str, login: CameraLogin | None) -> Finding:
    """Return the streams of a channel, with a line for a configuration."""
    from vision_infer.cli.cameras.entry import entry_line, stream_urls
    from vision_infer.stream.onvif.camera import choose_streams
    from vision_infer.stream.redact import redact

    pair = choose_streams([profile for profile in camera.profiles if profile.source == source])
    name = re.sub("[^a-z0-9]+", "-", (camera.name or camera.model).lower()).strip("-")[:40] or "camera"
    name += "" if number == 1 else f"-{number}"
    roles = [
        f"{role} {redact(one.url)} ({one.codec} {one.width}x{one.height}, {one.frame_rate:g} frames/s)"
        for role, one in zip(("detect", "view"), pair, strict=True)
    ]
    maker = " ".join(filter(None, (camera.manufacturer, camera.model)))
    channel = f" channel {number}" if number > 1 else ""
    facts = {role: {**asdict(one), "url": redact(one.url)} for role, one in zip(("detect", "view"), pair, strict=True)}
    if any(redact(one.url) != one.url for one in pair):  # the camera put a secret into the URL
        hint = f"Run: vision-infer cameras add {device.address} --name {name}{f' --channel {number}' if number > 1 else ''}"
    else:
        line = entry_line(name, stream_urls(*pair, *((login.user, login.reference) if login else ())))
        hint = f"Paste below streams: in cameras.yaml, or run 'vision-infer cameras add': {line}"
    return Finding("camera", "ok", f"{device.address}{channel}: {maker}: {', '.join(roles)}", hint, facts)
