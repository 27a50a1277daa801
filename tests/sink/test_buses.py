"""Records reach the real brokers of message buses, in order, with their ids; an outage loses nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sink.bus_site import BusSite, open_bus
from tests.support.broker import PASSWORD, USER, Authority
from tests.support.buses import BUSES, BusBroker, RabbitServer
from tests.support.waiting import wait_until

EACH_BUS = pytest.mark.parametrize("bus", sorted(BUSES))
SERVERS = ["amqp", "nats", "redis"]
"""The mock cluster of Kafka is in the test process, and has no users."""
SLOW_AMQP = [pytest.param("amqp", marks=pytest.mark.slow), "kafka", "nats", "redis"]
"""RabbitMQ takes about 6 s to start."""


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with RabbitServer(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


@pytest.fixture
def broker(bus: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BusBroker]:
    if bus == "amqp":
        server: RabbitServer = request.getfixturevalue("rabbit")
        server.clear()
        yield server
    else:
        with BUSES[bus](tmp_path / "broker") as started:
            yield started


@EACH_BUS
def test_rows_arrive_in_the_order_of_their_stream_with_their_ids(bus: str, broker: BusBroker, tmp_path: Path) -> None:
    site = BusSite(tmp_path, broker)
    site.give(300, streams=("door", "yard"))
    site.delivery.put("engine", "", lambda: '{"stream": "", "number": 0}')
    wait_until(lambda: site.delivery.status().sent == 601, lambda: str(site.delivery.status()))
    messages = broker.messages()
    assert len(messages) == len({message.id for message in messages}) == 601
    for name in ("door", "yard"):
        ours = [message for message in messages if message.row["stream"] == name]
        assert [message.row["number"] for message in ours] == list(range(1, 301))
        assert len({message.key for message in ours}) == 1
        assert name in ours[0].key
    for message in messages:
        assert message.row["id"] == message.headers["id"] == message.id
        assert (message.headers.get("stream", ""), message.content_type) == (message.row["stream"], "application/json")
        assert message.headers["kind"] == ("detections" if message.row["stream"] else "engine")
    assert site.delivery.status().dropped == {}
    site.delivery.close()


@pytest.mark.parametrize("bus", SLOW_AMQP)
def test_a_killed_broker_costs_no_row_and_no_order(bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.MAX_WAIT_S", 0.5)
    with BUSES[bus](tmp_path / "broker") as broker:
        site = BusSite(tmp_path, broker)
        site.give(100, streams=("door", "yard"))
        wait_until(lambda: site.delivery.status().sent > 0, "the first ones are sent")
        broker.kill()
        site.give(500, streams=("door", "yard"))
        site.wait_error(f"127.0.0.1:{broker.port}: ")
        wait_until(lambda: not site.delivery.status().queued, "all are on the disk")
        status = site.delivery.status()
        assert not status.connected
        assert 0 < status.spool_bytes <= 16_000_000
        broker.start()
        site.give(50, streams=("door", "yard"))
        site.wait_sent(2)
        for name in ("door", "yard"):
            assert broker.numbers(name) == list(range(1, 651))
        status = site.delivery.status()
        assert (status.dropped, status.waiting, status.error) == ({}, 0, None)
        site.delivery.close()


@pytest.mark.parametrize("bus", SERVERS)
def test_a_broker_that_stops_answering_costs_no_row_and_no_order(
    bus: str, broker: BusBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.MAX_WAIT_S", 0.1)
    monkeypatch.setattr("vision_infer.sink.delivery.bus.BusCarrier.connect_s", 0.5)
    monkeypatch.setattr("vision_infer.sink.delivery.bus.BusCarrier.acknowledge_s", 0.5)
    site = BusSite(tmp_path, broker)
    site.give(100, streams=("door", "yard"))
    wait_until(lambda: site.delivery.status().sent > 0, "the first ones are sent")
    broker.suspend()
    try:
        site.give(300, streams=("door", "yard"))
        site.wait_error("no a")
    finally:
        broker.resume()
    site.give(50, streams=("door", "yard"))
    site.wait_sent(2)
    for name in ("door", "yard"):
        assert broker.numbers(name) == list(range(1, 451))
    assert site.delivery.status().dropped == {}
    site.delivery.close()


@pytest.mark.slow
@EACH_BUS
def test_sixty_seconds_without_a_broker(bus: str, tmp_path: Path) -> None:
    with BUSES[bus](tmp_path / "broker") as broker:
        site = BusSite(tmp_path, broker)
        wait_until(lambda: site.delivery.status().connected, lambda: str(site.delivery.status()))
        broker.kill()
        end, most = time.monotonic() + 60, 0
        while time.monotonic() < end:
            site.give(20)
            most = max(most, site.delivery.status().spool_bytes)
            time.sleep(0.05)
        assert 0 < most <= 16_000_000
        broker.start()
        site.give(1)
        wait_until(lambda: site.delivery.status().sent >= site.given, lambda: str(site.delivery.status()), 120)
        assert broker.numbers() == list(range(1, site.given + 1))
        status = site.delivery.status()
        assert (status.dropped, status.waiting) == ({}, 0)
        site.delivery.close()


@pytest.mark.parametrize("bus", [pytest.param("amqp", marks=pytest.mark.slow), "nats", "redis"])
def test_user_and_certificate(bus: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    authority = Authority(tmp_path / "ca")
    with BUSES[bus](tmp_path / "broker", authority.issue("127.0.0.1"), users=True) as broker:
        site = BusSite(tmp_path, broker, ca=str(authority.ca), username=USER, password=PASSWORD)
        site.give(10)
        site.wait_sent()
        assert broker.numbers() == list(range(1, 11))
        site.delivery.close()
        wrong = BusSite(tmp_path / "wrong", broker, ca=str(authority.ca), username=USER, password="another-secret")
        wrong.give()
        error = wrong.wait_error("refused")
        assert error.startswith(f"127.0.0.1:{broker.port}: ")
        assert "Check username and password." in error
        assert "\n" not in error
        wrong.delivery.close(0.2)
        assert not [record for record in caplog.records if "secret" in record.getMessage()]


@pytest.mark.parametrize("bus", SLOW_AMQP)
@pytest.mark.parametrize("what", ["another authority", "another host", "expired", "no such file"])
def test_a_certificate_problem_is_one_sentence(bus: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.PATIENT_WAIT_S", 0.1)
    authority = Authority(tmp_path / "ca")
    ca = tmp_path / "trusted.pem"
    ca.write_bytes((Authority(tmp_path / "other", "another") if what == "another authority" else authority).ca.read_bytes())
    issued = authority.issue("127.0.0.2" if what == "another host" else "127.0.0.1", -1 if what == "expired" else 30)
    if what == "no such file":
        ca.unlink()
    with BUSES[bus](tmp_path / "broker", issued) as broker:
        site = BusSite(tmp_path, broker, ca=str(ca))
        site.give(3)
        expected = {
            "another authority": "the certificate is not accepted",
            "another host": "the certificate is not accepted",
            "expired": "the certificate is not accepted",
            "no such file": f"ca: {ca}: No such file or directory",
        }[what]
        error = site.wait_error(expected)
        assert error.startswith(f"127.0.0.1:{broker.port}: ")
        assert "\n" not in error
        wait_until(lambda: site.delivery.status().waiting == 3, "they are on the disk")
        site.delivery.close(0.2)


@EACH_BUS
def test_a_structured_cloudevent(bus: str, broker: BusBroker, tmp_path: Path) -> None:
    site = BusSite(tmp_path, broker, cloudevents="structured")
    site.give(2, kind="events")
    site.wait_sent()
    (first, second) = broker.messages()
    assert first.content_type.startswith("application/cloudevents+json")
    assert first.body.pop("time").endswith("Z")
    assert first.body == {
        "specversion": "1.0",
        "id": first.id,
        "source": "/vision-infer/door",
        "type": "vision-infer.events",
        "subject": "door",
        "datacontenttype": "application/json",
        "data": {"id": first.id, "stream": "door", "number": 1},
    }
    assert second.id != first.id
    site.delivery.close()


@EACH_BUS
def test_doctor_reaches_the_broker_and_sends_nothing(bus: str, broker: BusBroker, tmp_path: Path) -> None:
    assert open_bus(bus, tmp_path, url=broker.url).check()
    assert broker.messages() == []
