"""Messages to people, received by a real HTTP server and a real mail server."""

from __future__ import annotations

import base64
import email
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support.free_port import free_port
from tests.support.hand_clock import HandClock
from tests.support.hook_receiver import Receiver
from vision_infer.config.actions.notify import NotifySettings
from vision_infer.config.serve import ServeSettings
from vision_infer.config.validation_errors import SettingsError, problems_of
from vision_infer.core.scene_event import EventKind, SceneEvent
from vision_infer.sink.delivery.carrier import Record, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.notify import NotifyCarrier

pytest.importorskip("apprise")
BERLIN = ZoneInfo("Europe/Berlin")
HOUR_S = 3600
JPEG = b"\xff\xd8not a real image\xff\xd9"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def url(port: int, path: str = "x") -> str:
    return f"json://user:secret@127.0.0.1:{port}/{path}"


def record(number: int, wall_ns: int, **more: Any) -> Record:
    event = {"type": "event", "event": f"{number:016x}", "stream": "door", "frame": 1, "kind": "enter", "place": "yard"}
    return Record(number, wall_ns, "events", "door", json.dumps(event | {"track_id": 7, "class_id": 0, "label": "person"} | more))


class Rule:
    """A rule with a clock that the test moves."""

    def __init__(self, *urls: str, **settings: Any) -> None:
        self.clock = HandClock()
        self.settings = NotifySettings.model_validate({"urls": urls, **settings})
        self.carrier = NotifyCarrier(self.settings, self.clock)
        self._number = 0

    def give(self, **more: Any) -> str:
        """Deliver an event of the present time, and return ``sent`` or the reason why not."""
        self._number += 1
        try:
            self.carrier.deliver([record(self._number, self.clock.wall_ns(), **more)])
        except UnwantedError as error:
            return error.reason
        return "sent"

    def at(self, hour: int, minute: int = 0) -> None:
        """Move to a time of day in Berlin."""
        moment = datetime(2023, 11, 20, hour, minute, tzinfo=BERLIN)
        self.clock.wall = round(moment.timestamp() * 1e9) - self.clock.now


def test_an_event_is_one_message_with_image_and_link(receiver: Receiver) -> None:
    rule = Rule(url(receiver.port), link="https://cameras.example.org/vision/", time_zone="Europe/Berlin")
    rule.at(18, 5)
    assert rule.give(image=base64.b64encode(JPEG).decode()) == "sent"
    (body,) = receiver.bodies
    assert body["title"] == "door: person entered yard"
    text, link = body["message"].splitlines()
    assert text == "person entered yard, 2023-11-20 18:05:00 Europe/Berlin"
    assert link == "https://cameras.example.org/vision/#/stream/door"
    (attached,) = body["attachments"]
    assert (attached["filename"], attached["mimetype"]) == ("door.jpg", "image/jpeg")
    assert base64.b64decode(attached["base64"]) == JPEG


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"kind": "leave", "seconds": 12.4}, "person left yard after 12 s"),
        ({"kind": "dwell", "seconds": 30.0}, "person has been in yard for 30 s"),
        ({"kind": "cross", "direction": "in", "counts": {"in": 1, "out": 0}}, "person crossed yard (in)"),
    ],
)
def test_each_kind_of_event_has_a_sentence(event: dict[str, Any], text: str, receiver: Receiver) -> None:
    rule = Rule(url(receiver.port))
    rule.give(**event)
    assert receiver.bodies[0]["title"] == f"door: {text}"
    assert "attachments" not in receiver.bodies[0] or receiver.bodies[0]["attachments"] == []


def test_nothing_is_sent_in_quiet_hours(receiver: Receiver) -> None:
    rule = Rule(url(receiver.port), quiet=["22:00-06:30", "12:00-13:00"], time_zone="Europe/Berlin")
    outcomes = []
    for hour, minute in ((21, 59), (22, 0), (3, 0), (6, 29), (6, 30), (12, 30), (13, 0)):
        rule.at(hour, minute)
        outcomes.append(rule.give())
    assert outcomes == ["sent", "quiet_hours", "quiet_hours", "quiet_hours", "sent", "quiet_hours", "sent"]
    assert len(receiver.bodies) == 3


def test_messages_of_an_hour_are_limited(receiver: Receiver) -> None:
    rule = Rule(url(receiver.port), max_per_hour=2)
    outcomes = []
    for seconds in (0, 60, 60, HOUR_S - 121, 2, 1):
        rule.clock.move(seconds)
        outcomes.append(rule.give())
    assert outcomes == ["sent", "sent", "rate_limit", "rate_limit", "sent", "rate_limit"]


def test_an_old_event_is_not_sent(receiver: Receiver) -> None:
    rule = Rule(url(receiver.port), max_age_minutes=10)
    old = record(1, rule.clock.wall_ns())
    rule.clock.move(601)
    with pytest.raises(UnwantedError, match="too_old"):
        rule.carrier.deliver([old])
    assert receiver.requests == []


