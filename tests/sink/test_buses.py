"""Records reach the real brokers of message buses, in order, with their ids; an outage loses nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sink.bus_site import BusSite, open_bus
from tests.support.broker import PASSWORD, USER, Authority
from tests.support.bus_broker import BusBroker
from tests.support.buses import BUSES, NatsServer, RabbitServer, RedisServer
from tests.support.free_port import free_port
from tests.support.kafka_cluster import KafkaCluster
from tests.support.waiting import wait_until
from vision_infer.sink.delivery.carrier import Record, UndeliveredError

EACH_BUS = pytest.mark.parametrize("bus", sorted(BUSES))
SERVERS = ["amqp", "nats", "redis"]
"""The mock cluster of Kafka is in the test process, and cannot be suspended."""
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
        wait_until(lambda: site.delivery.status().sent >= site.given, lambda: str(site.delivery.status()), 180)
        assert broker.numbers() == list(range(1, site.given + 1))
        status = site.delivery.status()
        assert (status.dropped, status.waiting) == ({}, 0)
        site.delivery.close()


@pytest.mark.parametrize("bus", SLOW_AMQP)
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
        assert "Check username" in error
        assert "password" in error
        assert "\n" not in error
        wrong.delivery.close(0.2)
        assert not [record for record in caplog.records if "secret" in record.getMessage()]


@pytest.mark.parametrize("bus", SLOW_AMQP)
def test_a_server_that_requires_the_certificate_of_a_client(bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.PATIENT_WAIT_S", 0.1)
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("cameras")
    server = BUSES[bus](tmp_path / "broker", authority.issue("127.0.0.1"))
    server.clients_ca = authority.ca
    with server as broker:
        site = BusSite(tmp_path, broker, ca=str(authority.ca), certificate=str(certificate), key=str(key))
        site.give(10)
        site.wait_sent()
        assert broker.numbers() == list(range(1, 11))
        site.delivery.close()
        without = BusSite(tmp_path / "without", broker, ca=str(authority.ca))
        without.give()
        without.wait_error(f"127.0.0.1:{broker.port}: ")
        without.delivery.close(0.2)
        wrong = BusSite(tmp_path / "wrong", broker, ca=str(authority.ca), certificate=str(authority.ca))
        wrong.give()
        wrong.wait_error(f"certificate: {authority.ca}: contains no certificate with its key")
        wrong.delivery.close(0.2)


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
        "partitionkey": "door",
        "datacontenttype": "application/json",
        "data": {"id": first.id, "stream": "door", "number": 1},
    }
    assert second.id != first.id
    site.delivery.close()


@EACH_BUS
def test_doctor_reaches_the_broker_and_sends_nothing(bus: str, broker: BusBroker, tmp_path: Path) -> None:
    assert open_bus(bus, tmp_path, url=broker.url).check()
    assert broker.messages() == []


@EACH_BUS
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_doctor_explains_a_broker_that_cannot_be_reached(bus: str, host: str, tmp_path: Path) -> None:
    where = f"{host}:{free_port()}"
    with pytest.raises(UndeliveredError) as error:
        open_bus(bus, tmp_path, url=f"{BUSES[bus].scheme}://{where}").check()
    assert error.value.message.startswith(f"{where}: ")
    expected = "efused" if host == "127.0.0.1" else "esolve" if bus == "kafka" else "unknown host"
    assert expected in error.value.message


def test_a_nats_server_without_tls_gets_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received = b""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            nonlocal received
            client = server.accept()[0]
            with client:
                client.sendall(b'INFO {"server_id": "x", "version": "2.10.0", "headers": true, "auth_required": true}\r\n')
                client.settimeout(5)
                with suppress(OSError):
                    while data := client.recv(4096):
                        received += data

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"tls://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UndeliveredError, match="the server does not use TLS"):
            open_bus("nats", tmp_path, url=url, username=USER, password=PASSWORD).check()
        thread.join()
    assert PASSWORD.encode() not in received


def test_a_token_opens_nats(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "broker", more=('authorization { token: "a-secret-token" }',), has_stream=False) as broker:
        wrong = open_bus("nats", tmp_path, url=broker.url, token="another-secret-token")
        with pytest.raises(UndeliveredError, match=r"NATS refused the connection: wrong login\. Check token") as error:
            wrong.check()
        assert "secret" not in str(error.value)
        right = open_bus("nats", tmp_path, url=broker.url, token="a-secret-token")
        with pytest.raises(UndeliveredError, match=r"no JetStream stream stores the subjects vision-infer\.>"):
            right.check()


def test_nats_without_a_stream_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.MAX_WAIT_S", 0.1)
    with NatsServer(tmp_path / "broker", has_stream=False) as broker:
        site = BusSite(tmp_path, broker)
        site.give(5)
        site.wait_error("no JetStream stream stores the subjects vision-infer.>")
        broker.add_stream()
        site.wait_sent()
        assert broker.numbers() == [1, 2, 3, 4, 5]
        site.delivery.close()


def test_nats_stores_a_repeated_row_once(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "broker") as broker:
        carrier = open_bus("nats", tmp_path, url=broker.url)
        carrier.open("spool")
        rows = [Record(number, 1, "detections", "door", f'{{"stream": "door", "number": {number}}}') for number in (1, 2)]
        carrier.deliver(rows)
        carrier.deliver(rows)
        assert [message.row["number"] for message in broker.messages()] == [1, 2]
        carrier.close()


def test_a_row_that_is_too_large_for_nats_does_not_block_others(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "broker", more=("max_payload: 4096",)) as broker:
        site = BusSite(tmp_path, broker)
        site.give(3)
        site.delivery.put("detections", "door", lambda: '{"stream": "door", "number": 0, "x": "%s"}' % ("x" * 5000))
        site.give(3)
        site.wait_sent()
        assert site.delivery.status().dropped == {"rejected_too_large": 1}
        assert broker.numbers() == [1, 2, 3, 4, 5, 6]
        site.delivery.close()


def test_a_redis_key_of_another_type_is_reported(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "broker") as broker:
        with broker.client() as client:
            client.set("vision-infer:door", "text")
        site = BusSite(tmp_path, broker)
        site.give(3, streams=("yard", "door"))
        error = site.wait_error("WRONGTYPE")
        assert "number" not in error, "it has no rows"
        with broker.client() as client:
            assert not client.exists("vision-infer:yard"), "a delivery is all or nothing"
        site.delivery.close(0.1)


def test_redis_keeps_a_maximum_of_rows(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "broker") as broker:
        site = BusSite(tmp_path, broker, max_rows=200)
        site.give(2000)
        site.wait_sent()
        numbers = broker.numbers()
        assert numbers[-1] == 2000
        assert 200 <= len(numbers) < 500, "the maximum is approximate"
        site.delivery.close()


def test_an_exchange_without_a_queue_loses_nothing(rabbit: RabbitServer, tmp_path: Path) -> None:
    with pytest.raises(UndeliveredError, match="the exchange nowhere does not exist"):
        open_bus("amqp", tmp_path, url=rabbit.url, exchange="nowhere").check()
    rabbit.clear()
    site = BusSite(tmp_path, rabbit, prefix="unbound")
    site.give(2)
    assert "Bind a queue to it with the routing key unbound.#" in site.wait_error("the exchange amq.topic has no queue")
    assert site.delivery.status().waiting == 2
    site.delivery.close(0.1)
    with pytest.raises(UndeliveredError, match=r"opening the virtual host nowhere\. Check"):
        open_bus("amqp", tmp_path, url=f"{rabbit.url}/nowhere").check()


@pytest.mark.parametrize("bus", ["amqp", "kafka"])
def test_a_binary_cloudevent(bus: str, broker: BusBroker, tmp_path: Path) -> None:
    site = BusSite(tmp_path, broker, cloudevents="binary")
    site.give()
    site.wait_sent()
    (message,) = broker.messages()
    prefix = {"amqp": "cloudEvents:", "kafka": "ce_"}[bus]
    attributes = {name.removeprefix(prefix): value for name, value in message.headers.items() if name.startswith(prefix)}
    assert attributes.pop("time").endswith("Z")
    assert attributes == {
        "specversion": "1.0",
        "id": message.id,
        "source": "/vision-infer/door",
        "type": "vision-infer.detections",
        "subject": "door",
        "partitionkey": "door",
    }
    assert message.body == {"id": message.id, "stream": "door", "number": 1}
    assert message.content_type == "application/json"
    site.delivery.close()


def test_a_missing_kafka_topic_is_reported(tmp_path: Path) -> None:
    with KafkaCluster(tmp_path / "broker") as cluster:
        cluster.hide_topic("nowhere")
        with pytest.raises(UndeliveredError, match="the topic nowhere does not exist"):
            open_bus("kafka", tmp_path, url=cluster.url, topic="nowhere").check()


def test_a_row_that_is_too_large_for_kafka_does_not_block_others(tmp_path: Path) -> None:
    with KafkaCluster(tmp_path / "broker") as broker:
        site = BusSite(tmp_path, broker)
        site.give(3)
        site.delivery.put("detections", "door", lambda: '{"stream": "door", "number": 0, "x": "%s"}' % ("x" * 1_200_000))
        site.give(3)
        site.wait_sent()
        assert site.delivery.status().dropped == {"rejected_too_large": 1}
        assert broker.numbers() == [1, 2, 3, 4, 5, 6]
        site.delivery.close()


def test_kafka_sends_the_user_and_password_with_sasl(tmp_path: Path) -> None:
    options = open_bus("kafka", tmp_path, url="kafkas://h", username="me", password="x", sasl="SCRAM-SHA-512")._options()  # type: ignore[attr-defined]
    expected = {"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "me", "sasl.password": "x"}
    assert expected.items() <= options.items()
