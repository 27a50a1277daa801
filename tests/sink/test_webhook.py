"""Rows are posted in order despite errors of the receiver; rows that it rejects are dropped and counted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Authority
from tests.support.free_port import free_port
from tests.support.hook_receiver import Receiver
from tests.support.post_server import Answer
from tests.support.waiting import wait_until
from vision_infer.sink.delivery import delivery_sink as deliveries
from vision_infer.sink.delivery.delivery_sink import Delivery
from vision_infer.sink.delivery.webhook import WebhookCarrier

KEY = b"k" * 24
SECRET_PATH = "/hook/secret-of-the-path?key=secret-of-the-query"


class Site:
    """A sink that posts to a receiver."""

    def __init__(self, folder: Path, port: int, most: int = 100, timeout_s: float = 10.0, **more: object) -> None:
        scheme = more.pop("scheme", "http")
        self.host = f"{scheme}://127.0.0.1:{port}"
        chosen = {"headers": {"Authorization": "Bearer secret-of-the-token"}, "key": None, "ca": None} | more
        carrier = WebhookCarrier(
            self.host + SECRET_PATH,
            self.host,
            max_records=most,
            timeout_s=timeout_s,
            **chosen,  # type: ignore[arg-type]
        )
        self.delivery = Delivery("alarm", "webhook", folder, 16_000_000, carrier, draw=lambda: 0.0)
        self.given = 0

    def give(self, count: int = 1) -> None:
        for _ in range(count):
            self.given += 1
            self.delivery.put("events", "door", lambda number=self.given: f'{{"number": {number}}}')  # type: ignore[misc]

    def wait_sent(self, count: int | None = None) -> None:
        wait_until(
            lambda: self.delivery.status().sent >= (self.given if count is None else count), lambda: str(self.delivery.status())
        )

    def wait_error(self, part: str) -> str:
        wait_until(lambda: part in (self.delivery.status().error or ""), lambda: f"{part!r}: {self.delivery.status()}")
        return self.delivery.status().error or ""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(deliveries, "MAX_WAIT_S", 0.2)
    monkeypatch.setattr(deliveries, "PATIENT_WAIT_S", 0.2)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def numbers(receiver: Receiver) -> list[int]:
    return [row["number"] for row in receiver.rows]


def test_rows_are_posted_in_batches_with_ids(receiver: Receiver, tmp_path: Path) -> None:
    receiver.hold.clear()
    site = Site(tmp_path, receiver.port, most=50)
    site.give(500)
    wait_until(lambda: site.delivery.status().waiting == 500, "all are on the disk")
    receiver.hold.set()
    site.wait_sent()
    assert numbers(receiver) == list(range(1, 501))
    assert len({row["id"] for row in receiver.rows}) == 500
    assert max(len(body["rows"]) for body in receiver.bodies) == 50
    path, headers, _ = receiver.requests[0]
    assert path == SECRET_PATH
    assert headers["Authorization"] == "Bearer secret-of-the-token"
    assert headers["Content-Type"] == "application/json"
    assert "webhook-signature" not in headers
    site.delivery.close()


def test_one_row_for_each_request(receiver: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, receiver.port, most=1)
    site.give(3)
    site.wait_sent()
    assert [body["number"] for body in receiver.bodies] == [1, 2, 3]
    site.delivery.close()


def test_requests_are_signed(receiver: Receiver, tmp_path: Path) -> None:
    answers: Iterator[Answer] = iter([(500, {}), (200, {})])
    receiver.answer = lambda body: next(answers)
    site = Site(tmp_path, receiver.port, key=KEY)
    site.give()
    site.wait_sent()
    for _, headers, body in receiver.requests:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        verifier = pytest.importorskip("standardwebhooks").Webhook("whsec_" + base64.b64encode(KEY).decode())
        assert verifier.verify(body.decode(), dict(headers))["rows"][0]["number"] == 1
    first, second = receiver.requests
    assert first[1]["webhook-id"] == second[1]["webhook-id"], "a repeated request has the same id"
    site.delivery.close()


def test_a_receiver_that_is_down_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    site = Site(tmp_path, port)
    site.give(300)
    error = site.wait_error("cannot be reached")
    assert error.startswith(f"http://127.0.0.1:{port} ")
    with Receiver(port) as receiver:
        site.give(5)
        site.wait_sent()
        assert numbers(receiver) == list(range(1, 306))
    status = site.delivery.status()
    assert (status.error, status.connected, status.dropped, status.waiting) == (None, True, {}, 0)
    site.delivery.close()


def test_a_receiver_that_hangs_loses_nothing(receiver: Receiver, tmp_path: Path) -> None:
    receiver.hold.clear()
    site = Site(tmp_path, receiver.port, timeout_s=0.2)
    site.give(10)
    site.wait_error("did not answer within 0.2 s")
    began = time.monotonic()
    site.give(100)
    assert time.monotonic() - began < 1, "adding a record does not wait"
    receiver.answer = lambda body: (204, {})
    receiver.hold.set()
    site.wait_sent()
    came = numbers(receiver)
    assert sorted(set(came)) == list(range(1, 111))
    by_id: dict[str, int] = {}
    for row in receiver.rows:
        assert by_id.setdefault(row["id"], row["number"]) == row["number"]
    assert list(by_id.values()) == list(range(1, 111)), "without duplicates, all rows in order"
    site.delivery.close()


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
def test_rows_are_sent_again_after_a_temporary_error(status: int, receiver: Receiver, tmp_path: Path) -> None:
    left = [3]

    def answer(body: object) -> tuple[int, dict[str, str]]:
        left[0] -= 1
        return (status, {"Location": "http://127.0.0.1:1/"}) if left[0] >= 0 else (200, {})

    receiver.answer = answer
    site = Site(tmp_path, receiver.port)
    site.give(10)
    assert site.wait_error(str(status)).startswith(f"{site.host} answered with status {status}")
    site.wait_sent()
    assert numbers(receiver) == list(range(1, 11))
    assert site.delivery.status().dropped == {}
    site.delivery.close()


def test_retry_after_is_respected(receiver: Receiver, tmp_path: Path) -> None:
    answers = iter([(429, {"Retry-After": "1"}), (200, {})])
    receiver.answer = lambda body: next(answers)
    site = Site(tmp_path, receiver.port)
    site.give()
    site.wait_error("429")
    began = time.monotonic()
    site.wait_sent()
    assert time.monotonic() - began > 0.7
    site.delivery.close()


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_rejected_row_is_dropped_and_counted_and_the_others_are_sent(status: int, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda body: (status if any(row["number"] in (3, 40) for row in body["rows"]) else 200, {})
    receiver.hold.clear()
    site = Site(tmp_path, receiver.port)
    site.give(64)
    wait_until(lambda: site.delivery.status().waiting == 64, "all are on the disk")
    receiver.hold.set()
    site.wait_sent(62)
    assert numbers(receiver) == [number for number in range(1, 65) if number not in (3, 40)]
    wait_until(lambda: site.delivery.status().waiting == 0, "nothing waits")
    assert site.delivery.status().dropped == {f"rejected_{status}": 2}
    site.delivery.close()


def test_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, receiver: Receiver) -> None:
    caplog.set_level(logging.DEBUG)
    errors = []
    down = Site(tmp_path / "down", free_port())
    down.give()
    errors.append(down.wait_error("cannot be reached"))
    receiver.answer = lambda body: (404, {})
    refused = Site(tmp_path / "refused", receiver.port)
    refused.give()
    errors.append(refused.wait_error("404"))
    assert errors[1] == f"{refused.host} answered with status 404. Check url and token."
    for one in (down, refused):
        one.delivery.close(0.1)
    logged = "\n".join([*errors, *(record.getMessage() for record in caplog.records if record.name.startswith("vision_infer"))])
    assert "secret" not in logged


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with Receiver(tls=authority.issue("127.0.0.1")) as receiver:
        ca = tmp_path / "trusted.pem"
        ca.write_bytes(Authority(tmp_path / "other", "another").ca.read_bytes())
        site = Site(tmp_path / "spool", receiver.port, scheme="https", ca=ca)
        site.give(5)
        error = site.wait_error("certificate")
        assert error == (
            f"{site.host}: the certificate is not accepted: unable to get local issuer certificate. "
            "Set ca to the certificate of the authority that issued it."
        )
        ca.write_bytes(authority.ca.read_bytes())
        site.wait_sent()
        assert numbers(receiver) == [1, 2, 3, 4, 5]
        site.delivery.close()


def test_adding_a_record_never_waits_and_overflow_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_QUEUED", 10)
    blocked = tmp_path / "a file"
    blocked.touch()
    site = Site(blocked / "spool", free_port())
    site.give(25)
    status = site.delivery.status()
    assert status.queued == 10
    assert status.dropped == {"queue_full": 15}
    assert "the spool cannot be opened" in site.wait_error("spool")
    site.delivery.close(0.1)


def test_a_record_that_cannot_be_made_is_counted_and_does_not_stop_the_others(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path / "spool", receiver.port)
    site.give(2)
    for _ in range(3):
        site.delivery.put("events", "door", lambda: str(1 // 0))
    site.give(2)
    site.wait_sent()
    assert numbers(receiver) == [1, 2, 3, 4]
    assert site.delivery.status().dropped == {"failed": 3}
    assert caplog.text.count("alarm: a record cannot be made") == 1
    site.delivery.close()


def test_closing_does_not_wait_for_a_receiver_that_hangs(receiver: Receiver, tmp_path: Path) -> None:
    receiver.hold.clear()
    site = Site(tmp_path, receiver.port)
    site.give(5)
    wait_until(lambda: receiver.requests, "the receiver gets a request")
    began = time.monotonic()
    site.delivery.close(0.3)
    assert time.monotonic() - began < 10
    receiver.hold.set()
    again = Site(tmp_path, receiver.port)
    again.given = 5
    wait_until(lambda: set(numbers(receiver)) == {1, 2, 3, 4, 5}, "the next start sends the remaining rows")
    again.delivery.close()


def test_the_last_records_are_sent_before_the_end(receiver: Receiver, tmp_path: Path) -> None:
    site = Site(tmp_path, receiver.port)
    site.give(1)
    site.wait_sent()
    site.give(200)
    site.delivery.close()
    assert numbers(receiver) == list(range(1, 202))


@pytest.mark.parametrize("token", ["secret-of-the-token\n", " secret-of-the-token", "secret-of-the-tok\u00e9n"])
def test_an_invalid_header_is_reported_without_its_value(tmp_path: Path, token: str) -> None:
    with Receiver() as receiver:
        site = Site(tmp_path, receiver.port, headers={"X-Api-Key": token})
        site.give()
        error = site.wait_error("a header has an invalid value")
        site.delivery.close(0.1)
    assert "secret" not in error
    assert "\u00e9" not in error
    assert not receiver.requests


def test_rows_without_a_spool_are_released_at_the_end(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    site = Site(blocked, free_port())
    wait_until(lambda: site.delivery.status().error is not None, lambda: "no error")
    released: list[str] = []
    assert site.delivery.put("events", "door", lambda: released.append("row") or "{}")  # type: ignore[func-returns-value]
    site.delivery.close()
    assert released == ["row"]