def test_a_network_that_is_down_is_tried_again(receiver: Receiver) -> None:
    receiver.answer = lambda body: (500, {})
    rule = Rule(url(receiver.port))
    one = record(1, rule.clock.wall_ns())
    for _ in range(6):
        with pytest.raises(UndeliveredError, match=r"^no message to URL 1 \(json\)\. Check") as caught:
            rule.carrier.deliver([one])
        assert "secret" not in f"{caught.value} {caught.value.hint}"
    receiver.answer = lambda body: (204, {})
    rule.carrier.deliver([one])
    assert len(receiver.bodies) == 1


def test_a_wrong_url_does_not_block_the_others(receiver: Receiver) -> None:
    rule = Rule(url(receiver.port), url(free_port()))
    one = record(1, rule.clock.wall_ns())
    for _ in range(3):
        with pytest.raises(UndeliveredError, match=r"URL 2 \(json\)"):
            rule.carrier.deliver([one])
    with pytest.raises(UnwantedError) as caught:
        rule.carrier.deliver([one])
    assert (caught.value.reason, caught.value.expected) == ("failed", False)
    assert len(receiver.bodies) == 1, "the first URL has the message once"


def test_a_mail_has_text_and_image() -> None:
    controllers = pytest.importorskip("aiosmtpd.controller")
    mails: list[Any] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content)))
            return "250 OK"

    server = controllers.Controller(Handler(), hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        rule = Rule(f"mailto://127.0.0.1:{server.port}?from=service@example.org&to=guard@example.org&mode=insecure")
        assert rule.carrier.check()
        assert rule.give(image=base64.b64encode(JPEG).decode()) == "sent"
    finally:
        server.stop()
    ((receivers, mail),) = mails
    assert receivers == ["guard@example.org"]
    assert "person entered yard" in str(mail["Subject"])
    (image,) = (part for part in mail.walk() if part.get_content_type() == "image/jpeg")
    assert image.get_payload(decode=True) == JPEG


def test_the_check_connects_and_sends_nothing(receiver: Receiver) -> None:
    assert Rule(url(receiver.port)).carrier.check()
    assert receiver.requests == []
    with pytest.raises(UndeliveredError, match=r"URL 2 \(json\): 127.0.0.1:\d+ cannot be reached") as caught:
        Rule(url(receiver.port), url(free_port())).carrier.check()
    assert "secret" not in str(caught.value)


def test_the_rule_is_shown_without_secrets() -> None:
    rule = Rule(
        url(1), "tgram://123456789:abcdefg_hijklmnop/12345678/", labels=["person"], quiet=["22:00-06:00"], places=["yard"]
    )
    text = rule.settings.rule
    assert text == ("enter or dwell or cross of person at yard → json, tgram; not 22:00-06:00 UTC; at most 20 per hour")
    assert "secret" not in f"{rule.settings!r}{rule.settings.model_dump_json()}"


def test_a_rule_selects_events() -> None:
    settings = Rule(url(1), events=["cross"], places=["gate"], labels=["car", "bus"]).settings
    given: list[tuple[EventKind, str, str]] = [
        ("cross", "gate", "car"),
        ("enter", "gate", "car"),
        ("cross", "yard", "car"),
        ("cross", "gate", "person"),
    ]
    takes = [settings.takes(SceneEvent(kind, place, 1, 0, label)) for kind, place, label in given]
    assert takes == [True, False, False, False]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"urls": []}, "urls: must not be empty"),
        ({"urls": ["nonsense://secret@host"]}, "urls.0: is not a URL that apprise understands"),
        ({"quiet": ["22:00"]}, "quiet.0: must be two times"),
        ({"quiet": ["22:00-22:00"]}, "quiet.0: must be two times"),
        ({"time_zone": "Mars/Base"}, "time_zone: is not a known time zone"),
        ({"link": "cameras.example.org"}, "link: must be http://HOST/PATH"),
        ({"kinds": ["states"]}, "kinds: messages are sent for events only"),
        ({"events": ["jump"]}, "events.0: must be enter or leave or dwell or cross"),
        ({"max_per_hour": 0}, "max_per_hour: must be greater than or equal to 1"),
    ],
)
def test_a_wrong_rule_is_refused_without_its_secrets(change: dict[str, Any], problem: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        ServeSettings.model_validate({"sinks": {"notify": {"night": {"urls": [url(1)], **change}}}})
    text = str(SettingsError(problems_of(caught.value, ServeSettings), ""))
    assert f"sinks.notify.night.{problem}" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "cloud",
    ["slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", f"twilio://AC{'1' * 32}:{'a' * 32}@15551234567/15551234568"],
)
def test_the_check_takes_no_token_for_a_host(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("socket.create_connection", lambda *address: asked.append(address))
    assert not Rule(cloud).carrier.check()
    assert asked == []
