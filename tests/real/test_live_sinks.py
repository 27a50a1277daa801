"""``vision-infer serve`` sends results to a real broker and a webhook, despite kills, outages and changed settings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.broker import PASSWORD, USER, Authority, Broker, Listener
from tests.support.hook_receiver import Receiver
from tests.support.serve_process import ServeProcess, whole_rows
from tests.support.waiting import wait_until

STREAMS = """
model: clock
streams:
  door: {detect: "test://", fps: 20}
"""


def mqtt(port: int, **more: str) -> str:
    """Return the settings of a sink."""
    fields = {"url": f"mqtt://127.0.0.1:{port}", "home_assistant": "homeassistant"} | more
    return "    house: {" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}\n"


def sinks_of(service: ServeProcess) -> dict[str, Any]:
    """Return all sinks of the API by name."""
    status, text = service.ask("GET", "/api/v1/sinks")
    assert status == 200
    return {one["name"]: one for one in json.loads(text)}


def numbers_of(ids: list[str]) -> list[int]:
    """Return the numbers of records in the order of their first arrival."""
    return [int(one.split("-")[1]) for one in dict.fromkeys(ids)]


@pytest.mark.slow  # 25 s; tests/sink covers the spool
def test_no_spooled_record_is_lost_when_broker_and_service_are_killed(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Receiver() as receiver:
        sinks = f"sinks:\n  mqtt:\n{mqtt(broker.port)}"
        sinks += f"  webhook:\n    hook: {{url: 'http://127.0.0.1:{receiver.port}/x', timeout_s: 1}}\n"
        configuration = STREAMS + sinks + f"results:\n  jsonl: {tmp_path}/rows.jsonl\n"
        with Listener(broker) as first, ServeProcess(tmp_path, configuration) as service:
            wait_until(lambda: len(first.of("vision-infer/door/detections")) > 20, lambda: service.log)
            broker.kill()
            receiver.hold.clear()
            service.wait(lambda: sinks_of(service)["house"]["waiting"] > 40, "records to wait for the broker")
            service.wait(lambda: sinks_of(service)["hook"]["waiting"] > 40, "records to wait for the receiver")
            status = sinks_of(service)["house"]
            assert (status["connected"], status["dropped"]) == (False, {})
            assert status["error"].startswith(f"127.0.0.1:{broker.port}: cannot be reached")
            safe = status["waiting"] + status["sent"]
            service.kill()
            receiver.bodies.clear()
            receiver.hold.set()
            broker.start()
            first.wait()
            sent = [one.row["id"] for one in first.heard if '"id"' in one.payload]
            service.start()
            service.wait(
                lambda: sinks_of(service)["house"]["waiting"] < 5 and sinks_of(service)["house"]["connected"],
                "all records to be sent",
            )
            service.wait(
                lambda: sinks_of(service)["hook"]["waiting"] < 5 and sinks_of(service)["hook"]["connected"],
                "all records to be sent",
            )
            wait_until(lambda: len(first.of("vision-infer/door/detections")) > len(sent) + 60, lambda: service.log)
            service.stop()
            ids = [one.row["id"] for one in first.heard if '"id"' in one.payload]
            numbers = numbers_of(ids)
            assert numbers == list(range(1, len(numbers) + 1)), "all records in order"
            assert len(numbers) > safe
            hooked = numbers_of([row["id"] for row in receiver.rows])
            assert hooked == list(range(hooked[0], hooked[-1] + 1))
            assert first.last("vision-infer/availability") == "offline"
            # MQTT delivered every row of the file.
            frames = [one.row["frame"] for one in first.of("vision-infer/door/detections")]
            written = [row["frame"] for row in whole_rows(tmp_path / "rows.jsonl")]
            assert set(frames) >= set(written[:-2])


@pytest.mark.slow
def test_sinks_are_added_changed_and_removed_with_the_file(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker", users=True) as broker, Receiver() as receiver:
        (tmp_path / "secret").write_text(PASSWORD + "\n", encoding="utf-8")
        with Listener(broker, users=True) as listener, ServeProcess(tmp_path, STREAMS) as service:
            assert sinks_of(service) == {}
            text = service.file.read_text(encoding="utf-8")
            wrong = mqtt(broker.port, username=USER, password="another-secret")
            service.file.write_text(f"{text}sinks:\n  mqtt:\n{wrong}", encoding="utf-8")
            service.wait(lambda: "refused the connection" in (sinks_of(service).get("house", {}).get("error") or ""), "refused")
            right = mqtt(broker.port, username=USER, password=f"file:{tmp_path}/secret", kinds="[detections]")
            hook = f"  webhook:\n    hook: {{url: 'http://127.0.0.1:{receiver.port}/x?key=the-secret', kinds: [states]}}\n"
            service.file.write_text(f"{text}sinks:\n  mqtt:\n{right}{hook}", encoding="utf-8")
            wait_until(lambda: listener.of("vision-infer/door/detections"), lambda: service.log)
            wait_until(lambda: listener.last("vision-infer/door/state"), "the state is published although its changes are not")
            assert service.ask("PUT", "/api/v1/streams/yard", {"detect": "test://"})[0] == 201
            wait_until(
                lambda: "homeassistant/binary_sensor/vision-infer_yard_camera/config" in listener.retained(),
                "the stream to be discovered",
            )
            wait_until(
                lambda: any(row["stream"] == "yard" and row["state"] == "live" for row in receiver.rows), "its state to be posted"
            )
            assert service.ask("DELETE", "/api/v1/streams/yard")[0] == 204
            wait_until(lambda: not any("yard" in topic for topic in listener.retained()), lambda: str(listener.retained()))
            assert any("door" in topic for topic in listener.retained())
            metrics = service.ask("GET", "/metrics")[1]
            assert 'vision_infer_sink_connected{kind="mqtt",sink="house"} 1.0' in metrics
            service.file.write_text(text, encoding="utf-8")
            service.wait(lambda: sinks_of(service) == {}, "the sinks to be removed")
            wait_until(lambda: listener.last("vision-infer/availability") == "offline", "the offline message")
            assert service.stop()[0] == 0
        output = "\n".join([service.log, *service.answers])
        for secret in (PASSWORD, "another-secret", "the-secret"):
            assert secret not in output


@pytest.mark.slow
def test_a_wrong_certificate_is_reported_in_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    other = Authority(tmp_path / "other", "another").ca
    with Broker(tmp_path / "broker", authority.issue("127.0.0.1")) as broker:
        sink = mqtt(broker.port, url=f"mqtts://127.0.0.1:{broker.port}", ca=str(other))
        with ServeProcess(tmp_path, f"{STREAMS}sinks:\n  mqtt:\n{sink}") as service:
            service.wait(lambda: sinks_of(service)["house"]["error"], "the error to be reported")
            sentence = f"127.0.0.1:{broker.port}: the certificate is not accepted: unable to get local issuer certificate"
            assert sinks_of(service)["house"]["error"].startswith(sentence)
            assert service.log.count(f"house: {sentence}") == 1
            assert "Traceback" not in service.log
            assert service.stop()[0] == 0


@pytest.mark.slow
def test_parquet_is_whole_after_the_service_stopped(tmp_path: Path) -> None:
    configuration = f"{STREAMS}results:\n  parquet: {tmp_path}/archive/rows.parquet\n"
    with ServeProcess(tmp_path, configuration) as service:
        counted = 'vision_infer_stream_frames_total{outcome="result",stream="door"} '
        service.wait(lambda: float(service.ask("GET", "/metrics")[1].partition(counted)[2].split()[0]) > 20, "results to arrive")
        assert service.stop()[0] == 0
    (rows,) = (tmp_path / "archive").glob("rows-*.parquet")
    frames = pq.read_table(rows)["frame"].to_pylist()
    assert len(set(frames)) > 15
    (events,) = (tmp_path / "archive").glob("rows.events-*.parquet")
    assert "live" in pq.read_table(events)["state"].to_pylist()


@pytest.mark.slow
def test_sixty_seconds_without_a_broker_do_not_affect_the_service(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Listener(broker) as listener:
        configuration = f"{STREAMS}sinks:\n  mqtt:\n{mqtt(broker.port, spool_mb='16')}results:\n  jsonl: {tmp_path}/rows.jsonl\n"
        with ServeProcess(tmp_path, configuration) as service:
            wait_until(lambda: len(listener.of("vision-infer/door/detections")) > 20, lambda: service.log)
            broker.kill()
            time.sleep(60)
            status = sinks_of(service)["house"]
            assert status["waiting"] > 300
            assert status["spool_bytes"] <= 16_000_000
            broker.start()
            listener.wait()
            service.wait(
                lambda: sinks_of(service)["house"]["waiting"] < 5 and sinks_of(service)["house"]["connected"],
                "all records to be sent",
            )
            assert service.stop()[0] == 0
        numbers = numbers_of([one.row["id"] for one in listener.heard if '"id"' in one.payload])
        assert numbers == list(range(1, len(numbers) + 1))
        frames = {one.row["frame"] for one in listener.of("vision-infer/door/detections")}
        assert {row["frame"] for row in whole_rows(tmp_path / "rows.jsonl")} <= frames
