"""Cameras in the local network: search for them, log in to one, and list its streams."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from contextlib import suppress

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from vision_infer.config.api_stream import is_allowed
from vision_infer.config.secrets.credentials import CameraCredentials, credentials_for
from vision_infer.config.serve import ServeSettings
from vision_infer.config.stream_url import PROTOCOLS, address_of, split_url
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.service.http import limits
from vision_infer.service.http.api_models import ApiModel, ImageSize
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem
from vision_infer.stream.discovery.discover import DiscoveredDevice, discover
from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile, choose_streams
from vision_infer.stream.onvif.read_camera import camera_streams, service_address, snapshot
from vision_infer.stream.redact import has_secret, redact

router = APIRouter(prefix="/api/v1", tags=["streams"])
logger = logging.getLogger("vision_infer.http")

MAX_WAIT_S = 10.0
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""The networks of cameras unless ``service.allow_networks`` is set: neither this machine, nor link-local addresses, among them
the metadata services of clouds, nor the internet (RFC 1918)."""
_WEB_PORTS = (*range(80, 90), 443)
"""The ports below 1024 that ONVIF services use. Other services that listen there must not receive requests."""


class FindRequest(BaseModel):
    """The options of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_s: float = Field(default=3.0, ge=0.5, le=MAX_WAIT_S, description="The time to wait for answers, in seconds.")


class FoundDevice(ApiModel):
    """A camera or recorder that answered."""

    address: str = Field(description="The IP address.")
    service: str = Field(description="The URL of its ONVIF service, for `POST /api/v1/cameras/inspect`.")
    name: str = Field(description="The name that it announces; may be empty.")
    hardware: str = Field(description="The hardware that it announces; may be empty.")
    location: str = Field(description="The location that it announces; may be empty.")
    credentials: bool = Field(description="Whether `credentials` in the configuration file has an entry for it.")


class InspectRequest(BaseModel):
    """A device, and the user to log in as."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    address: str = Field(
        min_length=1, max_length=512, description="A host, a host with a port, or the URL of an ONVIF service.", repr=False
    )
    user: str = Field(
        default="", max_length=128, description="The user name. Empty: that of `credentials` in the configuration file."
    )
    password: SecretStr = Field(default=SecretStr(""), max_length=256, description="The password. It is not stored.")


class CameraProfile(ApiModel):
    """A stream of a camera."""

    token: str = Field(description="The name by which the camera identifies the profile.")
    name: str
    codec: str
    size: ImageSize | None = Field(description="The frame size; null if it is unknown.")
    frame_rate: float | None = Field(description="The maximum frame rate, frames per second; null if it is unknown.")
    bit_rate: float | None = Field(description="The maximum bit rate, bits per second; null if it is unknown.")
    url: str = Field(
        description="The URL, without user name and password. If they come from the configuration file and the camera put a "
        "secret into the URL, this is shown as ***."
    )


class CameraChannel(ApiModel):
    """A video source of a camera, and the profiles to use."""

    detect: str = Field(description="The token of the profile for inference: the substream.")
    view: str = Field(description="The token of the profile for viewing: the main stream.")


class CameraAnswer(ApiModel):
    """A camera and its streams."""

    manufacturer: str
    model: str
    name: str
    clock_offset_s: float | None = Field(
        description="The time by which the camera's clock is ahead of the service's clock, in seconds; null if it is unknown."
    )
    profiles: list[CameraProfile]
    channels: list[CameraChannel] = Field(description="The video sources: one for a camera, several for a recorder.")
    snapshot: str | None = Field(description="An image of the first channel, JPEG as a data URL; null if there is none.")


@router.post("/cameras/find", responses=problems(403, 422, 503))
async def find_cameras(wanted: FindRequest, context: Shared, request: Request) -> list[FoundDevice]:
    """Search the local network for cameras by WS-Discovery. Only one search runs at a time.

    The message is sent by multicast and does not pass routers. Without host networking, a container receives no answers.
    """
    limiter = context.searches
    async with limiter.slot():
        try:
            found = await to_thread.run_sync(discover, wanted.wait_s, limiter=limiter.threads)
        except StreamError as error:
            raise Problem("unavailable", str(error), {"Retry-After": "5"}) from None
    logger.info("camera search by %s: %d devices answered", limits.address_of(request.scope), len(found))
    return [_device(one, context.backend.settings.credentials) for one in found]


