"""The settings of live video in the browser."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from vision_infer.config.settings_base import SettingsBase


def _ice_url(url: str) -> str:
    if not re.fullmatch(r"(stun:[^?\s:/@]+(:\d{1,5})?|turns?:[^?\s:/@]+(:\d{1,5})?(\?transport=(udp|tcp))?)", url):
        raise ValueError("must be stun:HOST:PORT, turn:HOST:PORT or turns:HOST:PORT?transport=tcp")
    return url


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        *others, last = text.split(".")
        if last.isdigit() or not all(re.fullmatch(r"\w([\w-]{0,61}\w)?", label, re.ASCII) for label in (*others, last)):
            raise ValueError("must be an IP address or a host name, without a port") from None
        return text
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise ValueError("must be the address of one machine, without a zone")
    return str(address)


class IceServer(SettingsBase):
    """A STUN or TURN server, which helps viewers and the service to connect to each other."""

    url: Annotated[str, AfterValidator(_ice_url)] = Field(
        description="The URL: stun:HOST:PORT, turn:HOST:PORT, or turns:HOST:PORT?transport=tcp."
    )
    username: str | None = Field(default=None, min_length=1, description="The user name for a TURN server.")
    credential: SecretStr | None = Field(
        default=None, description="The password for a TURN server. The service uses it, and does not send it to players."
    )
    secret: SecretStr | None = Field(
        default=None,
        description="The shared secret of a TURN server (coturn: `static-auth-secret`). The service and each player get a user "
        "name and password that are valid for 12 hours.",
    )

    @model_validator(mode="after")
    def _one_kind_of_login(self) -> IceServer:
        if self.secret is not None and (self.username is not None or self.credential is not None):
            raise ValueError("secret: replaces username and credential; remove those two")
        if self.secret is not None and self.url.startswith("stun:"):
            raise ValueError("secret: is valid for TURN servers only")
        return self


class PreviewSettings(SettingsBase):
    """Live video in the browser (WebRTC). It is passed through unchanged if browsers can play the camera's codec."""

    enabled: bool = Field(default=True, description="Whether live video is available.")
    port: int = Field(
        default=8189,
        ge=0,
        le=65_535,
        description="The UDP and TCP port for the video of all viewers, on the same addresses as the web server. 0: a random UDP "
        "port for each viewer.",
    )
    addresses: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(
        default=(),
        max_length=16,
        description="The IP addresses and host names under which viewers reach `port`. If set, `port` listens on all addresses "
        "even if the web server listens on loopback. Empty: the addresses of the machine.",
    )
    max_viewers: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="The maximum number of viewers of all streams together. With several processes, each has an equal part.",
    )
    max_viewers_per_stream: int = Field(default=32, ge=1, le=10_000, description="The maximum number of viewers of one stream.")
    max_encoders: int = Field(
        default=4,
        ge=0,
        le=256,
        description="The maximum number of videos encoded at the same time. With several processes, each has an equal part. "
        "0: no encoding.",
    )
    max_height: int = Field(
        default=2160, ge=16, le=8192, description="Video higher than this is encoded at a smaller size instead, in pixels."
    )
    encode_height: int = Field(default=540, ge=16, le=2160, description="The maximum height of encoded video, in pixels.")
    encode_fps: float = Field(default=25.0, gt=0, le=120, description="The maximum frame rate of encoded video.")
    encode_kbit_s: int = Field(default=1500, ge=50, le=100_000, description="The bit rate of encoded video, in kbit/s.")
    ice_servers: tuple[IceServer, ...] = Field(default=(), max_length=8, description="STUN and TURN servers: the first of each.")
