"""A broker that is down, silent or hangs up: nothing is lost, and nothing blocks."""

from __future__ import annotations

import json
import logging
import socket
import time
from pathlib import Path

import pytest

from tests.sink.mqtt_site import Site, broker, numbers
from tests.support.broker import Broker, Listener
from tests.support.waiting import wait_until
from vision_infer.sink.delivery.delivery_sink import MAX_HANG_UPS

__all__ = ["broker"]


def test_a_broker_that_is_killed_and_restarted_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        site.give(300)
        site.wait_sent()
        # The broker acknowledges before it forwards: a kill loses messages in its memory.
        wait_until(lambda: len(numbers(listener)) == 300, "the listener has them before the broker is killed")
        broker.kill()
        for waiting in range(50, 1050, 50):
            site.give(50)
            wait_until(lambda: site.delivery.status().waiting == waiting, lambda: str(site.delivery.status()))  # noqa: B023
        assert not site.delivery.status().connected
        assert "refused" in site.wait_error("cannot be reached")
        broker.start()
        listener.wait()
        site.give(200)
        site.wait_sent()
        wait_until(lambda: numbers(listener)[-1] == site.given, "the last one arrives")
        # The listener had to reconnect too, so it misses some of the first messages after the restart.
        came = numbers(listener)
        assert came[:300] == list(range(1, 301))
        rest = came[300:]
        assert rest == list(range(rest[0], site.given + 1)), "in order, without a gap"
    assert site.delivery.status().dropped == {}
    assert site.delivery.status().waiting == 0
    site.delivery.close()


def test_the_next_process_sends_the_waiting_records(broker: Broker, tmp_path: Path) -> None:
    port = broker.port
    broker.kill()
    site = Site(tmp_path, port)
    site.give(500)
    wait_until(lambda: site.delivery.status().waiting == 500, "all are on the disk")
    site.delivery.close(0.2)
    broker.start()
    with Listener(broker) as listener:
        again = Site(tmp_path, port)
        again.given = 500
        again.give(3)
        wait_until(lambda: len(numbers(listener)) == 503, lambda: str(again.delivery.status()))
        assert numbers(listener) == list(range(1, 504))
        ids = [one.row["id"] for one in listener.of("vi/door/detections")]
        assert len(set(ids)) == 503
        again.delivery.close()


def test_a_full_spool_and_its_losses_are_logged_once(broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vision_infer.sinks")
    broker.kill()
    site = Site(tmp_path, broker.port, spool_bytes=20_000)
    site.wait_error("cannot be reached")
    while "spool_full" not in site.delivery.status().dropped:
        site.give(100)
        wait_until(lambda: not site.delivery.status().queued, "they are in the spool")
    site.give(500)
    assert "; the spool is full, the oldest rows are dropped" in site.wait_error("the spool is full")
    broker.start()
    wait_until(
        lambda: (site.delivery.status().waiting, site.delivery.status().error) == (0, None), lambda: str(site.delivery.status())
    )
    status = site.delivery.status()
    lost = status.dropped["spool_full"]
    assert status.sent + lost == site.given
    logged = [record.getMessage() for record in caplog.records]
    assert [line for line in logged if "spool" in line] == [
        "house: the spool is full, the oldest rows are dropped; increase spool_mb to keep more",
        f"house: {lost} records were dropped while the spool was full",
    ]
    site.delivery.close()


def test_a_broker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.mqtt.CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site = Site(tmp_path, silent.getsockname()[1])
        site.give()
        site.wait_error("no answer within 0.3 s")
        began = time.monotonic()
        site.delivery.close(0.5)
        assert time.monotonic() - began < 10


def test_the_broker_publishes_that_the_service_is_offline(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        wait_until(lambda: listener.last("vi/availability") == "online", "the service is online")
        site.carrier._client.socket().shutdown(socket.SHUT_RDWR)
        wait_until(lambda: "offline" in [one.payload for one in listener.of("vi/availability")], "the will is published")
        wait_until(lambda: listener.last("vi/availability") == "online", "the service is online again")
    site.delivery.close()


def test_a_row_on_which_the_broker_hangs_up_does_not_block_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.MAX_WAIT_S", 0.05)
    with Broker(tmp_path / "broker", more=("max_packet_size 2000",)) as broker:
        site = Site(tmp_path, broker.port)
        site.give(5)
        site.delivery.put("detections", "door", lambda: json.dumps({"number": 0, "what": "x" * 5000}))
        site.give(5)
        site.wait_sent()
        status = site.delivery.status()
        assert (status.dropped, status.sent, status.error) == ({"undeliverable": 1}, 10, None)
        site.delivery.close()


def test_the_sink_recovers_from_a_connection_lost_while_publishing(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.FIRST_WAIT_S", 0.01)
    site = Site(tmp_path, broker.port)
    site.give()
    site.wait_sent()
    client = site.carrier._client
    monkeypatch.setattr(site.carrier, "poll", lambda: None)  # no other messages meanwhile
    client.on_disconnect = None  # the time between the end of the socket and its callback
    client.socket().shutdown(socket.SHUT_RDWR)
    wait_until(lambda: client.socket() is None, "the socket is closed")
    site.give(5)
    site.wait_sent()
    assert site.carrier._client is not client
    assert site.delivery.status().dropped == {}
    site.delivery.close()


def test_a_broker_that_hangs_up_on_other_messages_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.MAX_WAIT_S", 0.02)
    with Broker(tmp_path / "broker", more=("max_packet_size 200",)) as broker:
        site = Site(tmp_path, broker.port, discovery_prefix="homeassistant")
        site.give(3)
        wait_until(lambda: site.tries > 3 * MAX_HANG_UPS, lambda: f"it is tried {site.tries} times")
        status = site.delivery.status()
        assert (status.dropped, status.waiting) == ({}, 3)
        assert "the connection is lost" in (status.error or "")
        site.delivery.close(0.2)


@pytest.mark.slow
def test_sixty_seconds_without_a_broker(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    wait_until(lambda: site.delivery.status().connected, "it is connected")
    broker.kill()
    end, most = time.monotonic() + 60, 0
    while time.monotonic() < end:
        site.give(20)
        most = max(most, site.delivery.status().spool_bytes)
        time.sleep(0.05)
    assert 0 < most <= 16_000_000
    broker.start()
    with Listener(broker) as listener:
        site.give(1)
        site.wait_sent()
        wait_until(lambda: numbers(listener)[-1:] == [site.given], "the last one arrives")
        came = numbers(listener)
        assert came == list(range(came[0], site.given + 1))
    status = site.delivery.status()
    assert (status.sent, status.dropped, status.waiting) == (site.given, {}, 0)
    site.delivery.close()
