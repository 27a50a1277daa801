"""A sink that sends to a message bus, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.support.bus_broker import BusBroker
from tests.support.waiting import wait_until
from vision_infer.config.sinks import SinksSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.sink.delivery.carrier import Carrier, CarrierContext, carrier_of
from vision_infer.sink.delivery.delivery_sink import Delivery
from vision_infer.sink.delivery.stream_images import no_image


def open_bus(kind: str, folder: Path, **settings: object) -> Carrier:
    """Return the carrier of a sink with these settings."""
    checked = getattr(SinksSettings.model_validate({kind: {"bus": settings}}), kind)["bus"]
    return carrier_of(kind, checked, CarrierContext(folder, tuple, no_image, SYSTEM_CLOCK))


class BusSite:
    """A sink that sends to a broker."""

    def __init__(self, folder: Path, broker: BusBroker, spool_bytes: int = 16_000_000, **settings: object) -> None:
        self.carrier = open_bus(broker.kind, folder, **({"url": broker.url} | settings))
        self.delivery = Delivery("bus", broker.kind, folder / "spool", spool_bytes, self.carrier)
        self.given = 0

    def give(self, count: int = 1, kind: str = "detections", streams: Iterable[str] = ("door",)) -> None:
        for _ in range(count):
            self.given += 1
            for name in streams:
                text = f'{{"stream": "{name}", "number": {self.given}}}'
                self.delivery.put(kind, name, lambda text=text: text)  # type: ignore[misc]

    def wait_sent(self, streams: int = 1) -> None:
        wait_until(lambda: self.delivery.status().sent >= streams * self.given, lambda: str(self.delivery.status()))

    def wait_error(self, part: str) -> str:
        wait_until(lambda: part in (self.delivery.status().error or ""), lambda: f"{part!r}: {self.delivery.status()}")
        return self.delivery.status().error or ""
