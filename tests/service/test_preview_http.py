"""WHEP over HTTP: responses to well-behaved and misbehaving players."""

from __future__ import annotations

import asyncio
import base64
import hmac
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.preview.watching import LIMIT_S, Stream
from tests.service.fakes import ADMIN, OPEN, TOKENS, VIEW, FakeBackend, problem
from tests.support.hand_clock import HandClock
from vision_infer.config.preview import IceServer, PreviewSettings
from vision_infer.config.serve import StreamSettings
from vision_infer.preview.preview import Preview
from vision_infer.preview.session import Session
from vision_infer.preview.transport.ice import with_credentials
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens

OFFER = Path(__file__).parents[1].joinpath("preview", "chromium_offer.sdp").read_text(encoding="ascii")
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
DOOR = "/api/v1/streams/door/whep"
CANDIDATE = "a=candidate:1 1 udp 2122260223 192.0.2.9 61764 typ host\r\n"
TRICKLE = "a=ice-ufrag:%s\r\na=ice-pwd:x\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n" + CANDIDATE
UFRAG = next(line[12:] for line in OFFER.split("\n") if line.startswith("a=ice-ufrag:"))


class Player:
    """A client of one application on one event loop."""

    def __init__(self, backend: FakeBackend, tokens: Tokens) -> None:
        self.backend = backend
        self.app = make_app(backend, tokens, HandClock())

    async def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = httpx.Headers(more.pop("headers", None))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(self.app, client=("127.0.0.1", 40_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            return await client.request(method, path, headers=headers, **more)

    async def offer(self, sdp: str = OFFER, token: str | None = None, **headers: str) -> httpx.Response:
        return await self.ask("POST", DOOR, token, content=sdp, headers={**SDP, **headers})


@asynccontextmanager
async def playing(tokens: Tokens = OPEN, source: str = "test://", **settings: Any) -> AsyncIterator[Player]:
    """A player of a stream that delivers frames."""
    backend = FakeBackend(requests_per_second=1_000_000)
    backend.put("door", "rtsp://10.0.0.7/door")
    preview = backend.preview = Preview(PreviewSettings(encode_height=90, **settings))
    with Stream(preview, source):
        async with asyncio.timeout(LIMIT_S):
            while preview.relay("door").video is None:
                await asyncio.sleep(0.02)
        try:
            yield Player(backend, tokens)
        finally:
            await preview.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_a_session_from_its_offer_to_its_end() -> None:
    async def test() -> None:
        async with playing(TOKENS) as player:
            service = player.backend.settings.service.model_copy(update={"root_path": "/vision"})
            player.backend.settings = player.backend.settings.model_copy(update={"service": service})
            made = await player.offer(token=VIEW)
            assert made.status_code == 201, made.text
            assert made.headers["content-type"] == "application/sdp"
            assert made.text.startswith("v=0\r\n")
            assert "a=sendonly" in made.text
            assert "a=candidate:" in made.text
            where, etag = made.headers["location"], made.headers["etag"]
            assert where.startswith("/vision" + DOOR + "/")
            where = where.removeprefix("/vision")  # as the proxy does it
            assert len(where.rpartition("/")[2]) >= 32
            details = (await player.ask("GET", where, VIEW)).json()
            assert (details["mode"], details["codec"], details["stream"]) == ("encoded", "H264", "door")
            assert details["reason"]
            assert details["ice"] in ("new", "checking")
            assert [details[name] for name in ("dtls", "checks", "transport", "remote")] == ["new", 0, None, None]
            # Other clients cannot see it.
            for method in ("GET", "PATCH", "DELETE"):
                problem(await player.ask(method, where, ADMIN, content=TRICKLE % UFRAG, headers=FRAGMENT), 404, "not-found")
            trickled = {"content": TRICKLE % UFRAG, "token": VIEW}
            problem(await player.ask("PATCH", where, **trickled, headers=FRAGMENT), 428, "precondition-required")
            wrong = {**FRAGMENT, "If-Match": '"another"'}
            problem(await player.ask("PATCH", where, **trickled, headers=wrong), 412, "precondition-failed")
            right = {**FRAGMENT, "If-Match": etag}
            problem(await player.ask("PATCH", where, **trickled, headers={**right, **SDP}), 415, "unsupported-media-type")
            assert (await player.ask("PATCH", where, **trickled, headers=right)).status_code == 204
            restart = await player.ask("PATCH", where, VIEW, content=TRICKLE % "another", headers=right)
            problem(restart, 501, "not-implemented")
            many = (TRICKLE % UFRAG) + "".join(
                f"a=candidate:1 1 udp 1 192.0.2.{number % 250} {1000 + number} typ host\r\n" for number in range(300)
            )
            assert (await player.ask("PATCH", where, VIEW, content=many, headers=right)).status_code == 204
            assert (await player.ask("DELETE", where, VIEW)).status_code == 200
            problem(await player.ask("DELETE", where, VIEW), 404, "not-found")
            problem(await player.ask("GET", where, VIEW), 404, "not-found")
            assert player.backend.preview.counts().viewers == {"door": 0}

    run(test)


def test_a_viewer_behind_a_proxy_is_not_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with playing(TOKENS) as player:
            offer, local = player.backend.preview.offer, []

            async def recorded(stream: str, sdp: str, principal: str, is_local: bool) -> Session:
                local.append(is_local)
                return await offer(stream, sdp, principal, is_local)

            monkeypatch.setattr(player.backend.preview, "offer", recorded)
            for header in ({}, {"X-Forwarded-For": "192.0.2.7"}, {"X-Real-IP": "192.0.2.7"}):
                assert (await player.offer(token=VIEW, **header)).status_code == 201
            assert local == [True, False, False]

    run(test)


def test_rejected_offers_have_a_reason() -> None:
    async def test() -> None:
        async with playing() as player:
            problem(await player.ask("POST", "/api/v1/streams/no/whep", content=OFFER, headers=SDP), 404, "unknown-stream")
            problem(await player.offer(**{"Content-Type": "application/json"}), 415, "unsupported-media-type")
            problem(await player.offer(Accept="text/html"), 406, "not-acceptable")
            problem(await player.offer("hello"), 422, "invalid")
            problem(await player.offer(""), 422, "invalid")
            problem(await player.offer("v=0\r\n"), 422, "invalid")
            audio_only = OFFER[: OFFER.index("m=video")] + OFFER[OFFER.index("m=audio") :]
            assert "not request video" in problem(await player.offer(audio_only), 422, "invalid")["detail"]
            problem(await player.offer(OFFER.replace("a=recvonly", "a=sendonly")), 422, "invalid")
            problem(await player.offer(OFFER.replace("VP8/", "VP7/").replace("H264/", "H263/")), 406, "not-acceptable")
            mode_0 = OFFER.replace("VP8/", "VP7/").replace("packetization-mode=1", "packetization-mode=0")
            assert "packetization-mode=1" in problem(await player.offer(mode_0), 406, "not-acceptable")["detail"]
            problem(await player.offer(OFFER.replace("a=fingerprint:", "a=print:")), 422, "invalid")
            problem(await player.offer(OFFER + "a=x\r\n" * 20_000), 413, "too-large")
            for method in ("GET", "PUT", "PATCH", "DELETE"):
                answer = await player.ask(method, DOOR)
                problem(answer, 405, "method-not-allowed")
                assert "POST" in answer.headers["allow"]
            other = {"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
            problem(await player.offer(**other), 403, "wrong-origin")
            assert player.backend.preview.counts().viewers == {"door": 0}

    run(test)


def test_a_stream_without_frames_has_no_preview() -> None:
    async def test() -> None:
        backend = FakeBackend()
        backend.put("door", "rtsp://10.0.0.7/door")
        player = Player(backend, OPEN)
        details = problem(await player.offer(), 503, "unavailable")
        assert details["state"]
        view = backend.kept["door"]
        settings: StreamSettings = view.settings.model_copy(update={"enabled": False})
        backend.kept["door"] = replace(view, settings=settings)
        problem(await player.offer(), 409, "conflict")
        backend.preview = Preview(PreviewSettings(enabled=False))
        backend.put("gate", "rtsp://10.0.0.7/gate")
        answer = await player.ask("POST", "/api/v1/streams/gate/whep", content=OFFER, headers=SDP)
        problem(answer, 503, "unavailable")

    run(test)


def test_ice_servers_are_sent_with_credentials_that_expire() -> None:
    async def test() -> None:
        servers = (
            IceServer(url="stun:stun.example:3478"),
            IceServer(url="turn:permanent.example", username="u", credential="permanent"),
            IceServer(url="turn:turn.example:3478?transport=tcp", secret="shared"),
        )
        async with playing(ice_servers=servers) as player:
            player.backend.settings = player.backend.settings.model_copy(update={"preview": PreviewSettings(ice_servers=servers)})
            made = await player.offer()
            assert made.status_code == 201, made.text
            asked = await player.ask("OPTIONS", DOOR)
            assert asked.status_code == 204
            assert asked.headers["accept-post"] == "application/sdp"
            ends = HandClock().wall_ns() // 10**9 + 12 * 3600
            # The same as: printf ENDS:vision-infer | openssl dgst -sha1 -hmac shared -binary | base64
            password = base64.b64encode(hmac.digest(b"shared", f"{ends}:vision-infer".encode(), "sha1")).decode()
            for answer in (made, asked):
                assert answer.headers["link"] == (
                    '<stun:stun.example:3478>; rel="ice-server", <turn:turn.example:3478?transport=tcp>; rel="ice-server"; '
                    f'username="{ends}:vision-infer"; credential="{password}"; credential-type="password"'
                )
                assert "permanent" not in str(answer.headers)
                assert "shared" not in str(answer.headers)

    run(test)


def test_the_service_logs_in_with_credentials_that_expire() -> None:
    server = with_credentials(IceServer(url="turn:turn.example", secret="shared"), 1_000 * 10**9)
    assert server.username == "44200:vision-infer"
    assert server.credential is not None
    expected = base64.b64encode(hmac.digest(b"shared", b"44200:vision-infer", "sha1")).decode()
    assert server.credential.get_secret_value() == expected
    plain = IceServer(url="turn:turn.example", username="u", credential="p")
    assert with_credentials(plain, 0) is plain


@pytest.mark.parametrize("more", [{"username": "u"}, {"credential": "p"}, {"url": "stun:stun.example"}])
def test_a_shared_secret_stands_alone(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="secret: "):
        IceServer.model_validate({"url": "turn:turn.example", "secret": "shared", **more})


@pytest.mark.parametrize("url", ["http://x", "stun:", "turn:host:port", "stun:user@host", "turns:host?transport=sctp"])
def test_an_invalid_ice_server_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="stun:HOST"):
        IceServer(url=url)


def test_logging_out_ends_the_preview() -> None:
    async def test() -> None:
        async with playing(TOKENS) as player:
            login = await player.ask("POST", "/api/v1/session", json={"token": VIEW}, headers={"Origin": "http://127.0.0.1:8080"})
            cookie = {"Cookie": login.headers["set-cookie"].partition(";")[0], "Origin": "http://127.0.0.1:8080"}
            made = await player.offer(**cookie)
            assert made.status_code == 201, made.text
            assert (await player.ask("DELETE", "/api/v1/session", headers=cookie)).status_code == 204
            async with asyncio.timeout(LIMIT_S):
                while player.backend.preview.counts().viewers["door"]:
                    await asyncio.sleep(0.02)

    run(test)


def test_damaged_offers_do_not_break_the_service() -> None:
    rng = random.Random(7)

    def damaged() -> str:
        lines = OFFER.split("\n")
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(lines))
            how = rng.randrange(4)
            if how == 0:
                del lines[at]
            elif how == 1:
                lines.insert(at, lines[rng.randrange(len(lines))])
            elif how == 2:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            else:
                lines[at] = "".join(rng.choice([c, c, c, "9", ":", " "]) for c in lines[at])
        return "\r\n".join(lines)

    async def test() -> None:
        async with playing(max_viewers=1000, max_viewers_per_stream=1000) as player:
            statuses: set[int] = set()
            for _ in range(60):
                answer = await player.offer(damaged())
                statuses.add(answer.status_code)
                if answer.status_code == 201:
                    assert (await player.ask("DELETE", answer.headers["location"])).status_code == 200
            assert statuses <= {201, 406, 422}
            assert len(statuses) > 1
            assert player.backend.preview.counts().viewers == {"door": 0}
            assert player.backend.preview.counts().encoders == 0

    run(test)
