"""Devices of which nothing was measured: how far published figures go."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.capacity.devices import PublishedDevice, PublishedFigure
from vision_infer.capacity.need import Need


@dataclass(frozen=True, slots=True)
class PublishedBound:
    """What was published of a device, and what follows from it."""

    device: PublishedDevice
    cameras: int | None
    """at most, by what was published of decoding; None: nothing was that can be used"""
    says: str


def bound_of(device: PublishedDevice, need: Need) -> PublishedBound:
    """An upper bound from published figures alone; it is no forecast, since nothing tells what the network costs there."""
    if device.codecs and need.video.codec not in device.codecs:
        return PublishedBound(device, 0, f"it does not decode {need.video.codec}")
    usable = [(bound, one) for one in device.published if (bound := _cameras(one, need)) is not None]
    if not usable:
        return PublishedBound(device, None, "nothing was published that says how many cameras it carries")
    bound, figure = min(usable, key=lambda one: one[0])
    note = f" ({figure.note})" if figure.note else ""
    return PublishedBound(device, bound, f"published{note}, {figure.source}, read {figure.read:%Y-%m-%d}")


def _cameras(figure: PublishedFigure, need: Need) -> int | None:
    video = need.video
    if figure.what == "infer":
        same = figure.network == need.model and figure.fps is not None
        return int((figure.fps or 0) / need.fps) if same else None
    if figure.codec not in (None, video.codec) or figure.width is None or figure.height is None:
        return None
    larger = video.width * video.height / (figure.width * figure.height)
    if figure.fps is not None:
        return int(figure.fps / video.fps / larger)
    return None if figure.streams is None else int(figure.streams / larger)
