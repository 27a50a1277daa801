"""The result of one frame, and its JSON row."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vision_infer.core.description import DESCRIPTION_PROPERTIES, Description
from vision_infer.core.details.masks import MASK_SCHEMA
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.json_text import quoted
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA, SceneEvent
from vision_infer.core.trace import Latency


@dataclass(frozen=True, slots=True)
class LiveAccount:
    """The additional values of a live stream's result."""

    captured_wall_ns: int
    """The capture time, nanoseconds since 1970 (UTC)."""
    age_ns: int
    """The age of the frame when the result was emitted, nanoseconds: emitted − captured."""
    clock: str
    """The source of the capture time: ``arrival``, ``camera`` or ``playout``."""
    dropped_before: Mapping[str, int]
    """The number of frames of this stream that were dropped since its last result, by reason."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a frame, with the time that it took. Plain values only, so that it can go to another process."""

    stream: str
    frame: int
    """The number of the frame in its stream, from 0."""
    pts_s: float | None
    """The presentation time, seconds; None if there is none."""
    size: Size
    """The size of the source image, pixels."""
    model: str
    engine: str
    detections: Detections
    latency: Latency
    file: str | None = None
    """The file name of the image, in a folder of images."""
    damaged: bool = False
    """Whether parts of the frame, or of one that it refers to, are missing or guessed."""
    live: LiveAccount | None = None
    """The additional values of a live stream; None for other streams."""
    events: tuple[SceneEvent, ...] = ()
    """The events in the stream's zones and at its lines."""
    description: Description | None = None
    """The description of the whole image, of a model for classification or embeddings; then there are no detections."""
    gated: bool = False
    """Whether the motion gate skipped inference: the result repeats the detections of the last frame with inference."""
    extra: Mapping[str, Any] | None = None
    """Fields that a hook has added: JSON values; None if there are none."""

    def to_json(self) -> str:
        """Return one line of JSON, without the line end; :data:`RESULT_SCHEMA` describes it."""
        found = self.detections
        labels = map(quoted, found.labels)
        rows = zip(found.class_ids.tolist(), labels, found.scores.tolist(), found.boxes.tolist(), _tails(found), strict=True)
        parts = [
            '{"class_id": %d, "label": %s, "score": %.4f, "box": [%.2f, %.2f, %.2f, %.2f]%s}'
            % (class_id, label, score, x1, y1, x2, y2, tail)
            for class_id, label, score, (x1, y1, x2, y2), tail in rows
        ]
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
        if self.extra is not None:
            tail += ', "extra": ' + json.dumps(self.extra)
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


def _tails(found: Detections) -> list[str]:
    """Return the fields of each detection after its box."""
    tails = [""] * len(found)
    if found.track_ids is not None:
        tails = [f', "track_id": {track}' if track else "" for track in found.track_ids.tolist()]
    if found.identities is not None:
        numbers = found.identities.tolist()
        tails = [tail + (f', "identity": {number}' if number else "") for tail, number in zip(tails, numbers, strict=True)]
    if found.details is not None:
        tails = [tail + ", " + json.dumps(found.details.row(at))[1:-1] for at, tail in enumerate(tails)]
    if found.descriptions is not None:
        tails = [
            tail if description is None else tail + ", " + description.to_json()
            for tail, description in zip(tails, found.descriptions, strict=True)
        ]
    return tails


def _live_fields(live: LiveAccount) -> str:
    dropped = ", ".join('"%s": %d' % item for item in live.dropped_before.items())
    return ', "captured_at": "%s", "age_ms": %.3f, "clock": "%s", "dropped_before": {%s}' % (
        utc(live.captured_wall_ns),
        live.age_ns / 1e6,
        live.clock,
        dropped,
    )


