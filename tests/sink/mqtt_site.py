"""A sink that publishes to a real broker, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker, Listener
from tests.support.waiting import wait_until
from vision_infer.sink.delivery.delivery_sink import Delivery
from vision_infer.sink.delivery.home_assistant import Topics
from vision_infer.sink.delivery.mqtt import MqttCarrier
from vision_infer.sink.delivery.retained_topics import RetainedTopics
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot

TOPICS = Topics("vi")


def stream(name: str = "door", state: str = "live", **more: object) -> StreamSnapshot:
    fields = {"live": state == "live", "labels": ("person",), "zones": {"yard": 0}, "lines": {}} | more
    return StreamSnapshot(name, json.dumps({"type": "state", "stream": name, "state": state}), **fields)  # type: ignore[arg-type]


class Site:
    """A sink that publishes to a broker."""

    def __init__(self, folder: Path, port: int, spool_bytes: int = 16_000_000, **carrier: object) -> None:
        self.streams: list[StreamSnapshot] = [stream()]
        self.folder = folder
        chosen = {
            "host": "127.0.0.1",
            "port": port,
            "tls": False,
            "ca": None,
            "user": None,
            "topics": TOPICS,
            "discovery_prefix": None,
            "retained": RetainedTopics(folder / "retained_topics.json"),
            "streams": lambda: self.streams,
        } | carrier
        self.carrier = MqttCarrier(**chosen)  # type: ignore[arg-type]
        self.tries = 0
        """The number of connection attempts."""
        self._open = self.carrier.open
        self.carrier.open = self._counted  # type: ignore[method-assign]
        self.delivery = Delivery("house", "mqtt", folder / "spool", spool_bytes, self.carrier)
        self.given = 0

    def _counted(self, name: str) -> bool:
        self.tries += 1
        return self._open(name)

    def give(self, count: int = 1, kind: str = "detections", name: str = "door") -> None:
        for _ in range(count):
            self.given += 1
            self.delivery.put(kind, name, lambda number=self.given: f'{{"stream": "{name}", "number": {number}}}')  # type: ignore[misc]

    def wait_sent(self) -> None:
        wait_until(lambda: self.delivery.status().sent >= self.given, lambda: str(self.delivery.status()))

    def wait_error(self, part: str) -> str:
        wait_until(lambda: part in (self.delivery.status().error or ""), lambda: f"{part!r}: {self.delivery.status()}")
        return self.delivery.status().error or ""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as one:
        yield one


def numbers(listener: Listener, topic: str = "vi/door/detections") -> list[int]:
    return [one.row["number"] for one in listener.of(topic)]
