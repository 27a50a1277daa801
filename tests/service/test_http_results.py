"""Results over a real server: WebSocket and server-sent events, slow clients, limits, the end."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.service.fakes import ADMIN, LONG_S, OPEN, TOKENS, VIEW, FakeBackend, frame, result
from tests.support.result_schema import validate_row
from tests.support.waiting import wait_until
from vision_infer.core.result import Result
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.events import DegradeEvent, EngineEvent
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.results.subscription import DEPTH


class Served:
    """A service on its own port.

    Args:
        tokens: The valid tokens.
        service: The settings of the service.
    """

    def __init__(self, tokens: Tokens = OPEN, **service: Any) -> None:
        self.backend = FakeBackend(port=0, **service)
        self.hub = self.backend.hub
        self.web = WebServer(self.backend.settings.service, self.hub)
        self.web.start(make_app(self.backend, tokens))
        self.port = self.web.address[1]

    def socket(self, query: str = "", **more: Any) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.port}/api/v1/results{query}"
        client: ClientConnection = connect(url, open_timeout=LONG_S, proxy=None, **more)
        return client

    def write(self, stream: str = "door", index: int = 0, **more: Any) -> None:
        self.hub.write(frame(stream, index), result(stream, index, **more))


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def begin(tokens: Tokens = OPEN, **service: Any) -> Served:
            served = Served(tokens, **service)
            stack.callback(served.web.stop, 1.0)
            return served

        yield begin


def received(client: ClientConnection) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(client.recv(LONG_S))
    return row


def test_a_websocket_gets_each_row_as_a_message(serve: Callable[..., Served]) -> None:
    served = serve()
    with served.socket() as client:
        wait_until(lambda: served.hub.readers == 1, "the client to connect")
        for index in range(20):
            served.write(index=index)
            row = received(client)
            validate_row(row)
            assert (row["stream"], row["frame"], row["age_ms"]) == ("door", index, 50.0)
        client.send("what a client says is not looked at")
        served.write(index=20)
        assert received(client)["frame"] == 20
    wait_until(lambda: served.hub.readers == 0, "the client to disconnect")


def test_rows_are_sent_without_waiting_for_an_acknowledgment(serve: Callable[..., Served]) -> None:
    """With Nagle's algorithm, a row waits until the client acknowledges the one before, which takes up to 40 ms."""
    served = serve()
    with served.socket() as client:
        wait_until(lambda: served.hub.readers == 1, "the client to connect")
        assert sends_at_once(client.socket.getsockname())


def sends_at_once(address: object) -> bool:
    """Return whether Nagle's algorithm is off for the socket of this process that is connected to an address."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    if one.getpeername() == address:
                        return bool(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    raise AssertionError(f"nothing is connected to {address}")


def test_filters_of_a_websocket(serve: Callable[..., Served]) -> None:
    served = serve()
    query = "?streams=door,gate&classes=car&min_score=0.3&only_with_detections=true&states=true"
    with served.socket(query) as client:
        wait_until(lambda: served.hub.readers == 1, "the client to connect")
        served.write("yard")
        served.write("gate", found={"person": 0.9})
        served.write("door", found={"car": 0.2})
        served.hub.publish(StreamEvent("yard", StreamState.LIVE, 0))
        served.hub.publish(StreamEvent("gate", StreamState.STALLED, time.monotonic_ns(), "no frame for 5 s"))
        served.write("door", 1, found={"car": 0.9, "person": 0.8})
        served.hub.publish(EngineEvent("tiny", "swapped", "openvino-cpu-fp32", time.monotonic_ns()))
        served.hub.publish(DegradeEvent("door", DegradationStep.RATE, DegradationStep.NONE, time.monotonic_ns(), "3.1 of 10 fps"))
        got = [received(client) for _ in range(4)]
        (engine,) = (row for row in got if row.get("type") == "engine")
        assert (engine["lane"], engine["change"]) == ("tiny", "swapped")
        (degraded,) = (row for row in got if row.get("type") == "degraded")
        assert (degraded["stream"], degraded["step"], degraded["before"]) == ("door", "rate", "none")
        got.remove(engine)
        got.remove(degraded)
        got.sort(key=lambda row: "type" in row)
        assert [one["label"] for one in got[0]["detections"]] == ["car"]
        assert (got[0]["frame"], got[1]["state"], got[1]["reason"]) == (1, "stalled", "no frame for 5 s")


@pytest.mark.parametrize("query", ["?min_score=2", "?color=red", "?states=perhaps", "?streams="])
def test_an_invalid_query_is_rejected_before_the_websocket_opens(serve: Callable[..., Served], query: str) -> None:
    served = serve()
    with pytest.raises(InvalidStatus) as refused:
        served.socket(query)
    response = refused.value.response
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.body or b"")["errors"]
    answer = httpx.get(f"{served.web.url}/api/v1/results{query}", timeout=LONG_S)
    assert answer.status_code == 422
    assert served.hub.readers == 0


def test_the_number_of_clients_is_limited(serve: Callable[..., Served]) -> None:
    served = serve(max_clients=2)
    with served.socket(), served.socket():
        wait_until(lambda: served.hub.readers == 2, "both clients to connect")
        with pytest.raises(InvalidStatus) as refused:
            served.socket()
        assert refused.value.response.status_code == 503
        assert "Retry-After" in refused.value.response.headers
        answer = httpx.get(f"{served.web.url}/api/v1/results", timeout=LONG_S)
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(":too-many-clients")
    wait_until(lambda: served.hub.readers == 0, "both clients to disconnect")
    with served.socket():
        pass


def events_of(response: httpx.Response) -> Iterator[dict[str, str]]:
    """Yield server-sent events, including comments."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            if event:
                yield event
            event = {}
            continue
        name, _, value = line.partition(": ")
        event[name or "comment"] = value