def utc(wall_ns: int) -> str:
    """Return a time in RFC 3339 format, to the millisecond: ``2026-11-24T18:00:00.123Z``.

    Args:
        wall_ns: The time, nanoseconds since 1970 (UTC).
    """
    seconds, milliseconds = divmod(wall_ns // 1_000_000, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".%03dZ" % milliseconds


def _milliseconds(description: str) -> dict[str, Any]:
    return {"type": "number", "description": f"{description}, milliseconds."}


def _numbers(count: int, description: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count, "description": description}


_DETAIL_PROPERTIES: dict[str, Any] = {
    "keypoints": {
        "type": "array",
        "items": _numbers(3, "x and y, pixels of the source image, and the score, 0–1."),
        "description": "The keypoints, in the order of the model card. Only with a model for keypoints.",
    },
    "mask": MASK_SCHEMA
    | {
        "description": "The mask: height and width of the source image (smaller with mask_height), and compressed run lengths in "
        "the format of COCO, which pycocotools reads. Only with a model for masks.",
    },
    "box_rotated": _numbers(
        5,
        "The rotated box: center x and y, width and height, pixels of the source image, and the angle in radians, −π/2 to π/2, "
        "from the x axis to the side called width, clockwise in the image. Only with a model for rotated boxes.",
    ),
}

RESULT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "vision-infer result",
    "description": "One line of a .jsonl file: the result of one frame of one stream.",
    "type": "object",
    "additionalProperties": False,
    "required": ["stream", "frame", "pts_s", "width", "height", "model", "engine", "detections", "latency_ms"],
    "properties": {
        "node": {"type": "string", "description": "The node that ran the stream. Only from a cluster, over the API."},
        "epoch": {
            "type": "integer",
            "description": "Increases when another process runs the stream: track ids and counts start again. Only with node.",
        },
        "stream": {"type": "string", "minLength": 1, "description": "The name of the stream, unique in a run."},
        "frame": {
            "type": "integer",
            "minimum": 0,
            "description": "The number of the frame in its stream, from 0, counting all frames that are read: from the start "
            "time with --start, key frames only with --keyframes-only.",
        },
        "file": {"type": "string", "description": "The file name of the image. Only in a folder of images."},
        "damaged": {
            "type": "boolean",
            "enum": [True],
            "description": "Only if parts of the frame, or of one that it refers to, are missing or guessed.",
        },
        "gated": {
            "type": "boolean",
            "enum": [True],
            "description": "Only if the motion gate saw no change in the frame: it was not inferred, and the row repeats the "
            "last detections.",
        },
        "pts_s": {"type": ["number", "null"], "description": "The presentation time, seconds; null if there is none."},
        "width": {"type": "integer", "minimum": 1, "description": "The width of the source image, pixels."},
        "height": {"type": "integer", "minimum": 1, "description": "The height of the source image, pixels."},
        "model": {"type": "string", "description": "The name of the model."},
        "engine": {"type": "string", "description": "The engine: runtime-device-precision."},
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
                    "box": _numbers(4, "The edges x1, y1, x2, y2, pixels of the source image."),
                    "track_id": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "The number of the track. Only with tracking, once the track is confirmed.",
                    },
                    "identity": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "The number of the object, which stays the same when it comes back as another track. Only "
                        "with re-identification, once it is known.",
                    },
                    **_DETAIL_PROPERTIES,
                    **DESCRIPTION_PROPERTIES,
                },
            },
        },
        "latency_ms": {
            "type": "object",
            "additionalProperties": False,
            "required": ["decode", "queue", "preprocess", "inference", "postprocess", "total"],
            "properties": {
                "decode": _milliseconds("Decoding"),
                "queue": _milliseconds("All waiting between the stages"),
                "preprocess": _milliseconds("Color conversion and resize into the engine's buffer"),
                "inference": _milliseconds("Inference of the whole batch"),
                "postprocess": _milliseconds("Selection (NMS), tracking and the hook"),
                "secondary": _milliseconds(
                    "The secondary model, for all crops of the frame, including waiting. Only with a secondary model"
                ),
                "total": _milliseconds("The sum of the others: from the start of decoding until the result was complete"),
            },
        },
        **DESCRIPTION_PROPERTIES,
        "captured_at": {
            "type": "string",
            "format": "date-time",
            "description": "The capture time (UTC). This field and the following ones: only for live streams.",
        },
        "age_ms": _milliseconds("The age of the frame when its result was complete"),
        "clock": {
            "enum": ["arrival", "camera", "playout"],
            "description": "The source of captured_at: the arrival of the packet, the clock of the camera, or the time at which "
            "a frame of a file was due.",
        },
        "dropped_before": {
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 1},
            "description": "The number of frames of this stream that were dropped since its last result, by reason.",
        },
        "skipped": {
            "type": "integer",
            "minimum": 1,
            "description": "Only over WebSocket and server-sent events: the number of results of this stream since the previous "
            "one that were skipped because the client was too slow.",
        },
        "skipped_events": {
            "type": "array",
            "items": SCENE_EVENT_SCHEMA,
            "description": "Only with skipped: the events in the skipped results, at most the last 64.",
        },
        "extra": {"type": "object", "description": "Fields that a hook has added. Only if there are any."},
        "events": {
            "type": "array",
            "items": SCENE_EVENT_SCHEMA,
            "description": "The events at zones and lines. Only if there are any.",
        },
    },
}
"""The JSON Schema (2020-12) of a row."""
