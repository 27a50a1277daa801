"""Tracks that stand and walk at given positions, and zones and lines for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jsonschema import Draft202012Validator

from vision_infer.analyze.zones import Zones
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA, SceneEvent

LABELS = ("person", "bicycle", "car")
SIZE = Size(128, 64)
VALIDATOR = Draft202012Validator(SCENE_EVENT_SCHEMA)

Spot = tuple[int, float, float]
"""The number of a track and its position, pixels."""


def standing(*spots: Spot, side: float = 0, classes: Sequence[int] = ()) -> Detections:
    """Return square boxes with the middle of their lower edge at these positions."""
    boxes = [(x - side / 2, y - side, x + side / 2, y) for _, x, y in spots]
    kinds = np.array(classes or [0] * len(spots), np.int32)
    numbers = np.array([number for number, _, _ in spots], np.int32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(spots), 0.9, np.float32), kinds, LABELS, numbers)


def room(**values: object) -> ZoneSettings:
    return ZoneSettings.model_validate({"polygon": [[32, 16], [96, 16], [96, 48], [32, 48]], **values})


def line(start: tuple[float, float], end: tuple[float, float], **values: object) -> LineSettings:
    return LineSettings.model_validate({"from": start, "to": end, **values})


def watch(
    zones: dict[str, ZoneSettings] | None = None,
    lines: dict[str, LineSettings] | None = None,
    max_tracks: int = 100,
) -> Zones:
    return Zones(zones or {}, lines or {}, LABELS.index, max_tracks=max_tracks)


def walk(zones: Zones, path: Iterable[tuple[float, float]], side: float = 0, step_s: float = 1.0) -> list[SceneEvent]:
    """Move track 1 from position to position."""
    found: list[SceneEvent] = []
    for number, (x, y) in enumerate(path):
        found += zones.update(standing((1, x, y), side=side), SIZE, number * step_s)
    return found


def facts(events: Iterable[SceneEvent]) -> list[tuple[object, ...]]:
    return [(event.kind, event.place, event.track_id, event.seconds, event.direction, event.counts) for event in events]