def test_server_sent_events(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.http.routes.results.HEARTBEAT_S", 0.05)
    served = serve()
    url = f"{served.web.url}/api/v1/results?states=true"
    with httpx.stream("GET", url, headers={"Accept": "text/event-stream"}, timeout=LONG_S) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        events = events_of(response)
        assert next(events) == {"retry": "2000"}
        assert next(events) == {"comment": "heartbeat"}
        served.write(index=3)
        event = next(one for one in events if "comment" not in one)
        assert event["id"] == "1"
        assert json.loads(event["data"])["frame"] == 3
        served.hub.publish(StreamEvent("door", StreamState.REFUSED, time.monotonic_ns(), "401\nétrange"))
        event = next(one for one in events if "comment" not in one)
        assert event["event"] == "state"
        assert json.loads(event["data"])["reason"] == "401\\x0aétrange"
    wait_until(lambda: served.hub.readers == 0, "the client to disconnect")


def test_server_sent_events_require_an_acceptable_type(serve: Callable[..., Served]) -> None:
    served = serve()
    answer = httpx.get(f"{served.web.url}/api/v1/results", headers={"Accept": "application/json"}, timeout=LONG_S)
    assert answer.status_code == 406


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'sixteen bytes it').decode()}\r\n"
)


def never_reading(served: Served, events: bool = False) -> socket.socket:
    """A client that requests results, and then does not read from its socket."""
    client = socket.create_connection(("127.0.0.1", served.port), LONG_S)
    head = f"GET /api/v1/results HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
    client.sendall(f"{head}{'' if events else UPGRADE}\r\n".encode())
    return client


def large_result(index: int) -> Result:
    """Return a row of 100 kB: enough of them fill the socket buffers."""
    one = result(index=index, found={"person": 0.9})
    return replace(one, detections=one.detections[np.zeros(1500, np.intp)])


@pytest.mark.parametrize("events", [False, True])
def test_a_client_that_never_reads_does_not_affect_others(serve: Callable[..., Served], events: bool) -> None:
    served = serve()
    rows = 200
    stuck = never_reading(served, events)
    try:
        with served.socket() as client:
            wait_until(lambda: served.hub.readers == 2, "both clients to connect")
            longest = 0.0
            for index in range(rows):
                begin = time.perf_counter()
                served.hub.write(frame(index=index), large_result(index))
                longest = max(longest, time.perf_counter() - begin)
                assert received(client)["frame"] == index
            assert longest < 1, "the pipeline waited for a client"
            assert served.hub.skipped > rows / 4, "the stuck client skipped most of them"
            row = httpx.get(f"{served.web.url}/healthz", timeout=LONG_S)
            assert row.status_code == 200
    finally:
        stuck.close()
    wait_until(lambda: served.hub.readers == 0, "both clients to disconnect")


