"""Rules for messages in the service: the frame of the event is attached, and the status shows what became of messages."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.fakes import ADMIN, TOKENS, Api, FakeBackend, frame, result
from tests.support.hook_receiver import Receiver
from tests.support.waiting import wait_until
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.sinks import SinksSettings
from vision_infer.core.scene_event import SceneEvent
from vision_infer.service.results.event_image import EventImages
from vision_infer.service.results.sinks import SinkSet
from vision_infer.sink.delivery.carrier import SinkStatus

pytest.importorskip("apprise")
ENTER = SceneEvent("enter", "yard", 7, 0, "person", id="0123456789abcdef")
CROSS = SceneEvent("cross", "gate", 8, 2, "car", direction="in", counts=(1, 0), id="0123456789abcdee")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def sink_set(receiver: Receiver, folder: Path, **rule: Any) -> SinkSet:
    rules = {"night": {"urls": [f"json://user:secret@127.0.0.1:{receiver.port}"], **rule}}
    return SinkSet(ResultsSettings(), SinksSettings.model_validate({"notify": rules}), folder)


def finish(sinks: SinkSet, messages: int) -> SinkStatus:
    def status() -> SinkStatus:
        return sinks.statuses()[0]

    wait_until(lambda: status().sent + sum(status().dropped.values()) == messages, lambda: str(status()))
    last = status()
    sinks.close()
    return last


def test_events_of_the_rule_are_sent_with_their_frame(receiver: Receiver, tmp_path: Path) -> None:
    sinks = sink_set(receiver, tmp_path, labels=["person"], streams=["door"])
    sinks.write(frame("door"), result("door", 1, events=(ENTER, CROSS)))
    sinks.write(frame("yard"), result("yard", 1, events=(ENTER,)))
    sinks.write(frame("door", 2), result("door", 2))
    status = finish(sinks, 1)
    (body,) = receiver.bodies
    assert body["title"] == "door: person entered yard"
    image = base64.b64decode(body["attachments"][0]["base64"])
    assert image.startswith(b"\xff\xd8")
    assert (status.name, status.kind, status.sent, status.dropped) == ("night", "notify", 1, {})
    assert status.rule == "enter or dwell or cross of person of door → json; at most 20 per hour"


def test_suppressed_messages_are_counted(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sinks = sink_set(receiver, tmp_path, max_per_hour=1, image=False)
    for number in range(3):
        sinks.write(frame(index=number), result(index=number, events=(ENTER,)))
    status = finish(sinks, 3)
    assert (status.sent, status.dropped) == (1, {"rate_limit": 2})
    assert "attachments" not in receiver.bodies[0] or not receiver.bodies[0]["attachments"]
    assert [one for one in caplog.records if "dropped" in one.message] == []


def test_few_frames_wait_for_an_encoder() -> None:
    from vision_infer.core.clock import SYSTEM_CLOCK

    images = EventImages(SYSTEM_CLOCK)
    waiting = [images.of(frame(), result()) for _ in range(6)]
    assert [one is not None for one in waiting] == [True] * 4 + [False] * 2
    first = waiting[0]
    assert first is not None
    row = first.add_to(lambda: '{"kind": "enter"}')
    assert row.startswith('{"kind": "enter", "image": "/9j/')
    assert images.of(frame(), result()) is not None


def test_the_api_shows_rules() -> None:
    backend = FakeBackend()
    backend.sink_statuses = [SinkStatus("night", "notify", True, None, 0, 0, 0, None, 4, {"quiet_hours": 2}, "enter → json")]
    (shown,) = Api(backend, TOKENS).get("/api/v1/sinks", token=ADMIN).json()
    assert (shown["kind"], shown["rule"], shown["sent"], shown["dropped"]) == ("notify", "enter → json", 4, {"quiet_hours": 2})
