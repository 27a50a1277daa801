"""Reads the properties, the streams and a snapshot of an ONVIF camera over HTTP.

The user name and the password are sent in two ways, since some cameras accept only one of them: as a WS-Security UsernameToken
with a password digest, dated by the camera's own clock, and by HTTP Digest authentication if the camera asks for it.

Specifications: ONVIF Core, Media and Media2 Service Specifications; WS-Security UsernameToken Profile 1.0.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote

from vision_infer.config.stream_url import UrlParts, check_url, split_url
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.core.packages import require
from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile
from vision_infer.stream.onvif.device_http import DeviceHttp, WrongPasswordError
from vision_infer.stream.onvif.messages import InvalidResponseError, checked_text, fault_of, is_of_authentication
from vision_infer.stream.redact import printable, redact

LIMIT_S = 30.0
"""The default time limit, seconds: a recorder with 16 channels answers 50 requests or more, each with a connection."""
_MAX_MESSAGE, _MAX_SNAPSHOT = 1 << 20, 4 << 20
_MAX_PROFILES = 64
_MAX_TEXT, _MAX_URL = 200, 2000
_CLOCK_DIFFERS_S = 5.0
"""Cameras refuse a UsernameToken whose time differs from their own by a few seconds up to minutes."""
_NAME_SCOPE = "onvif://www.onvif.org/name/"
_CODECS = {"H265": "hevc", "JPEG": "mjpeg", "MPV4-ES": "mpeg4"}
"""FFmpeg's names of codecs where they differ from ONVIF's (RFC 4855 media subtypes in Media2)."""


_Answer = TypeVar("_Answer")


class _DeviceFaultError(StreamError):
    """A device answered a request with a fault that does not concern authentication."""


def camera_streams(
    service_url: str,
    user: str,
    password: str,
    allowed: tuple[str, ...] = (),
    *,
    limit_s: float = LIMIT_S,
    clock: Clock = SYSTEM_CLOCK,
) -> OnvifCamera:
    """Ask a camera for its properties and its streams.

    Args:
        service_url: The address of its ONVIF device service, such as ``http://192.0.2.7/onvif/device_service``, or only its
            host: ``192.0.2.7``, ``camera.example:8000``.
        user: The user name; empty to ask without one.
        password: The password.
        allowed: The networks that may be connected to, in CIDR notation. Empty: all.
        limit_s: The maximum time of all requests together, seconds.
        clock: The clock of this machine.

    Returns:
        The camera. The URLs have the host of ``service_url`` and no user name; the query of a URL may still hold a secret that
        the camera put there, so it is redacted before it is shown.

    Raises:
        WrongPasswordError: The camera refused the user name and password.
        RefusedError: The address is invalid or outside the allowed networks, or the device offers no video.
        StreamError: The device cannot be reached, or does not speak ONVIF.
        MissingPackageError: The extra ``onvif`` is not installed.
    """
    require("reading an ONVIF camera", "onveef")
    reader = _CameraReader(service_address(service_url), user, password, allowed, limit_s, clock)
    reader.read_clock()
    return reader.camera()


def snapshot(camera: OnvifCamera, user: str, password: str, allowed: tuple[str, ...] = (), *, limit_s: float = 5.0) -> bytes:
    """Return a JPEG image of a camera, at most 4 MiB.

    Args:
        camera: The camera.
        user: The user name; empty to ask without one.
        password: The password.
        allowed: The networks that may be connected to, in CIDR notation. Empty: all.
        limit_s: The maximum time, seconds.

    Raises:
        WrongPasswordError: The camera refused the user name and password.
        RefusedError: The address is outside the allowed networks, or the camera offers no snapshot.
        StreamError: The camera cannot be reached, or the response is not a JPEG image.
    """
    url = camera.snapshot_url
    if not url:
        raise RefusedError("the camera offers no snapshot", "Enable snapshots in its settings.")
    status, content = DeviceHttp(url, user, password, allowed, limit_s).send(url, _MAX_SNAPSHOT)
    if status != 200 or not content.startswith(b"\xff\xd8\xff"):
        raise StreamError(f"{redact(url)}: the response is not a JPEG image (status {status})")
    return content


def service_address(text: str) -> str:
    """Return the URL of an ONVIF device service, completed from a host if only that is given.

    Raises:
        RefusedError: It is invalid, or contains a user name. No part of it is in the message.
    """
    with suppress(ValueError):
        text = f"[{ipaddress.IPv6Address(text)}]"
    url = text if "://" in text else f"http://{text}"
    try:
        check_url(url)
        parts = split_url(url)
    except ValueError as error:
        raise RefusedError(
            f"the ONVIF address {error}", "Write 192.0.2.7 or http://192.0.2.7:8000/onvif/device_service."
        ) from None
    if parts.scheme not in ("http", "https") or parts.user:
        hint = "Write 192.0.2.7 or http://192.0.2.7:8000/onvif/device_service, and give the user name separately."
        raise RefusedError("the ONVIF address must be a host or a web address without a user name", hint)
    return _joined(parts.scheme, parts, parts.rest if parts.rest not in ("", "/") else "/onvif/device_service")


class _CameraReader:
    """One device, while its properties are read."""

    def __init__(self, url: str, user: str, password: str, allowed: tuple[str, ...], limit_s: float, clock: Clock) -> None:
        self._url, self._user, self._password, self._clock = url, user, password, clock
        self._parts = split_url(url)
        self._http = DeviceHttp(url, user, password, allowed, limit_s)
        self._offset_s: float | None = None
        self._replaced: dict[str, None] = {}
        self._speaks_onvif = False
        self._has_streams = False
        self._problem = ""

    def read_clock(self) -> None:
        """Read the device's time, for which no user name is needed, so that the times in later requests are right for it.

        Raises:
            StreamError: The device cannot be reached, or does not speak ONVIF.
        """
        from onveef import envelopes, parsers

        try:
            text = self._call(self._url, envelopes.device_get_system_date_time(), user="")
        except _DeviceFaultError:
            return
        except WrongPasswordError:
            if self._http.has_authenticated:  # another attempt could lock the account
                raise
            return  # the next request authenticates, with this machine's time
        now = self._clock.wall_ns() / 1e9
        with suppress(KeyError, ValueError, OverflowError):
            time = parsers.parse_system_datetime(text)["UTCDateTime"]
            year, month, day, hour, minute, second = (time[name] for name in ("year", "month", "day", "hour", "minute", "second"))
            self._offset_s = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp() - now

    def camera(self) -> OnvifCamera:
        """Return the properties and the streams."""
        from onveef import envelopes, parsers

        services = self._asked(envelopes.device_get_services(), parsers.parse_services)
        services = services or self._asked(envelopes.device_get_capabilities(), parsers.parse_capabilities)
        profiles: tuple[OnvifProfile, ...] = ()
        media = ("", False)
        for name in ("media2", "media"):
            url = self._on_device(services.get(name, ""), ("http", "https"))
            if url and not profiles:
                media = (url, name == "media2")
                profiles = tuple(self._profiles(*media))
        if not profiles:
            hint = "Check that it is a camera, that ONVIF is enabled in its settings, and that this user may watch video."
            problem = self._problem and f" (it reported: {self._problem})"
            raise RefusedError(f"{redact(self._url)}: the device offers no video stream over ONVIF{problem}", hint)
        self._has_streams = True
        information = self._asked(envelopes.device_get_information(), parsers.parse_device_information)
        scopes = self._asked(envelopes.device_get_scopes(), parsers.parse_scopes)
        named = [item["scope_item"].removeprefix(_NAME_SCOPE) for item in scopes if item["scope_item"].startswith(_NAME_SCOPE)]
        return OnvifCamera(
            manufacturer=_shown(information.get("Manufacturer", "")),
            model=_shown(information.get("Model", "")),
            name=_shown(unquote(named[0])) if named else "",
            clock_offset_s=self._offset_s,
            profiles=profiles,
            snapshot_url=self._snapshot_url(*media, profiles[0].token),
            replaced_hosts=tuple(self._replaced),
        )

    def _profiles(self, service: str, media2: bool) -> list[OnvifProfile]:
        from onveef import envelopes, parsers

        found: list[OnvifProfile] = []
        asked = envelopes.media_get_profiles(use_media2=media2)
        for profile in self._asked(asked, parsers.parse_profiles, service)[:_MAX_PROFILES]:
            encoder, source = profile.get("video_encoder"), profile.get("video_source", {})
            if encoder is None or not 0 < len(profile["token"]) <= _MAX_TEXT:
                continue
            codec = encoder["encoding"].upper()
            url = self._stream_url(service, media2, profile["token"])
            if url:
                found.append(
                    OnvifProfile(
                        token=profile["token"],
                        name=_shown(profile["name"]),
                        codec=_CODECS.get(codec, _shown(codec.lower())),
                        width=max(0, encoder.get("width", 0)),
                        height=max(0, encoder.get("height", 0)),
                        frame_rate=float(max(0, encoder.get("fps_limit") or 0)),
                        bit_rate_kbps=max(0, encoder.get("bitrate_kbps") or 0),
                        url=url,
                        source=_shown(source.get("source_token", "")),
                    )
                )
        return found

    def _stream_url(self, service: str, media2: bool, token: str) -> str:
        """Return the URL of a profile's stream; empty if the device reports none that can be used."""
        from onveef import envelopes, parsers

        for protocol in ("RTSP", "RtspUnicast") if media2 else ("RTSP",):  # over TCP; not every device lists it for Media2
            asked = envelopes.media_get_stream_uri(profile_token=token, use_media2=media2, protocol2=protocol)
            url = self._on_device(self._asked(asked, parsers.parse_stream_uri, service), ("rtsp", "rtsps"))
            if url:
                return url
        return ""

    def _snapshot_url(self, service: str, media2: bool, token: str) -> str:
        from onveef import envelopes, parsers

        asked = envelopes.media_get_snapshot_uri(profile_token=token, use_media2=media2)
        return self._on_device(self._asked(asked, parsers.parse_snapshot_uri, service), ("http", "https"))

    def _asked(self, body: str, parse: Callable[[str], _Answer], service: str = "") -> _Answer:
        """Return a parsed response; an empty one if the device answers with a fault or its response cannot be parsed.

        Raises:
            StreamError: The device cannot be reached, or refused the user name and password. Once the streams are known, this is
                not an error: the user may lack the permission for the remaining requests, which are not necessary.
        """
        try:
            return parse(self._call(service or self._url, body, self._user))
        except _DeviceFaultError as error:
            self._problem = error.message
        except StreamError:
            if not self._has_streams:
                raise
        except OverflowError:  # the parser does not expect the number 1e999
            self._problem = "an invalid number"
        return parse("")

    def _call(self, service: str, body: str, user: str) -> str:
        """Send a request and return the response.

        Raises:
            WrongPasswordError: The device refused the user name and password, or needs them.
            _DeviceFaultError: It answered with another fault.
            StreamError: It cannot be reached, or the response is not a SOAP message.
        """
        from onveef import envelopes

        envelope = envelopes.build_envelope(body, username=user, password=self._password, clock_offset_s=self._offset_s or 0.0)
        try:
            status, content = self._http.send(service, _MAX_MESSAGE, envelope.encode())
        except WrongPasswordError as error:
            raise self._wrong_password(error.message) from None
        try:
            text = checked_text(content)
        except InvalidResponseError as error:
            message = f"the response {error} (status {status})"
            if self._speaks_onvif:
                raise _DeviceFaultError(message) from None
            hint = "Check the address. Many cameras use another port for ONVIF, such as 8000 or 2020, or have ONVIF switched off."
            raise StreamError(f"{redact(service)}: no ONVIF service: {message}", hint) from None
        self._speaks_onvif = True
        fault = fault_of(text)
        if is_of_authentication(fault):
            raise self._wrong_password(f"{redact(service)}: authentication failed")
        if fault or status >= 400:
            raise _DeviceFaultError(_shown(redact(fault or f"status {status}")))
        return text

    def _wrong_password(self, message: str) -> WrongPasswordError:
        if not self._user:
            return WrongPasswordError(message, "Give the user name and password of the camera.")
        hint = "Check the user name and password. Some cameras have separate users for ONVIF."
        if self._offset_s is None:
            hint += " The camera's time cannot be read: check its clock too, because cameras refuse requests with another time."
        elif abs(self._offset_s) > _CLOCK_DIFFERS_S:
            hint += f" Its clock differs from this machine's by {abs(self._offset_s):.0f} s: set it by NTP if they are correct."
        return WrongPasswordError(message, hint)

    def _on_device(self, url: str, schemes: tuple[str, ...]) -> str:
        """Return a URL that the device reported, on the host that answered and without a user name; empty if it is unusable.

        If the URL names another host, the device is behind NAT or its setting is outdated. A web address then gets the port
        that answered as well, and RTSP keeps its own.
        """
        try:
            check_url(url)
            parts = split_url(url)
        except ValueError:
            return ""
        if parts.scheme not in schemes or len(url) > _MAX_URL:
            return ""
        own, scheme, port = self._is_own(parts.host), parts.scheme, parts.port
        if not own:
            self._replaced[_shown(parts.host)] = None
        is_web = scheme in ("http", "https")
        if is_web and (not own or self._parts.scheme == "https"):
            scheme, port = self._parts.scheme, self._parts.port
        return _joined(scheme, UrlParts(scheme, "", self._parts.host, port), parts.rest)

    def _is_own(self, host: str) -> bool:
        if host.casefold() == self._parts.host.casefold():
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(host) == ipaddress.ip_address(self._http.address)
        return False


def _joined(scheme: str, parts: UrlParts, rest: str) -> str:
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    return f"{scheme}://{host}{'' if parts.port is None else f':{parts.port}'}{rest}"


def _shown(text: Any) -> str:
    return printable(str(text))[:_MAX_TEXT]
