"""Limits for clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from tests.service.fakes import ADMIN, JPEG, LONG_S, TOKENS, Api, FakeBackend, problem
from tests.support.hand_clock import HandClock
from vision_infer.service.http.limits import BodyMemory, RequestLimiter, TokenBuckets, address_of, client_of, limited
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.security import MAX_JSON_BYTES

AS_JPEG = {"Content-Type": "image/jpeg"}


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    clock = HandClock()
    buckets = TokenBuckets(2.0, 4.0, clock)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, pytest.approx(0.5)]
    assert buckets.take("b") == 0
    clock.move(0.5)
    assert (buckets.wait_s("a"), buckets.take("a")) == (0, 0)
    assert buckets.take("a") == pytest.approx(0.5)
    clock.move(3600)
    assert [buckets.take("a") == 0 for _ in range(5)] == [True] * 4 + [False]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2_000)), max_size=200))
def test_no_address_exceeds_its_rate(steps: list[tuple[int, int]]) -> None:
    clock = HandClock()
    begin = clock.now
    buckets = TokenBuckets(5.0, 10.0, clock, max_addresses=4)
    taken = dict.fromkeys(range(4), 0)
    for address, pause_ms in steps:
        clock.move(pause_ms / 1e3)
        taken[address] += buckets.take(str(address)) == 0
        assert taken[address] <= 10 + 5 * (clock.now - begin) / 1e9 + 1e-6


def test_buckets_are_bounded() -> None:
    buckets = TokenBuckets(1.0, 2.0, HandClock(), max_addresses=10)
    for number in range(1000):
        assert buckets.take(f"10.0.0.{number}") == 0
    assert len(buckets) == 10


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("nowhere", "nowhere"),
    ],
)
def test_addresses_of_clients(host: str, address: str) -> None:
    assert address_of({"type": "http", "client": (host, 1)}) == address
    assert address_of({"type": "http", "client": None}) == ""


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("::ffff:127.0.0.1", [" 2001:db8::7 "], "2001:db8::7"),
        ("127.0.0.1", ["192.0.2.66, 192.0.2.1"], "192.0.2.1"),  # the client has sent the first entry
        ("127.0.0.1", ["192.0.2.66", "192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["192.0.2.66, 192.0.2.1, 10.1.2.3"], "192.0.2.1"),  # two proxies
        ("127.0.0.1", ["10.0.0.1, 10.1.2.3"], "10.0.0.1"),
        ("127.0.0.1", ["192.0.2.1, unknown"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("192.0.2.5", ["192.0.2.66"], "192.0.2.5"),  # not a proxy
        ("", ["192.0.2.66"], ""),  # a Unix socket
    ],
)
def test_only_trusted_proxies_name_the_client(peer: str, forwarded: list[str], client: str) -> None:
    assert client_of(peer, forwarded, ["127.0.0.1/32", "10.0.0.0/8"]) == client


def test_clients_of_a_trusted_proxy_have_separate_limits() -> None:
    for proxies, expected in (((), 429), (("192.0.2.1/32",), 200)):
        backend = FakeBackend(requests_per_second=2, trusted_proxies=proxies)
        api = Api(backend, tokens=TOKENS, address="192.0.2.1")
        for _ in range(4):
            assert api.get("/api/v1/version", token=ADMIN, headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 200
        problem(api.get("/api/v1/version", token=ADMIN, headers={"X-Forwarded-For": "192.0.2.7"}), 429, "too-many-requests")
        other = api.get("/api/v1/version", token=ADMIN, headers={"X-Forwarded-For": "192.0.2.8"})
        assert other.status_code == expected


def test_too_many_requests() -> None:
    backend = FakeBackend(requests_per_second=2)
    api = Api(backend, address="192.0.2.1")
    for _ in range(4):
        assert api.get("/api/v1/version").status_code == 200
    answer = api.get("/api/v1/version")
    problem(answer, 429, "too-many-requests")
    assert answer.headers["retry-after"] == "1"
    assert api.get("/healthz").status_code == 200
    assert Api(backend, app=api.app, address="192.0.2.2").get("/api/v1/version").status_code == 200
    api.clock.move(1)
    assert api.get("/api/v1/version").status_code == 200


def test_health_checks_have_a_separate_limit_and_no_body() -> None:
    api = Api(FakeBackend(requests_per_second=2), address="192.0.2.1")
    assert [api.get("/healthz").status_code for _ in range(4)] == [200] * 4
    problem(api.get("/healthz"), 429, "too-many-requests")
    assert api.get("/api/v1/version").status_code == 200
    api.clock.move(1)
    problem(api.ask("GET", "/healthz", content=b"x"), 413, "too-large")
    problem(api.ask("GET", "/healthz", content=chunks(1, 1)), 413, "too-large")


def test_a_request_with_two_lengths_is_rejected() -> None:
    headers = {"Content-Length": "4", "Transfer-Encoding": "chunked"}
    answer = Api().ask("POST", "/api/v1/session", content=b"{}", headers=headers)
    problem(answer, 400, "bad-request")
    assert answer.headers["connection"] == "close"


def test_slow_uploads_do_not_block_others() -> None:
    api = Api(FakeBackend())

    async def work() -> None:
        leave = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield JPEG
            await leave.wait()

        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=AS_JPEG) as client:
            waiting = [asyncio.ensure_future(client.post("/api/v1/infer", content=slow())) for _ in range(60)]
            for _ in range(1000):  # until all requests have begun
                await asyncio.sleep(0)
            assert (await client.post("/api/v1/infer", content=JPEG)).status_code == 200
            leave.set()
            answers = await asyncio.gather(*waiting)
            assert {answer.status_code for answer in answers} <= {200, 503}

    asyncio.run(work())


def test_uploads_share_a_limited_memory() -> None:
    async def body(memory: BodyMemory, size: int) -> int:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"x" * size}

        async with memory.body(Request({"type": "http"}, receive)) as data:
            return len(data)

    async def work() -> None:
        memory = BodyMemory(100)
        assert await body(memory, 100) == 100
        with pytest.raises(Problem) as full:
            await body(memory, 101)
        assert full.value.status_code == 503
        assert await body(memory, 100) == 100  # the memory is free again

    asyncio.run(work())


def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            yield (JPEG if number == 0 else b"").ljust(size, b"x")

    return body()


def test_the_size_of_an_image_is_limited() -> None:
    backend = FakeBackend(max_upload_mb=0.01)
    api = Api(backend)
    most = JPEG.ljust(10_000, b"x")
    assert api.ask("POST", "/api/v1/infer", content=most, headers=AS_JPEG).status_code == 200
    answer = api.ask("POST", "/api/v1/infer", content=most + b"x", headers=AS_JPEG)
    assert "10000 bytes" in problem(answer, 413, "too-large")["detail"]
    assert api.ask("POST", "/api/v1/infer", content=chunks(10, 1000), headers=AS_JPEG).status_code == 200
    problem(api.ask("POST", "/api/v1/infer", content=chunks(11, 1000), headers=AS_JPEG), 413, "too-large")
    assert [len(image) for image, *_ in backend.pictures] == [10_000, 10_000]


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999", "٣"])
def test_an_invalid_content_length_is_rejected(length: str) -> None:
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", length.encode())]
    answer = Api().ask("POST", "/api/v1/infer", content=JPEG, headers=headers)
    problem(answer, 413, "too-large")


def test_other_bodies_are_limited_to_one_megabyte() -> None:
    api = Api(tokens=TOKENS)
    body = b" " * (MAX_JSON_BYTES + 1)
    for method, path in (("PUT", "/api/v1/streams/x"), ("POST", "/api/v1/session"), ("POST", "/nothing")):
        problem(api.ask(method, path, token=ADMIN, content=body), 413, "too-large")
    problem(api.ask("POST", "/api/v1/session", content=chunks(101, 10_000)), 413, "too-large")


def test_a_body_that_does_not_arrive_times_out() -> None:
    async def never() -> Message:
        await asyncio.sleep(LONG_S)
        raise AssertionError

    async def work() -> None:
        receive = limited({"type": "http", "headers": []}, never, 100, timeout_s=0.01)
        with pytest.raises(Problem) as slow:
            await receive()
        assert slow.value.status_code == 408

    asyncio.run(work())


def test_there_is_no_timeout_after_the_body() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x" * 100}, {"type": "http.disconnect"}]

    async def receive_next() -> Message:
        if len(messages) == 1:
            await asyncio.sleep(0.05)
        return messages.pop(0)

    async def work() -> None:
        receive = limited({"type": "http", "headers": []}, receive_next, 100, timeout_s=0.02)
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    asyncio.run(work())


def test_a_request_limiter_has_slots_and_a_queue() -> None:
    async def work() -> None:
        limiter = RequestLimiter(2, 1)
        leave = asyncio.Event()
        inside = 0
        most = 0

        async def visit() -> None:
            nonlocal inside, most
            async with limiter.slot():
                inside += 1
                most = max(most, inside)
                await leave.wait()
                inside -= 1

        visits = [asyncio.ensure_future(visit()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as full:
            async with limiter.slot():
                pass
        assert (full.value.status_code, full.value.kind) == (503, "unavailable")
        leave.set()
        await asyncio.gather(*visits)
        assert most == 2
        async with limiter.slot():
            pass

    asyncio.run(work())
