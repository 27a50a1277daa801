"""The checks of cameras in ``vision-infer doctor``. Each check returns its findings and never raises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

from vision_infer.core.errors import StreamError
from vision_infer.core.finding import Finding

if TYPE_CHECKING:
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


def check_network(wait_s: float) -> list[Finding]:
    """Search for cameras with ONVIF discovery."""
    from vision_infer.stream.discovery.discover import discover

    try:
        devices = discover(wait_s)
    except StreamError as error:
        return [Finding("network", "warning", error.message, error.hint)]
    if not devices:
        text = f"no camera responded within {wait_s:g} s"
        return [
            Finding(
                "network",
                "note",
                text,
                "Enable ONVIF in the cameras, and check that this machine is in their network: routers do not forward multicast.",
            )
        ]
    return [
        Finding(
            "network",
            "ok",
            " ".join(filter(None, (device.address, device.name, device.hardware, device.location, *device.services))),
            facts=asdict(device),
        )
        for device in devices
    ]
