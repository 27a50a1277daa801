"""Records reach a real broker, in order and all of them, whatever happens to it; and what is so now is retained there."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker import PASSWORD, USER, Authority, Broker, Listener, until
from vision_infer.sink.announced import Announced
from vision_infer.sink.delivery import TRIES, Delivery
from vision_infer.sink.home_assistant import Topics
from vision_infer.sink.mqtt import MqttCarrier
from vision_infer.sink.shown import ShownStream

TOPICS = Topics("vi")


def stream(name: str = "door", state: str = "live", **more: object) -> ShownStream:
    fields = {"labels": ("person",), "zones": {"yard": 0}, "lines": {}} | more
    return ShownStream(name, json.dumps({"type": "state", "stream": name, "state": state}), **fields)  # type: ignore[arg-type]


class Site:
    """A sink that publishes to a broker."""

    def __init__(self, folder: Path, port: int, **carrier: object) -> None:
        self.streams: list[ShownStream] = [stream()]
        self.folder = folder
        chosen = {
            "host": "127.0.0.1",
            "port": port,
            "tls": False,
            "ca": None,
            "user": None,
            "topics": TOPICS,
            "found_under": None,
            "announced": Announced(folder / "announced.json"),
            "shown": lambda: self.streams,
        } | carrier
        self.carrier = MqttCarrier(**chosen)  # type: ignore[arg-type]
        self.delivery = Delivery("house", "mqtt", folder / "spool", 16_000_000, self.carrier)
        self.given = 0

    def give(self, count: int = 1, kind: str = "detections", name: str = "door") -> None:
        for _ in range(count):
            self.given += 1
            self.delivery.put(kind, name, lambda number=self.given: f'{{"stream": "{name}", "number": {number}}}')  # type: ignore[misc]

    def wait_sent(self) -> None:
        until(lambda: self.delivery.status().sent >= self.given, lambda: str(self.delivery.status()))

    def wait_error(self, part: str) -> str:
        until(lambda: part in (self.delivery.status().error or ""), lambda: f"{part!r}: {self.delivery.status()}")
        return self.delivery.status().error or ""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as one:
        yield one


def numbers(listener: Listener, topic: str = "vi/door/detections") -> list[int]:
    return [one.row["number"] for one in listener.of(topic)]


def test_records_go_to_their_topics_and_states_stay_there(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        site.give()
        site.give(kind="events")
        site.give(kind="states")
        site.delivery.put("engine", "", lambda: '{"type": "engine"}')
        until(lambda: site.delivery.status().sent == 4, "all is sent")
        until(lambda: listener.of("vi/engine"), "the last one is heard")
        assert listener.of("vi/door/detections")[0].row == {
            "id": listener.of("vi/door/detections")[0].row["id"],
            "stream": "door",
            "number": 1,
        }
        assert [one.row["number"] for one in listener.of("vi/door/events")] == [2]
        assert listener.of("vi/door/state")[-1].row["number"] == 3
        assert listener.last("vi/availability") == "online"
        ids = [one.row["id"] for one in listener.heard if one.topic != "vi/availability" and "id" in one.row]
        assert len(set(ids)) == 4
    with Listener(broker) as late:
        until(lambda: set(late.retained()) == {"vi/door/state", "vi/door/counts", "vi/availability"}, lambda: str(late.heard))
        assert late.of("vi/door/state")[0].retained
        site.delivery.close()
        until(lambda: late.last("vi/availability") == "offline", "it says goodbye")


def test_a_broker_that_is_killed_and_comes_back_costs_nothing(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        site.give(300)
        site.wait_sent()
        # Acknowledged to the sink is not yet passed on: what the broker has in memory goes with it.
        until(lambda: len(numbers(listener)) == 300, "the listener hears them before the broker is killed")
        broker.kill()
        for _ in range(20):
            site.give(50)
            time.sleep(0.1)
        until(lambda: site.delivery.status().waiting == 1000, lambda: str(site.delivery.status()))
        assert not site.delivery.status().connected
        assert "refused" in site.wait_error("cannot be reached")
        broker.start()
        listener.wait()
        site.give(200)
        site.wait_sent()
        until(lambda: numbers(listener)[-1] == site.given, "the last one is heard")
        # It heard no more than a part of what was sent in the first moment after the broker came back: it came back itself.
        came = numbers(listener)
        assert came[:300] == list(range(1, 301))
        rest = came[300:]
        assert rest == list(range(rest[0], site.given + 1)), "in order, without a gap"
    assert site.delivery.status().dropped == {}
    assert site.delivery.status().waiting == 0
    site.delivery.close()


def test_what_waits_is_sent_by_the_next_process(broker: Broker, tmp_path: Path) -> None:
    port = broker.port
    broker.kill()
    site = Site(tmp_path, port)
    site.give(500)
    until(lambda: site.delivery.status().waiting == 500, "all is on the disk")
    site.delivery.close(0.2)
    broker.start()
    with Listener(broker) as listener:
        again = Site(tmp_path, port)
        again.given = 500
        again.give(3)
        until(lambda: len(numbers(listener)) == 503, lambda: str(again.delivery.status()))
        assert numbers(listener) == list(range(1, 504))
        ids = [one.row["id"] for one in listener.of("vi/door/detections")]
        assert len(set(ids)) == 503
        again.delivery.close()


def test_user_and_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with Broker(tmp_path / "broker", authority.issue("127.0.0.1"), users=True) as broker:
        site = Site(tmp_path, broker.port, tls=True, ca=authority.ca, user=(USER, PASSWORD))
        site.give(10)
        site.wait_sent()
        assert site.delivery.status().error is None
        assert site.delivery.status().connected
        with Listener(broker, authority.ca, users=True) as listener:
            site.give(5)
            until(lambda: len(numbers(listener)) == 5, "five are heard")
        site.delivery.close()
        wrong = Site(tmp_path / "wrong", broker.port, tls=True, ca=authority.ca, user=(USER, "another-secret"))
        wrong.give()
        error = wrong.wait_error("refuses us")
        assert "check username and password" in error
        assert "another-secret" not in error
        wrong.delivery.close(0.2)


@pytest.mark.parametrize("what", ["another authority", "another host", "expired", "no TLS", "no such file"])
def test_what_is_wrong_with_a_certificate_is_one_sentence_and_it_keeps_trying(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.PATIENT_WAIT_S", 0.1)
    caplog.set_level(logging.WARNING, "vision_infer.sinks")
    authority = Authority(tmp_path / "ca")
    ca = tmp_path / "trusted.pem"
    ca.write_bytes(authority.ca.read_bytes())
    issued = authority.issue("127.0.0.2" if what == "another host" else "127.0.0.1", -1 if what == "expired" else 30)
    if what == "another authority":
        ca.write_bytes(Authority(tmp_path / "other", "another").ca.read_bytes())
    if what == "no such file":
        ca.unlink()
    with Broker(tmp_path / "broker", None if what == "no TLS" else issued) as broker:
        site = Site(tmp_path, broker.port, tls=True, ca=ca)
        site.give(3)
        expected = {
            "another authority": "its certificate is not accepted: unable to get local issuer certificate: set ca to",
            "another host": "its certificate is not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'",
            "expired": "its certificate is not accepted: certificate has expired",
            "no TLS": "is it a port with TLS?",
            "no such file": f"ca: {ca}: No such file or directory",
        }[what]
        error = site.wait_error(expected)
        assert error.startswith(f"127.0.0.1:{broker.port}: ")
        assert "\n" not in error
        time.sleep(0.5)
        told = [record.getMessage() for record in caplog.records]
        assert len([line for line in told if expected in line]) == 1, "it is told once, however often it is tried"
        if what in ("another authority", "no such file"):  # mended while it runs
            ca.write_bytes(authority.ca.read_bytes())
            site.wait_sent()
            assert site.delivery.status().error is None
            assert any("works again; " in record.getMessage() for record in caplog.records)
        else:
            assert site.delivery.status().waiting == 3
        site.delivery.close(0.2)


def test_a_broker_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.mqtt.CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site = Site(tmp_path, silent.getsockname()[1])
        site.give()
        site.wait_error("does not answer within 0.3 s")
        began = time.monotonic()
        site.delivery.close(0.5)
        assert time.monotonic() - began < 10


def test_home_assistant_finds_a_stream_and_forgets_it(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port, found_under="homeassistant")
    site.streams = [stream(lines={"gate": (3, 1)}, zones={"yard": 2})]
    with Listener(broker) as listener:
        site.carrier.count("door", {"person": 2})
        until(lambda: '"objects": 2' in (listener.last("vi/door/counts") or ""), "counts are published")
        assert listener.of("vi/door/counts")[-1].row == {
            "objects": 2,
            "labels": {"person": 2},
            "zones": {"yard": 2},
            "lines": {"gate": {"in": 3, "out": 1}},
        }
        expected = {
            f"homeassistant/{one}/config"
            for one in (
                "binary_sensor/vi_door_camera",
                "sensor/vi_door_objects",
                "sensor/vi_door_label_person",
                "sensor/vi_door_zone_yard",
                "binary_sensor/vi_door_zone_yard",
                "sensor/vi_door_line_gate_in",
                "sensor/vi_door_line_gate_out",
            )
        }

        def configs_heard() -> dict[str, dict[str, Any]]:
            return {one.topic: one.row for one in list(listener.heard) if one.topic.endswith("/config")}

        # The broker passes them on one by one: the counts may be heard before the last of them.
        until(lambda: len(configs_heard()) >= len(expected), lambda: str(set(configs_heard())))
        configs = configs_heard()
        assert set(configs) == expected
        camera = configs["homeassistant/binary_sensor/vi_door_camera/config"]
        assert camera["state_topic"] == "vi/door/state"
        assert camera["availability"] == [{"topic": "vi/availability"}]
        assert camera["device_class"] == "connectivity"
        until(lambda: listener.of("vi/door/state"), "the state is heard")
        assert listener.of("vi/door/state")[-1].row["state"] == "live"
        assert len({row["unique_id"] for row in configs.values() if row["state_topic"] == "vi/door/counts"}) == 5
        assert {tuple(row["device"]["identifiers"]) for row in configs.values()} == {("vi_door",)}
        site.streams = [stream("yard", zones={})]
        until(
            lambda: "vi/yard/counts" in listener.retained() and "vi/door/counts" not in listener.retained(), "it is another one"
        )
        site.give(kind="states")  # came late, from before it was removed
        site.wait_sent()
        until(lambda: any("number" in one.row for one in listener.of("vi/door/state") if one.payload), "it is heard")
        until(
            lambda: not [topic for topic in listener.retained() if "door" in topic], lambda: f"all is away: {listener.retained()}"
        )
    site.delivery.close()


def test_a_stream_that_was_removed_while_we_were_away_is_forgotten(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port, found_under="homeassistant")
    with Listener(broker) as listener:
        until(lambda: "vi/door/counts" in listener.retained(), "it is there")
        site.delivery.close()
        again = Site(tmp_path, broker.port, found_under="homeassistant")
        again.streams = []
        until(lambda: set(listener.retained()) == {"vi/availability"}, lambda: str(listener.retained()))
        again.delivery.close()


def test_the_broker_says_that_we_are_gone(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        until(lambda: listener.last("vi/availability") == "online", "we are there")
        site.carrier._client.socket().shutdown(socket.SHUT_RDWR)
        until(lambda: "offline" in [one.payload for one in listener.of("vi/availability")], "the will is published")
        until(lambda: listener.last("vi/availability") == "online", "we come back")
    site.delivery.close()


def test_a_row_on_which_the_broker_hangs_up_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("vision_infer.sink.delivery.LONGEST_WAIT_S", 0.05)
    with Broker(tmp_path / "broker", more=("max_packet_size 2000",)) as broker:
        site = Site(tmp_path, broker.port)
        site.give(5)
        site.delivery.put("detections", "door", lambda: json.dumps({"number": 0, "what": "x" * 5000}))
        site.give(5)
        site.wait_sent()
        status = site.delivery.status()
        assert (status.dropped, status.sent, status.error) == ({"undeliverable": 1}, 10, None)
        site.delivery.close()


def test_it_comes_back_where_a_lost_connection_is_noticed_while_publishing(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.FIRST_WAIT_S", 0.01)
    site = Site(tmp_path, broker.port)
    site.give()
    site.wait_sent()
    client = site.carrier._client
    monkeypatch.setattr(site.carrier, "look", lambda: None)  # publishes nothing of its own meanwhile
    client.on_disconnect = None  # the moment between the end of the socket and the word of it
    client.socket().shutdown(socket.SHUT_RDWR)
    until(lambda: client.socket() is None, "the socket is closed")
    site.give(5)
    site.wait_sent()
    assert site.carrier._client is not client
    assert site.delivery.status().dropped == {}
    site.delivery.close()


def test_a_broker_that_hangs_up_on_what_is_no_record_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("vision_infer.sink.delivery.LONGEST_WAIT_S", 0.02)
    with Broker(tmp_path / "broker", more=("max_packet_size 200",)) as broker:
        site = Site(tmp_path, broker.port, found_under="homeassistant")
        opened: list[str] = []
        connect = site.carrier.open

        def counted(name: str) -> bool:
            opened.append(name)
            return connect(name)

        monkeypatch.setattr(site.carrier, "open", counted)
        site.give(3)
        until(lambda: len(opened) > 3 * TRIES, lambda: f"it is tried {len(opened)} times")
        status = site.delivery.status()
        assert (status.dropped, status.waiting) == ({}, 3)
        assert "the connection is lost" in (status.error or "")
        site.delivery.close(0.2)


@pytest.mark.slow
def test_sixty_seconds_without_a_broker(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    until(lambda: site.delivery.status().connected, "it is connected")
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
        until(lambda: numbers(listener)[-1:] == [site.given], "the last one is heard")
        came = numbers(listener)
        assert came == list(range(came[0], site.given + 1))
    status = site.delivery.status()
    assert (status.sent, status.dropped, status.waiting) == (site.given, {}, 0)
    site.delivery.close()
