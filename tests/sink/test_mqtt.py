"""Records reach a real broker, under their topics with a checked certificate; present values are retained there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.sink.mqtt_site import Site, broker, numbers, stream
from tests.support.broker import PASSWORD, USER, Authority, Broker, Listener
from tests.support.waiting import wait_until

__all__ = ["broker"]


def test_records_go_to_their_topics_and_states_are_retained(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        site.give()
        site.give(kind="events")
        site.give(kind="states")
        site.delivery.put("engine", "", lambda: '{"type": "engine"}')
        wait_until(lambda: site.delivery.status().sent == 4, "all are sent")
        wait_until(lambda: listener.of("vi/engine"), "the last one arrives")
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
        wait_until(
            lambda: set(late.retained()) == {"vi/door/state", "vi/door/counts", "vi/availability"}, lambda: str(late.heard)
        )
        assert late.of("vi/door/state")[0].retained
        site.delivery.close()
        wait_until(lambda: late.last("vi/availability") == "offline", "the sink publishes offline")


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
            wait_until(lambda: len(numbers(listener)) == 5, "five arrive")
        site.delivery.close()
        wrong = Site(tmp_path / "wrong", broker.port, tls=True, ca=authority.ca, user=(USER, "another-secret"))
        wrong.give()
        error = wrong.wait_error("refused the connection")
        assert "Check username and password." in error
        assert "another-secret" not in error
        wrong.delivery.close(0.2)


@pytest.mark.parametrize("what", ["another authority", "another host", "expired", "no TLS", "no such file"])
def test_a_certificate_problem_is_one_sentence_and_the_sink_keeps_retrying(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vision_infer.sink.delivery.delivery_sink.PATIENT_WAIT_S", 0.1)
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
            "another authority": "the certificate is not accepted: unable to get local issuer certificate. Set ca to",
            "another host": "the certificate is not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'",
            "expired": "the certificate is not accepted: certificate has expired",
            "no TLS": "Check that the port uses TLS.",
            "no such file": f"ca: {ca}: No such file or directory",
        }[what]
        error = site.wait_error(expected)
        assert error.startswith(f"127.0.0.1:{broker.port}: ")
        assert "\n" not in error
        tried = site.tries
        wait_until(lambda: site.tries >= tried + 2, "the sink keeps retrying")
        logged = [record.getMessage() for record in caplog.records]
        assert len([line for line in logged if expected in line]) == 1, "it is logged once for all attempts"
        if what in ("another authority", "no such file"):  # fixed while it runs
            ca.write_bytes(authority.ca.read_bytes())
            site.wait_sent()
            assert site.delivery.status().error is None
            assert any("works again; " in record.getMessage() for record in caplog.records)
        else:
            assert site.delivery.status().waiting == 3
        site.delivery.close(0.2)


def test_home_assistant_discovers_a_stream_and_removes_it(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port, discovery_prefix="homeassistant")
    site.streams = [stream(lines={"gate": (3, 1)}, zones={"yard": 2})]
    with Listener(broker) as listener:
        site.carrier.count("door", {"person": 2})
        wait_until(lambda: '"objects": 2' in (listener.last("vi/door/counts") or ""), "counts are published")
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

        # The broker forwards messages individually: the counts may arrive before the last of them.
        wait_until(lambda: len(configs_heard()) >= len(expected), lambda: str(set(configs_heard())))
        configs = configs_heard()
        assert set(configs) == expected
        camera = configs["homeassistant/binary_sensor/vi_door_camera/config"]
        assert camera["state_topic"] == "vi/door/state"
        assert camera["availability"] == [{"topic": "vi/availability"}]
        assert camera["device_class"] == "connectivity"
        wait_until(lambda: listener.of("vi/door/state"), "the state arrives")
        assert listener.of("vi/door/state")[-1].row["state"] == "live"
        assert len({row["unique_id"] for row in configs.values() if row["state_topic"] == "vi/door/counts"}) == 5
        assert {tuple(row["device"]["identifiers"]) for row in configs.values()} == {("vi_door",)}
        site.streams = [stream("yard", zones={})]
        wait_until(
            lambda: "vi/yard/counts" in listener.retained() and "vi/door/counts" not in listener.retained(), "it is another one"
        )
        site.give(kind="states")  # a late state, from before the removal
        site.wait_sent()
        wait_until(lambda: any("number" in one.row for one in listener.of("vi/door/state") if one.payload), "it arrives")
        wait_until(
            lambda: not [topic for topic in listener.retained() if "door" in topic], lambda: f"all is away: {listener.retained()}"
        )
    site.delivery.close()


def test_a_stream_that_was_removed_while_the_service_was_down_is_deleted(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port, discovery_prefix="homeassistant")
    with Listener(broker) as listener:
        wait_until(lambda: "vi/door/counts" in listener.retained(), "it is retained")
        site.delivery.close()
        again = Site(tmp_path, broker.port, discovery_prefix="homeassistant")
        again.streams = []
        wait_until(lambda: set(listener.retained()) == {"vi/availability"}, lambda: str(listener.retained()))
        again.delivery.close()
