"""The result of one frame, and the JSON row in which it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vision_infer.core.description import DESCRIPTION_PROPERTIES, Description
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.json_text import quoted
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA, SceneEvent
from vision_infer.core.trace import Latency


@dataclass(frozen=True, slots=True)
class LiveAccount:
    """What a live stream's result tells besides."""

    captured_wall_ns: int
    """when the picture was taken, nanoseconds since 1970 (UTC)"""
    age_ns: int
    """how old the picture was when the result was emitted: emitted − captured"""
    clock: str
    """where ``captured`` comes from: ``arrival``, ``camera`` or ``playout``"""
    dropped_before: Mapping[str, int]
    """frames of this stream that were dropped since its last result, by reason"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a frame gave, with the account of its time. Plain values only: it can go to another process."""

    stream: str
    frame: int
    """number of the frame in its stream, from 0"""
    pts_s: float | None
    """presentation time, seconds; None where there is none"""
    size: Size
    """the source picture, pixels"""
    model: str
    engine: str
    detections: Detections
    latency: Latency
    file: str | None = None
    """name of the picture's file, in a folder of pictures"""
    damaged: bool = False
    """the decoder marked the picture: something of it is missing or guessed"""
    live: LiveAccount | None = None
    """of a live stream"""
    events: tuple[SceneEvent, ...] = ()
    """what happened in the stream's zones and at its lines"""
    description: Description | None = None
    """of a network for classification or embeddings: what it says of the whole picture; then there are no detections"""
    gated: bool = False
    """nothing had moved in the frame: it was not inferred, and this repeats what was found in the last one that was"""

    def to_json(self) -> str:
        """One line of JSON, without the line end; :data:`RESULT_SCHEMA` describes it."""
        found = self.detections
        parts: list[str] = []
        tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
        told = [None] * len(found) if found.descriptions is None else found.descriptions
        for (x1, y1, x2, y2), score, class_id, track, description in zip(
            found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), tracks, told, strict=True
        ):
            tail = f', "track_id": {track}' if track else ""
            if description is not None:
                tail += ", " + description.to_json()
            parts.append(
                '{"class_id": %d, "label": %s, "score": %.4f, "box": [%.2f, %.2f, %.2f, %.2f]%s}'
                % (class_id, quoted(found.label_of(class_id)), score, x1, y1, x2, y2, tail)
            )
        spent = self.latency
        pts = "null" if self.pts_s is None else repr(round(self.pts_s, 6))
        file = "" if self.file is None else f'"file": {quoted(self.file)}, '
        if self.damaged:
            file += '"damaged": true, '
        if self.gated:
            file += '"gated": true, '
        tail = "" if self.description is None else ", " + self.description.to_json()
        secondary = ', "secondary": %.3f' % (spent.secondary_ns / 1e6) if spent.secondary_ns else ""
        if self.live is not None:
            tail += _live_fields(self.live)
        if self.events:
            tail += ', "events": ' + json.dumps([event.to_dict() for event in self.events])
        return (
            '{"stream": %s, "frame": %d, %s"pts_s": %s, "width": %d, "height": %d, "model": %s, "engine": %s, '
            '"detections": [%s], "latency_ms": {"decode": %.3f, "queue": %.3f, "preprocess": %.3f, "inference": %.3f, '
            '"postprocess": %.3f%s, "total": %.3f}%s}'
            % (
                quoted(self.stream),
                self.frame,
                file,
                pts,
                self.size.width,
                self.size.height,
                quoted(self.model),
                quoted(self.engine),
                ", ".join(parts),
                spent.decode_ns / 1e6,
                spent.queue_ns / 1e6,
                spent.preprocess_ns / 1e6,
                spent.inference_ns / 1e6,
                spent.postprocess_ns / 1e6,
                secondary,
                spent.total_ns / 1e6,
                tail,
            )
        )


def _live_fields(live: LiveAccount) -> str:
    dropped = ", ".join('"%s": %d' % item for item in live.dropped_before.items())
    return ', "captured_at": "%s", "age_ms": %.3f, "clock": "%s", "dropped_before": {%s}' % (
        utc(live.captured_wall_ns),
        live.age_ns / 1e6,
        live.clock,
        dropped,
    )


