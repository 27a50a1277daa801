"""MQTT discovery of Home Assistant: one retained message for each entity, so that it shows streams automatically.

A stream is a device. Its entities are the connection to its camera, an image, the number of objects, in total and of each label,
the objects in each zone, and the crossings of each line. Except for the connection, they are unavailable while the stream
delivers no frames. The topics are ``PREFIX/COMPONENT/OBJECT/config``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics under which a service publishes."""

    prefix: str
    """The prefix of all topics."""
    worker: str = ""
    """The name of the worker process; empty if the service has one process."""

    @property
    def availability(self) -> str:
        """The topic of ``online`` and ``offline``; the broker publishes ``offline`` when the connection is lost."""
        return f"{self.prefix}/availability{'/' if self.worker else ''}{self.worker}"

    def of(self, stream: str, part: str) -> str:
        """Return a topic of a stream; the part is ``detections``, ``events``, ``state``, ``counts`` or ``image``."""
        return f"{self.prefix}/{stream}/{part}"


def discovery(discovery_prefix: str, topics: Topics, stream: StreamSnapshot, images: bool) -> dict[str, str]:
    """Return the messages that announce a stream, by topic.

    Args:
        discovery_prefix: The prefix under which Home Assistant searches.
        topics: The topics of the service.
        stream: The stream.
        images: Whether images of the stream are published.
    """
    device = safe_id(f"{topics.prefix} {stream.name}")
    messages: dict[str, str] = {}
    service = {"topic": topics.availability}
    live = {
        "topic": topics.of(stream.name, "state"),
        "value_template": "{{ 'online' if value_json.state == 'live' else 'offline' }}",
    }
    for component, entity, fields in _entities(topics, stream, images):
        unique = f"{device}_{safe_id(entity)}"
        payload = {
            "unique_id": unique,
            "availability": [service] if entity == "camera" else [service, live],
            "availability_mode": "all",
            **fields,
            "device": {
                "identifiers": [device],
                "name": stream.name,
                "manufacturer": "vision-infer",
                "model": "camera",
            },
            "origin": {"name": "vision-infer"},
        }
        messages[f"{discovery_prefix}/{component}/{unique}/config"] = json.dumps(payload, ensure_ascii=False)
    return messages


def _entities(topics: Topics, stream: StreamSnapshot, images: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the component, the name and the specific fields of each entity."""
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
    if images:
        yield "camera", "image", {"name": "Image", "topic": topics.of(stream.name, "image")}
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
    """Return a quoted text for a template; characters that could end it are escaped."""
    escaped = "".join(char if char.isalnum() or char in " _-." else f"\\u{ord(char):04x}" for char in text if ord(char) < 0x10000)
    return f"'{escaped}'"


def safe_id(text: str) -> str:
    """Return an identifier of letters, digits, ``_`` and ``-``; if characters were replaced, a hash keeps it unique."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    spaced = text.replace(" ", "_")
    return plain if plain == spaced else f"{plain}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"
