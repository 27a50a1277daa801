"""Events in a scene: a track enters a zone, leaves it, stays long, or crosses a line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

EventKind = Literal["enter", "leave", "dwell", "cross"]
Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One event of one track."""

    kind: EventKind
    place: str
    """The name of the zone, or of the line if ``kind`` is ``cross``."""
    track_id: int
    """The number of the track, from 1."""
    class_id: int
    label: str
    seconds: float | None = None
    """``leave`` and ``dwell``: the time inside, seconds."""
    direction: Direction | None = None
    """``cross``: ``in`` is from the left of the line to its right, looking along it."""
    counts: tuple[int, int] | None = None
    """``cross``: the number of crossings of the line so far, in and out, including this one."""
    id: str = ""
    """The identifier, 16 hexadecimal digits, the same in all outputs; empty until the event is in a result."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without fields that the kind does not have; :data:`SCENE_EVENT_SCHEMA` describes them."""
        values: dict[str, Any] = {"id": self.id} if self.id else {}
        values |= {
            "kind": self.kind,
            "place": self.place,
            "track_id": self.track_id,
            "class_id": self.class_id,
            "label": self.label,
        }
        if self.seconds is not None:
            values["seconds"] = round(self.seconds, 3)
        if self.direction is not None:
            values["direction"] = self.direction
        if self.counts is not None:
            values["counts"] = {"in": self.counts[0], "out": self.counts[1]}
        return values


def with_id(event: SceneEvent, stream: str, moment: int) -> SceneEvent:
    """Return the event with its identifier.

    Args:
        event: The event.
        stream: The name of the stream.
        moment: A number that is unique to the frame in its stream: the capture time of a live stream, nanoseconds since 1970,
            or the frame number of a recorded one.
    """
    identity = f"{stream}\0{moment}\0{event.kind}\0{event.place}\0{event.track_id}"
    return replace(event, id=hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:16])


def _only(kinds: list[EventKind], *fields: str) -> dict[str, Any]:
    """Return a schema that requires the fields for these kinds, and forbids them for others."""
    return {
        "if": {"properties": {"kind": {"enum": kinds}}},
        "then": {"required": list(fields)},
        "else": {"properties": dict.fromkeys(fields, False)},
    }


SCENE_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "An event of one track in a zone or at a line.",
    "additionalProperties": False,
    "required": ["kind", "place", "track_id", "class_id", "label"],
    "properties": {
        "id": {
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "description": "The identifier of the event, the same in every row and in the name of its clip.",
        },
        "kind": {"enum": ["enter", "leave", "dwell", "cross"]},
        "place": {"type": "string", "minLength": 1, "description": "The name of the zone, or of the line with cross."},
        "track_id": {"type": "integer", "minimum": 1},
        "class_id": {"type": "integer", "minimum": 0},
        "label": {"type": "string"},
        "seconds": {"type": "number", "minimum": 0, "description": "The time inside, seconds. Only with leave and dwell."},
        "direction": {
            "enum": ["in", "out"],
            "description": "in is from the left of the line to its right, looking along it. Only with cross.",
        },
        "counts": {
            "type": "object",
            "description": "The number of crossings of the line so far, including this one. Only with cross.",
            "additionalProperties": False,
            "required": ["in", "out"],
            "properties": {"in": {"type": "integer", "minimum": 0}, "out": {"type": "integer", "minimum": 0}},
        },
    },
    "allOf": [_only(["leave", "dwell"], "seconds"), _only(["cross"], "direction", "counts")],
}
"""The JSON Schema (2020-12) of an event, part of that of a row."""
