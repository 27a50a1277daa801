"""Upper bounds for devices that were not measured, from published figures."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.capacity.devices import PublishedDevice, PublishedFigure
from vision_infer.capacity.need import Need


@dataclass(frozen=True, slots=True)
class PublishedBound:
    """An upper bound for a device from published figures."""

    device: PublishedDevice
    cameras: int | None
    """The maximum number of cameras by published decoding rates; None if unknown."""
    explanation: str


def bound_of(device: PublishedDevice, need: Need) -> PublishedBound:
    """Return an upper bound from published figures. It is not an estimate, because the cost of the model is unknown."""
    if device.codecs and need.video.codec not in device.codecs:
        return PublishedBound(device, 0, f"it does not decode {need.video.codec}")
    usable = [(bound, figure) for figure in device.published if (bound := _cameras(figure, need)) is not None]
    if not usable:
        return PublishedBound(device, None, "no published figure limits the number of cameras")
    bound, figure = min(usable, key=lambda entry: entry[0])
    note = f" ({figure.note})" if figure.note else ""
    return PublishedBound(device, bound, f"published{note}, {figure.source}, read {figure.read:%Y-%m-%d}")


def _cameras(figure: PublishedFigure, need: Need) -> int | None:
    video = need.video
    if figure.what == "infer":
        same = figure.model == need.model and figure.fps is not None
        return int((figure.fps or 0) / need.fps) if same else None
    if figure.codec not in (None, video.codec) or figure.width is None or figure.height is None:
        return None
    larger = video.width * video.height / (figure.width * figure.height)
    if figure.fps is not None:
        return int(figure.fps / video.fps / larger)
    return None if figure.streams is None else int(figure.streams / larger)
