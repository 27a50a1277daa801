"""What an ONVIF camera offers, and which of its streams are used for inference and for viewing. No input or output here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_INFERENCE_CODECS = ("h264", "hevc")
"""The codecs that are preferred for inference: other ones need several times the bandwidth, or are old."""
_BROWSER_CODEC = "h264"
"""The codec that every browser plays, so that the preview sends it unmodified."""
DETECT_SIZE = 360
"""The minimum short side of the stream for inference, in pixels: that of the usual substreams, 640×360 and larger. Their long
side fills the input of a model with 416 or 640 pixels."""


@dataclass(frozen=True, slots=True)
class OnvifProfile:
    """A media profile: one video stream of a camera."""

    token: str
    """The identifier of the profile in the camera."""
    name: str
    codec: str
    """The codec as FFmpeg names it, such as ``h264``, ``hevc`` or ``mjpeg``; empty if it is unknown."""
    width: int
    height: int
    """The size in pixels; 0 if it is unknown."""
    frame_rate: float
    """The maximum frame rate in frames per second; 0 if it is unknown."""
    bit_rate_kbps: int
    """The maximum bit rate in kbit/s; 0 if it is unknown."""
    url: str
    """The RTSP URL, without credentials and with the host that answered."""
    source: str = ""
    """The video source, which is the sensor of a camera or the channel of a recorder."""


@dataclass(frozen=True, slots=True)
class OnvifCamera:
    """A camera or recorder, and its video streams."""

    manufacturer: str
    model: str
    name: str
    """Who made it, its model, and the name that was set in it; each is empty if it does not report it."""
    clock_offset_s: float | None
    """How far its clock is ahead of the clock of this machine, in seconds. None if it does not report its time."""
    profiles: tuple[OnvifProfile, ...]
    """The profiles with video, in the camera's order."""
    snapshot_url: str
    """The URL of a JPEG image, without credentials; empty if it offers none."""
    replaced_hosts: tuple[str, ...] = ()
    """The other hosts that its addresses named, such as the internal address of a camera behind NAT. The host that answered is
    used instead."""

    @property
    def channels(self) -> tuple[tuple[OnvifProfile, ...], ...]:
        """The profiles of each video source: one source for a camera, several for a recorder."""
        found: dict[str, list[OnvifProfile]] = {}
        for profile in self.profiles:
            found.setdefault(profile.source, []).append(profile)
        return tuple(map(tuple, found.values()))


def choose_streams(profiles: Sequence[OnvifProfile], detect_size: int = DETECT_SIZE) -> tuple[OnvifProfile, OnvifProfile]:
    """Choose the streams for inference and for viewing.

    For inference: the smallest whose short side has at least ``detect_size`` pixels; if there is none, the largest. H.264 and
    H.265 are preferred to other codecs. For viewing: the largest H.264 stream, which browsers play unmodified; if there is none,
    the largest. If streams have the same size, H.264 is preferred, then the higher frame rate.

    Args:
        profiles: The profiles of a channel; at least one.
        detect_size: The minimum short side for inference, in pixels.

    Returns:
        The profile for inference and the profile for viewing, which may be the same.
    """
    modern = [profile for profile in profiles if profile.codec in _INFERENCE_CODECS] or profiles
    large = [profile for profile in modern if min(profile.width, profile.height) >= detect_size]
    detect = min(large, key=_smallest_first) if large else max(modern, key=_largest)
    view = max([profile for profile in profiles if profile.codec == _BROWSER_CODEC] or profiles, key=_largest)
    return detect, view


def _largest(profile: OnvifProfile) -> tuple[int, bool, float]:
    return profile.width * profile.height, profile.codec == _BROWSER_CODEC, profile.frame_rate


def _smallest_first(profile: OnvifProfile) -> tuple[int, bool, float]:
    return profile.width * profile.height, profile.codec != _BROWSER_CODEC, -profile.frame_rate