def test_a_slow_websocket_gets_the_number_of_skipped_rows(serve: Callable[..., Served]) -> None:
    served = serve()
    with served.socket() as client:
        wait_until(lambda: served.hub.readers == 1, "the client to connect")
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:  # the event loop is blocked, as with a slow client
            entered.set()
            leave.wait(LONG_S)

        assert served.web._loop is not None
        served.web._loop.call_soon_threadsafe(hold)
        assert entered.wait(LONG_S)
        for index in range(DEPTH + 1):
            served.write(index=index)
        leave.set()
        row = received(client)
        assert (row["frame"], row["skipped"]) == (DEPTH, DEPTH)


def test_clients_get_a_close_message_at_the_end(serve: Callable[..., Served]) -> None:
    served = serve()
    url = f"{served.web.url}/api/v1/results"
    with served.socket() as client, httpx.stream("GET", url, timeout=LONG_S) as response:
        wait_until(lambda: served.hub.readers == 2, "both clients to connect")
        served.write()
        served.web.stop(LONG_S)
        assert received(client)["frame"] == 0
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(LONG_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the service is stopping")
        assert [event for event in events_of(response) if "data" in event]  # and then it ends, without an error
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", served.port), 5)


def test_the_end_does_not_wait_for_stuck_clients(serve: Callable[..., Served]) -> None:
    served = serve()
    with never_reading(served), never_reading(served, events=True):
        wait_until(lambda: served.hub.readers == 2, "both clients to connect")
        with served.socket() as reads:
            wait_until(lambda: served.hub.readers == 3, "another client to connect")
            index = 0
            while served.hub.skipped <= 2 * DEPTH:  # when this client has the row, it was offered to all
                served.hub.write(frame(index=index), large_result(index))
                reads.recv(LONG_S)
                index += 1
        wait_until(lambda: served.hub.readers == 2, "both clients to be stuck")
        begin = time.monotonic()
        served.web.stop(1.0)
        assert time.monotonic() - begin < 10
        assert served.web._thread is not None
        assert not served.web._thread.is_alive()


def test_a_stuck_connection_is_aborted(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.http.server.STUCK_MS", 500)
    if not hasattr(socket, "TCP_USER_TIMEOUT"):  # on other systems than Linux, the service does this itself
        monkeypatch.setattr("vision_infer.service.http.routes.results.STUCK_S", 0.5)
    served = serve()
    with never_reading(served), never_reading(served, events=True):
        wait_until(lambda: served.hub.readers == 2, "both clients to connect")
        deadline = time.monotonic() + LONG_S
        index = 0
        while served.hub.readers:
            assert time.monotonic() < deadline
            served.hub.write(frame(index=index), large_result(index))
            index += 1
            time.sleep(0.01)


def test_results_require_a_token(serve: Callable[..., Served]) -> None:
    served = serve(TOKENS)
    with pytest.raises(InvalidStatus) as refused:
        served.socket()
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        served.socket(f"?token={ADMIN}")
    assert refused.value.response.status_code == 401
    for token in (ADMIN, VIEW):
        with served.socket(additional_headers={"Authorization": f"Bearer {token}"}):
            pass


def test_a_websocket_of_another_website_is_rejected(serve: Callable[..., Served]) -> None:
    served = serve(TOKENS)
    login = httpx.post(f"{served.web.url}/api/v1/session", json={"token": VIEW}, timeout=LONG_S)
    cookie = login.headers["set-cookie"].partition(";")[0]
    for origin in ("https://evil.example", f"http://127.0.0.1:{served.port + 1}", "null", None):
        with pytest.raises(InvalidStatus) as refused:
            served.socket(additional_headers={"Cookie": cookie}, origin=origin)
        assert refused.value.response.status_code == 403
    with served.socket(additional_headers={"Cookie": cookie}, origin=served.web.url):
        pass
    open_to_all = serve()
    with pytest.raises(InvalidStatus) as refused:
        open_to_all.socket(origin="https://evil.example")
    assert refused.value.response.status_code == 403
