"""What Home Assistant is told so that it shows streams by itself: MQTT discovery, one retained message for each entity.

A stream is a device: whether its camera is reached, how many objects there are, in all and of each label, who is in each zone,
and how often each line was crossed. The topics are ``PREFIX/COMPONENT/OBJECT/config``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vision_infer.sink.delivery.stream_view import ShownStream


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a service publishes.

    Args:
        prefix: of all its topics.
    """

    prefix: str

    @property
    def availability(self) -> str:
        """``online``, or ``offline``, which the broker says when it hears nothing of us."""
        return f"{self.prefix}/availability"

    def of(self, stream: str, what: str) -> str:
        """Of a stream: ``detections``, ``events``, ``state`` or ``counts``."""
        return f"{self.prefix}/{stream}/{what}"


def discovery(found_under: str, topics: Topics, stream: ShownStream) -> dict[str, str]:
    """The messages that make a stream known, by topic.

    Args:
        found_under: prefix under which Home Assistant looks.
        topics: where we publish.
        stream: as it is now.
    """
    device = safe_id(f"{topics.prefix} {stream.name}")
    messages: dict[str, str] = {}
    for component, thing, fields in _entities(topics, stream):
        unique = f"{device}_{safe_id(thing)}"
        payload = {
            "unique_id": unique,
            "availability": [{"topic": topics.availability}],
            **fields,
            "device": {
                "identifiers": [device],
                "name": stream.name,
                "manufacturer": "vision-infer",
                "model": "camera",
            },
            "origin": {"name": "vision-infer"},
        }
        messages[f"{found_under}/{component}/{unique}/config"] = json.dumps(payload, ensure_ascii=False)
    return messages


def _entities(topics: Topics, stream: ShownStream) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Component, what it is, and the fields that are its own."""
    counts = topics.of(stream.name, "counts")
    camera = {
        "name": "Camera",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": topics.of(stream.name, "state"),
        "value_template": "{{ 'ON' if value_json.state == 'live' else 'OFF' }}",
        "json_attributes_topic": topics.of(stream.name, "state"),
    }
    yield "binary_sensor", "camera", camera
    yield "sensor", "objects", _count("Objects", counts, "value_json.objects")
    for label in stream.labels:
        yield "sensor", f"label {label}", _count(label.capitalize(), counts, f"value_json.labels.get({_text(label)}, 0)")
    for zone in stream.zones:
        inside = f"value_json.zones.get({_text(zone)}, 0)"
        yield "sensor", f"zone {zone}", _count(f"In {zone}", counts, inside)
        occupied = {
            "name": f"{zone} occupied",
            "device_class": "occupancy",
            "state_topic": counts,
            "value_template": f"{{{{ 'ON' if {inside} else 'OFF' }}}}",
        }
        yield "binary_sensor", f"zone {zone}", occupied
    for line in stream.lines:
        for direction in ("in", "out"):
            value = f"value_json.lines.get({_text(line)}, {{}}).get('{direction}', 0)"
            yield (
                "sensor",
                f"line {line} {direction}",
                {**_count(f"{line} {direction}", counts, value), "state_class": "total_increasing"},
            )


def _count(name: str, topic: str, value: str) -> dict[str, Any]:
    return {"name": name, "state_topic": topic, "value_template": f"{{{{ {value} }}}}", "state_class": "measurement"}


def _text(text: str) -> str:
    """A text in a template; what could end it, or the template, is escaped."""
    escaped = "".join(one if one.isalnum() or one in " _-." else f"\\u{ord(one):04x}" for one in text if ord(one) < 0x10000)
    return f"'{escaped}'"


def safe_id(text: str) -> str:
    """An identifier of letters, digits, ``_`` and ``-``; where another character is replaced, with what tells it from others."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    spaced = text.replace(" ", "_")
    return plain if plain == spaced else f"{plain}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"
