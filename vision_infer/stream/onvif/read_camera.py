"""Reads the properties, the streams and a snapshot of an ONVIF camera over HTTP."""

from __future__ import annotations

from vision_infer.core.errors import RefusedError
from vision_infer.stream.onvif.camera import OnvifCamera


class WrongPasswordError(RefusedError):
    """A camera refused the user name or the password, or it needs them and none were given."""


def camera_streams(
    service_url: str, user: str, password: str, allowed: tuple[str, ...] = (), *, limit_s: float = 10.0
) -> OnvifCamera:
    """Ask a camera for its properties and its streams.

    Args:
        service_url: The address of its ONVIF device service, such as ``http://192.0.2.7/onvif/device_service``, or only its
            host: ``192.0.2.7``, ``camera.example:8000``.
        user: The user name; empty to ask without one.
        password: The password.
        allowed: The networks that may be connected to, in CIDR notation. Empty: all.
        limit_s: The maximum time, seconds.

    Raises:
        WrongPasswordError: The camera refused the user name and password.
        RefusedError: The address is outside the allowed networks, or the device offers no video.
        StreamError: The device cannot be reached, or does not speak ONVIF.
        MissingPackageError: The extra ``onvif`` is not installed.
    """
    raise NotImplementedError


def snapshot(camera: OnvifCamera, user: str, password: str, allowed: tuple[str, ...] = (), *, limit_s: float = 5.0) -> bytes:
    """Return a JPEG image of a camera, at most 4 MiB.

    Args:
        camera: The camera, which has a ``snapshot_url``.
        user: The user name; empty to ask without one.
        password: The password.
        allowed: The networks that may be connected to, in CIDR notation. Empty: all.
        limit_s: The maximum time, seconds.

    Raises:
        WrongPasswordError: The camera refused the user name and password.
        RefusedError: The address is outside the allowed networks, or the camera offers no snapshot.
        StreamError: The camera cannot be reached, or the response is not a JPEG image.
    """
    raise NotImplementedError
