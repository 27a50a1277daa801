"""What happens in a scene: somebody enters a zone, leaves it, stays long, or crosses a line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

EventKind = Literal["enter", "leave", "dwell", "cross"]
Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One thing that happened to one track."""

    kind: EventKind
    place: str
    """name of the zone, or of the line where ``kind`` is ``cross``"""
    track_id: int
    """number of the track, from 1"""
    class_id: int
    label: str
    seconds: float | None = None
    """``leave`` and ``dwell``: how long it was inside"""
    direction: Direction | None = None
    """``cross``: ``in`` is from the left of the line to its right, looking along it"""
    counts: tuple[int, int] | None = None
    """``cross``: how often the line was crossed by now, in and out, this time included"""
    id: str = ""
    """16 hexadecimal digits, the same wherever the event is told; empty until it is in a result"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what the kind does not have; :data:`SCENE_EVENT_SCHEMA` describes them."""
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
    """The event under its name.

    Args:
        event: what happened.
        stream: where.
        moment: what sets the frame apart from all others of the stream: of a live stream when it was taken, nanoseconds since
            1970, of a recorded one its number.
    """
    what = f"{stream}\0{moment}\0{event.kind}\0{event.place}\0{event.track_id}"
    return replace(event, id=hashlib.sha256(what.encode(errors="surrogatepass")).hexdigest()[:16])


def _only(kinds: list[EventKind], *fields: str) -> dict[str, Any]:
    """These fields are there with these kinds, and with no other."""
    return {
        "if": {"properties": {"kind": {"enum": kinds}}},
        "then": {"required": list(fields)},
        "else": {"properties": dict.fromkeys(fields, False)},
    }


SCENE_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "what happened to one track in a zone or at a line",
    "additionalProperties": False,
    "required": ["kind", "place", "track_id", "class_id", "label"],
    "properties": {
        "id": {
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "description": "of the event, in every row: the service has its clip under this name",
        },
        "kind": {"enum": ["enter", "leave", "dwell", "cross"]},
        "place": {"type": "string", "minLength": 1, "description": "name of the zone, or with cross of the line"},
        "track_id": {"type": "integer", "minimum": 1},
        "class_id": {"type": "integer", "minimum": 0},
        "label": {"type": "string"},
        "seconds": {"type": "number", "minimum": 0, "description": "only with leave and dwell: how long it was inside"},
        "direction": {
            "enum": ["in", "out"],
            "description": "only with cross: in is from the left of the line to its right, looking along it",
        },
        "counts": {
            "type": "object",
            "description": "only with cross: how often the line was crossed by now, this time included",
            "additionalProperties": False,
            "required": ["in", "out"],
            "properties": {"in": {"type": "integer", "minimum": 0}, "out": {"type": "integer", "minimum": 0}},
        },
    },
    "allOf": [_only(["leave", "dwell"], "seconds"), _only(["cross"], "direction", "counts")],
}
"""JSON Schema (2020-12) of an event, a part of a row's"""