@router.post("/cameras/inspect", responses=problems(403, 422, 503))
async def inspect_camera(wanted: InspectRequest, context: Shared, request: Request) -> CameraAnswer:
    """Log in to a camera by ONVIF and return its streams, those to use, and an image. Nothing is stored.

    The camera must be in `service.allow_networks`; if this is empty, in a private network.
    """
    limiter = context.inspections
    outcome = "canceled"
    async with limiter.slot():
        try:
            url = service_url(wanted.address, _networks(context.backend.settings))
            answer = await to_thread.run_sync(_inspect, url, wanted, context.backend.settings, limiter=limiter.threads)
            outcome = f"{redact(url)}: {len(answer.profiles)} streams"
        except StreamError as error:
            outcome = redact(error.message)
            raise Problem("invalid", str(error)) from None
        finally:
            logger.info("camera inspection by %s: %s", limits.address_of(request.scope), outcome)
    return answer


def _networks(settings: ServeSettings) -> tuple[str, ...]:
    return settings.service.allow_networks or PRIVATE_NETWORKS


def service_url(address: str, networks: tuple[str, ...]) -> str:
    """Return the URL of the ONVIF service at an address, if the service may send requests there.

    The address of a host name is checked when it is resolved for the connection.

    Raises:
        RefusedError: It is invalid or not allowed. The message contains no part of it.
    """
    url = service_address(address.strip())
    parts = split_url(url)
    port = parts.port or PROTOCOLS[parts.scheme].port
    if port < 1024 and port not in _WEB_PORTS:
        raise RefusedError("the ONVIF address has a port of another service", "Use port 80 to 89, 443, or one from 1024.")
    host = address_of(parts.host)
    if host is not None and not is_allowed(host, networks):
        hint = f"Allowed are {', '.join(networks)}; see service.allow_networks."
        raise RefusedError("the ONVIF address is outside the allowed networks", hint)
    return url


def _inspect(url: str, wanted: InspectRequest, settings: ServeSettings) -> CameraAnswer:
    """Ask a camera; see :func:`vision_infer.stream.onvif.read_camera.camera_streams` for the errors and the time limits."""
    user, password, networks = wanted.user, wanted.password.get_secret_value(), _networks(settings)
    stored = None if user else credentials_for(url, settings.credentials)
    if stored is not None:
        user, password = stored.user, stored.password.get_secret_value()
    camera = camera_streams(url, user, password, networks)
    image: bytes | None = None
    if camera.snapshot_url:
        with suppress(StreamError):  # the streams can be added without an image
            image = snapshot(camera, user, password, networks)
    # Some cameras repeat the password in the URL. The client may see one that it sent itself, in order to add the URL.
    return _answer(camera, image, None if stored is None else password)


def _answer(camera: OnvifCamera, image: bytes | None, secret: str | None) -> CameraAnswer:
    """Return the answer, in which no URL contains the password that is secret, or one that the camera made of it."""
    pairs = map(choose_streams, camera.channels)
    return CameraAnswer(
        manufacturer=camera.manufacturer,
        model=camera.model,
        name=camera.name,
        clock_offset_s=camera.clock_offset_s,
        profiles=[_profile(profile, secret) for profile in camera.profiles],
        channels=[CameraChannel(detect=detect.token, view=view.token) for detect, view in pairs],
        snapshot=None if image is None else f"data:image/jpeg;base64,{base64.b64encode(image).decode()}",
    )


def _profile(profile: OnvifProfile, secret: str | None) -> CameraProfile:
    known = profile.width > 0 and profile.height > 0
    return CameraProfile(
        token=profile.token,
        name=profile.name,
        codec=profile.codec,
        size=ImageSize(width=profile.width, height=profile.height) if known else None,
        frame_rate=profile.frame_rate or None,
        bit_rate=profile.bit_rate_kbps * 1000 or None,
        url=profile.url if secret is None or not has_secret(profile.url, secret) else redact(profile.url),
    )


def _device(found: DiscoveredDevice, credentials: Sequence[CameraCredentials]) -> FoundDevice:
    service = found.own_service or service_address(found.address)
    return FoundDevice(
        address=found.address,
        service=service,
        name=found.name,
        hardware=found.hardware,
        location=found.location,
        credentials=credentials_for(service, credentials) is not None,
    )
