"""Records reach a real broker, under their topics with a checked certificate; present values are retained there."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from tests.sink.mqtt_site import Site, broker, numbers, stream
from tests.support.broker import PASSWORD, USER, Authority, Broker, Listener
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.sink.delivery.stream_images import StreamImages

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


def test_a_broker_that_requires_the_certificate_of_a_client(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    more = (f"cafile {authority.ca}", "require_certificate true")
    with Broker(tmp_path / "broker", authority.issue("127.0.0.1"), more=more) as broker:
        site = Site(tmp_path, broker.port, tls=True, ca=authority.ca, client_files=authority.issue("cameras"))
        site.give(3)
        site.wait_sent()
        site.delivery.close()
        without = Site(tmp_path / "without", broker.port, tls=True, ca=authority.ca)
        without.give()
        without.wait_error(f"127.0.0.1:{broker.port}: ")
        without.delivery.close(0.2)


def test_a_check_leaves_a_running_service_available(broker: Broker, tmp_path: Path) -> None:
    checked = Site(tmp_path / "check", broker.port)
    checked.delivery.close()  # it may say that it is offline: before the service starts
    site = Site(tmp_path, broker.port)
    with Listener(broker) as listener:
        wait_until(lambda: listener.last("vi/availability") == "online", "the service is online")
        heard = len(listener.heard)
        assert checked.carrier.check()
        site.give()
        site.wait_sent()
        wait_until(lambda: numbers(listener) == [1], "it is still connected")
        assert site.tries == 1
        assert [one.topic for one in listener.heard[heard:] if one.topic == "vi/availability"] == []
    site.delivery.close()


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
            wait_until(lambda: site.delivery.status().error is None, "the error is cleared")
            wait_until(lambda: any("works again; " in record.getMessage() for record in caplog.records), "it is logged")
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
        assert camera["availability"] == [{"topic": "vi/availability"}]  # it shows that the camera is away
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


def test_home_assistant_shows_nothing_of_a_camera_that_is_away(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker.port, discovery_prefix="homeassistant", sends_states=False)
    site.streams = [stream(zones={"yard": 1})]
    with Listener(broker) as listener:

        def available(entity: str) -> bool:
            """Return what Home Assistant calculates from the retained messages."""
            retained = listener.retained()
            config = json.loads(retained[f"homeassistant/{entity}/config"])
            assert config["availability_mode"] == "all"
            values = []
            for one in config["availability"]:
                payload = retained[one["topic"]]
                template = Template(one["value_template"]) if "value_template" in one else None
                values.append(payload if template is None else template.render(value_json=json.loads(payload)))
            assert set(values) <= {"online", "offline"}
            return set(values) == {"online"}

        counts = ("sensor/vi_door_objects", "sensor/vi_door_zone_yard", "binary_sensor/vi_door_zone_yard")
        wait_until(lambda: {f"homeassistant/{one}/config" for one in counts} <= listener.retained().keys(), "they are announced")
        wait_until(lambda: "vi/door/state" in listener.retained(), "the state is known")
        assert all(map(available, counts))
        site.streams = [stream(state="backing_off", zones={"yard": 1})]
        wait_until(lambda: "backing_off" in listener.retained()["vi/door/state"], "the state has changed")
        assert not any(map(available, counts))
        assert available("binary_sensor/vi_door_camera")
    site.delivery.close()


class Image:
    """A request for an image that a test answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data: bytes | None = None
        self.cancelled = False

    def jpeg(self) -> bytes | None:
        return self.data

    def cancel(self) -> None:
        self.cancelled = True


def test_images_are_requested_at_their_interval_without_waiting() -> None:
    clock, asked = HandClock(), list[Image]()

    def request(name: str) -> Image:
        asked.append(Image(name))
        return asked[-1]

    images = StreamImages(request, 10, clock)
    assert images.take(["door", "yard"]) == {}
    clock.move(30)
    assert images.take(["door", "yard"]) == {}
    assert sorted(one.name for one in asked) == ["door", "yard"]  # no second request before the first is answered
    first = next(one for one in asked if one.name == "door")
    first.data = b"image"
    assert images.take(["door"]) == {"door": b"image"}  # and "yard" delivers no frames any more
    assert next(one for one in asked if one.name == "yard").cancelled
    assert [one.name for one in asked[2:]] == ["door"]
    asked[2].data = b"next"
    clock.move(9)
    assert images.take(["door"]) == {"door": b"next"}
    assert len(asked) == 3
    clock.move(1)
    images.take(["door"])
    assert len(asked) == 4


def test_images_are_retained_and_announced_and_deleted_with_their_stream(broker: Broker, tmp_path: Path) -> None:
    def request(name: str) -> Image:
        image = Image(name)
        image.data = b"\xff\xd8 an image"
        return image

    site = Site(tmp_path, broker.port, discovery_prefix="homeassistant", images=StreamImages(request, 1, SYSTEM_CLOCK))
    with Listener(broker) as listener:
        wait_until(lambda: "vi/door/image" in listener.retained(), "the image is there")
        assert listener.retained()["vi/door/image"].encode(errors="surrogateescape") == b"\xff\xd8 an image"
        config = json.loads(listener.retained()["homeassistant/camera/vi_door_image/config"])
        assert config["topic"] == "vi/door/image"
        site.streams = []
        wait_until(lambda: set(listener.retained()) == {"vi/availability"}, lambda: str(listener.retained()))
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
