"""Records for sinks, and their filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.service.fakes import ADMIN, TOKENS, VIEW, Api, FakeBackend, frame, problem, result
from tests.support.broker import Broker, Listener
from tests.support.buses import RedisServer
from tests.support.hook_receiver import Receiver
from tests.support.waiting import wait_until
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.sinks import SinksSettings, WebhookSettings
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.events import EngineEvent
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.sinks import SinkSet
from vision_infer.sink.delivery.carrier import SinkStatus

ENTER = SceneEvent("enter", "yard", 7, 0, "person", id="0123456789abcdef")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def sink_set(receiver: Receiver, folder: Path, **hook: object) -> SinkSet:
    hooks = {"hook": {"url": f"http://127.0.0.1:{receiver.port}/x", "spool_mb": 1, **hook}}
    return SinkSet(ResultsSettings(), SinksSettings.model_validate({"webhook": hooks}), folder)


def give(sinks: SinkSet) -> None:
    """Publish every kind of record for two streams."""
    for name in ("door", "yard"):
        sinks.publish(StreamEvent(name, StreamState.LIVE, 0, "rtsp://a:secret@192.0.2.1/x answers"))
        sinks.write(frame(name), result(name, 1, events=(ENTER,)))
        sinks.write(frame(name, 2), result(name, 2, {}))
    sinks.publish(EngineEvent("main", "swapped", "onnxruntime-cpu-int8", 0))


def came(sinks: SinkSet, receiver: Receiver) -> list[tuple[str, str]]:
    """Return the type and stream of all posted records when all have arrived."""
    wait_until(lambda: sinks.statuses()[0].queued == sinks.statuses()[0].waiting == 0, lambda: str(sinks.statuses()))
    sinks.close()
    assert "secret" not in json.dumps(receiver.bodies)
    return [(row.get("type", "result"), row.get("stream", "")) for row in receiver.rows]


def test_messages_arrive_in_order(receiver: Receiver, tmp_path: Path) -> None:
    sinks = sink_set(receiver, tmp_path)
    give(sinks)
    of_each = [[("state", name), ("result", name), ("event", name), ("result", name)] for name in ("door", "yard")]
    assert came(sinks, receiver) == [*of_each[0], *of_each[1], ("engine", "")]
    event = receiver.rows[2]
    assert list(event)[:3] == ["id", "type", "event"]
    assert event["event"] == ENTER.id
    assert event["id"].endswith(event["id"].split("-")[2])
    assert (event["kind"], event["place"], event["track_id"], event["frame"]) == ("enter", "yard", 7, 1)
    assert event["at"] == "2023-11-14T22:13:20.000Z"


def test_records_name_the_node_and_the_epoch_of_their_stream(receiver: Receiver, tmp_path: Path) -> None:
    sinks = sink_set(receiver, tmp_path)
    sinks.stamps = {"door": '"node": "a", "epoch": 5, '}
    give(sinks)
    came(sinks, receiver)
    found = {(row.get("stream"), row.get("node"), row.get("epoch")) for row in receiver.rows}
    assert found == {("door", "a", 5), ("yard", None, None), (None, None, None)}


def test_kinds_streams_and_empty_rows_can_be_excluded(receiver: Receiver, tmp_path: Path) -> None:
    sinks = sink_set(receiver, tmp_path, kinds=["detections"], streams=["yard"], only_with_detections=True)
    give(sinks)
    assert came(sinks, receiver) == [("result", "yard")]
    assert len(receiver.rows[0]["detections"]) == 2


def test_a_message_bus_gets_all_kinds_of_rows(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        sinks = SinkSet(ResultsSettings(), SinksSettings.model_validate({"redis": {"bus": {"url": server.url}}}), tmp_path)
        give(sinks)
        wait_until(lambda: sinks.statuses()[0].sent == 9, lambda: str(sinks.statuses()))
        sinks.close()
        messages = server.messages()
    assert [(message.key, message.headers["kind"]) for message in messages] == [
        ("vision-infer", "engine"),
        *[("vision-infer:door", kind) for kind in ("states", "detections", "events", "detections")],
        *[("vision-infer:yard", kind) for kind in ("states", "detections", "events", "detections")],
    ]
    assert messages[3].row["event"] == ENTER.id
    assert "secret" not in str([message.body for message in messages])


def test_an_unchanged_sink_continues_and_a_changed_one_keeps_its_spool(receiver: Receiver, tmp_path: Path) -> None:
    receiver.hold.clear()
    sinks = sink_set(receiver, tmp_path, kinds=["events"])
    same = sinks._senders["webhook", "hook"]
    old = same.settings
    assert isinstance(old, WebhookSettings)
    sinks.reload(SinksSettings(webhook={"hook": old}))
    assert sinks._senders["webhook", "hook"] is same
    sinks.write(frame("door"), result("door", 1, events=(ENTER,)))
    wait_until(lambda: sinks.statuses()[0].waiting == 1, "the record to wait")
    sinks.reload(SinksSettings(webhook={"hook": old.model_copy(update={"batch": 1})}))
    receiver.hold.set()
    wait_until(lambda: [body for body in receiver.bodies if "rows" not in body], lambda: str(sinks.statuses()))
    sinks.reload(SinksSettings())
    assert sinks.statuses() == []
    sinks.close()


def test_archive(tmp_path: Path) -> None:
    results = ResultsSettings(parquet=str(tmp_path / "rows.parquet"), jsonl=str(tmp_path / "rows.jsonl"))
    sinks = SinkSet(results, SinksSettings(), tmp_path)
    give(sinks)
    jsonl, parquet = sinks.statuses()
    assert (jsonl.kind, jsonl.sent, parquet.kind) == ("jsonl", 4, "parquet")
    sinks.close()
    (rows,) = tmp_path.glob("rows-*.parquet")
    (events,) = tmp_path.glob("rows.events-*.parquet")
    assert pq.read_table(rows)["stream"].to_pylist() == ["door", "door", "yard", "yard"]
    assert [(row["type"], row["event"]) for row in pq.read_table(events).to_pylist()] == [
        *(("state", None), ("event", ENTER.id)) * 2,
        ("engine", None),
    ]


def test_the_api_reports_the_status_of_sinks() -> None:
    backend = FakeBackend()
    error = "127.0.0.1:1883: cannot be reached: Connection refused; rtsp://a:secret@h/x"
    backend.sink_statuses = [SinkStatus("house", "mqtt", False, error, 1, 2, 300, 10**18, 4, {"spool_full": 5})]
    api = Api(backend, TOKENS)
    (sink,) = api.get("/api/v1/sinks", token=VIEW).json()
    assert sink == {
        "name": "house",
        "kind": "mqtt",
        "connected": False,
        "error": "127.0.0.1:1883: cannot be reached: Connection refused; rtsp://a:***@h/x",
        "queued": 1,
        "waiting": 2,
        "spool_bytes": 300,
        "oldest": "2001-09-09T01:46:40.000Z",
        "sent": 4,
        "dropped": {"spool_full": 5},
        "rule": None,
    }
    assert api.get("/api/v1/sinks", token=ADMIN).status_code == 200
    problem(api.get("/api/v1/sinks"), 401, "unauthorized")
    metrics = api.get("/metrics", token=VIEW).text
    assert 'vision_infer_sink_dropped_records_total{kind="mqtt",reason="spool_full",sink="house"} 5.0' in metrics
    assert 'vision_infer_sink_dropped_records_total{kind="mqtt",reason="queue_full",sink="house"} 0.0' in metrics


def test_a_broker_gets_images_of_live_streams(tmp_path: Path) -> None:
    """The hub passes the next frame on, with its detections drawn."""
    hub, streams = ResultHub(), FakeBackend()
    streams.put("yard", "rtsp://10.0.0.7/yard", state=StreamState.BACKING_OFF)
    with Broker(tmp_path / "broker") as broker, Listener(broker) as listener:
        sinks = SinkSet(ResultsSettings(), SinksSettings(), tmp_path)
        sinks.connect(streams.streams, hub)
        house = {"url": f"mqtt://127.0.0.1:{broker.port}", "image_s": 1}
        sinks.reload(SinksSettings.model_validate({"mqtt": {"house": house}}))

        def published() -> bool:
            for name in ("door", "yard"):
                hub.write(frame(name), result(name))
            return "vision-infer/door/image" in listener.retained()

        wait_until(published, lambda: str(listener.retained()))
        image = listener.retained()["vision-infer/door/image"].encode(errors="surrogateescape")
        assert image.startswith(b"\xff\xd8")
        assert "vision-infer/yard/image" not in listener.retained()
        sinks.close()