def utc(wall_ns: int) -> str:
    """A moment as RFC 3339 has it, to the millisecond: ``2026-11-24T18:00:00.123Z``.

    Args:
        wall_ns: nanoseconds since 1970 (UTC).
    """
    seconds, milliseconds = divmod(wall_ns // 1_000_000, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".%03dZ" % milliseconds


def _milliseconds(what: str) -> dict[str, Any]:
    return {"type": "number", "description": f"{what}, milliseconds"}


RESULT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "vision-infer result",
    "description": "One line of a .jsonl file: what one frame of one stream gave.",
    "type": "object",
    "additionalProperties": False,
    "required": ["stream", "frame", "pts_s", "width", "height", "model", "engine", "detections", "latency_ms"],
    "properties": {
        "stream": {"type": "string", "minLength": 1, "description": "name of the stream, unique in a run"},
        "frame": {
            "type": "integer",
            "minimum": 0,
            "description": "number of the frame in its stream, from 0, counting all that are read: with --start from "
            "there, with --keyframes-only key frames only",
        },
        "file": {"type": "string", "description": "name of the picture's file, only in a folder of pictures"},
        "damaged": {"const": True, "description": "only where the decoder marked the picture: something is missing or guessed"},
        "gated": {
            "const": True,
            "description": "only where the motion gate saw no change in the frame: it was not inferred, and repeats what was "
            "found last",
        },
        "pts_s": {"type": ["number", "null"], "description": "presentation time, seconds; null where there is none"},
        "width": {"type": "integer", "minimum": 1, "description": "of the source picture, pixels"},
        "height": {"type": "integer", "minimum": 1, "description": "of the source picture, pixels"},
        "model": {"type": "string", "description": "name of the model"},
        "engine": {"type": "string", "description": "runtime-device-precision"},
        "detections": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["class_id", "label", "score", "box"],
                "properties": {
                    "class_id": {"type": "integer", "minimum": 0},
                    "label": {"type": "string"},
                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                    "box": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 4,
                        "maxItems": 4,
                        "description": "x1, y1, x2, y2 in pixels of the source picture",
                    },
                    "track_id": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "only with tracking, once the track is confirmed",
                    },
                    **DESCRIPTION_PROPERTIES,
                },
            },
        },
        "latency_ms": {
            "type": "object",
            "additionalProperties": False,
            "required": ["decode", "queue", "preprocess", "inference", "postprocess", "total"],
            "properties": {
                "decode": _milliseconds("decoding"),
                "queue": _milliseconds("all waiting between the stages"),
                "preprocess": _milliseconds("colour conversion and resize into the engine's buffer"),
                "inference": _milliseconds("the engine, for the whole batch"),
                "postprocess": _milliseconds("selection (NMS), tracking and the hook"),
                "secondary": _milliseconds(
                    "only with a second network: that network, for all crops of the frame, waiting included"
                ),
                "total": _milliseconds("from the start of decoding until the result was complete: the sum of the others"),
            },
        },
        **DESCRIPTION_PROPERTIES,
        "captured_at": {
            "type": "string",
            "format": "date-time",
            "description": "when the picture was taken (UTC); this and what follows: live streams only",
        },
        "age_ms": _milliseconds("how old the picture was when its result was complete"),
        "clock": {
            "enum": ["arrival", "camera", "playout"],
            "description": "how captured_at is known: by the arrival of the picture's packet, by the camera's own clock, or by "
            "the moment at which a file's picture was due",
        },
        "dropped_before": {
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 1},
            "description": "frames of this stream that were dropped since its last result, by reason",
        },
        "skipped": {
            "type": "integer",
            "minimum": 1,
            "description": "only over WebSocket and server-sent events: results of this stream that this reader was too slow "
            "for, since the one that it got before",
        },
        "skipped_events": {
            "type": "array",
            "items": SCENE_EVENT_SCHEMA,
            "description": "only with skipped: what happened in those, the last 64 at most",
        },
        "events": {
            "type": "array",
            "items": SCENE_EVENT_SCHEMA,
            "description": "only where something happened at a zone or line",
        },
    },
}
"""JSON Schema (2020-12) of a row"""
