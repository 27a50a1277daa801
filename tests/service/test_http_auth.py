"""Authentication: tokens, roles, sessions."""

from __future__ import annotations

from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.fakes import ADMIN, JPEG, OPEN, TOKENS, VIEW, Api, FakeBackend, problem
from tests.support.hand_clock import HandClock
from vision_infer.service.http.access.identify import SESSION_COOKIE
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.auth import Sessions

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


def routes(api: Api) -> list[tuple[str, str]]:
    """Return every method and path of the application, and some that do not exist."""
    document = api.get("/api/v1/openapi.json", token=ADMIN).json()
    paths = [path.replace("{name}", "door") for path in document["paths"]]
    assert "/api/v1/streams/door/snapshot.jpg" in paths
    return [(method, path) for path in [*paths, "/api/v1/openapi.json", "/", "/docs", "/nothing"] for method in METHODS]


def test_only_the_health_check_works_without_a_token() -> None:
    api = Api(tokens=TOKENS, backend=FakeBackend(requests_per_second=10_000))
    for method, path in routes(api):
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Cookie": f"{SESSION_COOKIE}=guessed"}):
            answer = api.ask(method, path, headers=headers, json={} if method in ("POST", "PUT") else None)
            if path == "/healthz":
                assert answer.status_code in ((200,) if method in ("GET", "HEAD") else (405, 413)), (method, path)
            elif path in ("/", "/docs") and method in ("GET", "HEAD", "OPTIONS"):  # the page, whose files contain no secrets
                assert answer.status_code == (405 if method == "OPTIONS" else 200), (method, path)
            else:
                assert answer.status_code == 401, (method, path)
                # Simple clients send a password only if they are asked for Basic.
                image = path.endswith(("/snapshot.jpg", "/video.mjpeg")) and method in ("GET", "HEAD", "OPTIONS")
                assert answer.headers["www-authenticate"].startswith("Basic" if image else "Bearer"), (method, path)
    assert len(api.backend.kept) == 1


def test_the_document_contains_every_route() -> None:
    api = Api()
    known = set(api.get("/api/v1/openapi.json").json()["paths"]) | {"/api/v1/openapi.json", "/api/v1/results"}
    known |= {"/", "/docs", "/page/{path}"}
    there = {str(getattr(route, "path", "")).replace(":path}", "}") for route in all_routes(api.app.routes)}
    assert there - known == set()


def all_routes(found: Any) -> list[Any]:
    flat = []
    for route in found:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        flat += all_routes(inner) if inner else [route]
    return flat


@settings(max_examples=60)
@given(st.text(max_size=60), st.sampled_from(["", "Bearer ", "bearer ", "Bearer", "Token ", "Bearer  "]))
def test_guessed_tokens_are_rejected(guess: str, kind: str) -> None:
    api = Api(tokens=TOKENS)
    header = f"{kind}{guess}".encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    assert api.get("/api/v1/streams", headers={b"authorization": header}).status_code == 401


def test_a_token_in_the_url_is_ignored() -> None:
    api = Api(tokens=TOKENS)
    for name in ("token", "access_token", "authorization"):
        problem(api.get("/api/v1/streams", params={name: ADMIN}), 401, "unauthorized")


def test_roles() -> None:
    api = Api(tokens=TOKENS)
    body = {"detect": "rtsp://10.0.0.9/x"}
    for path in ("/api/v1/streams", "/api/v1/streams/door", "/api/v1/models", "/metrics", "/readyz", "/api/v1/openapi.json"):
        assert api.get(path, token=VIEW).status_code == 200
    for method, path in (("PUT", "/api/v1/streams/x"), ("DELETE", "/api/v1/streams/door"), ("PATCH", "/"), ("POST", "/nothing")):
        problem(api.ask(method, path, token=VIEW, json=body if method == "PUT" else None), 403, "forbidden")
    sent = api.ask("POST", "/api/v1/infer", token=VIEW, content=JPEG, headers={"Content-Type": "image/jpeg"})
    assert sent.status_code == 200
    assert api.ask("PUT", "/api/v1/streams/x", token=ADMIN, json=body).status_code == 201
    assert api.get("/api/v1/session", token=VIEW).json()["role"] == "view"
    assert api.get("/api/v1/session", token=ADMIN).json()["role"] == "admin"


def test_no_token_is_required_on_loopback() -> None:
    api = Api(tokens=OPEN)
    assert api.ask("PUT", "/api/v1/streams/x", json={"detect": "rtsp://10.0.0.9/x"}).status_code == 201
    login = api.ask("POST", "/api/v1/session")
    assert login.json() | {"user": ""} == login.json()
    assert (login.json()["role"], login.json()["expires_s"]) == ("admin", None)
    for body in (b"[null, null]", b"7", b"text"):
        problem(api.ask("POST", "/api/v1/session", content=body), 422, "invalid")
    assert "set-cookie" not in login.headers


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_requests_through_a_proxy_require_a_token(header: str) -> None:
    problem(Api(tokens=OPEN).get("/api/v1/streams", headers={header: "192.0.2.7"}), 403, "behind-proxy")
    assert Api(tokens=TOKENS).get("/api/v1/streams", token=VIEW, headers={header: "192.0.2.7"}).status_code == 200


def cookie_of(api: Api, token: str) -> str:
    answer = api.ask("POST", "/api/v1/session", json={"token": token})
    assert answer.status_code == 200, answer.text
    morsel = SimpleCookie(answer.headers["set-cookie"])[SESSION_COOKIE]
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "strict", "/")
    assert int(morsel["max-age"]) == answer.json()["expires_s"] > 0
    assert token not in answer.text + answer.headers["set-cookie"]
    return f"{SESSION_COOKIE}={morsel.value}"


def test_a_browser_logs_in_and_out() -> None:
    api = Api(tokens=TOKENS)
    cookie = cookie_of(api, ADMIN)
    own = {"Cookie": f"theme=dark; {cookie}", "Origin": "http://127.0.0.1:8080"}
    assert api.get("/api/v1/streams", headers=own).status_code == 200
    assert api.ask("PUT", "/api/v1/streams/x", headers=own, json={"detect": "rtsp://10.0.0.9/x"}).status_code == 201
    out = api.ask("DELETE", "/api/v1/session", headers=own)
    assert out.status_code == 204
    assert "Max-Age=0" in out.headers["set-cookie"]
    problem(api.get("/api/v1/streams", headers=own), 401, "unauthorized")


def test_login_by_header_and_invalid_logins() -> None:
    api = Api(tokens=TOKENS)
    answer = api.ask("POST", "/api/v1/session", token=VIEW)
    assert answer.json()["role"] == "view"
    assert "Secure" not in answer.headers["set-cookie"]
    for body in (b"", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b"[" * 100_000, b"\xff", b'{"token": "wrong"}'):
        problem(api.ask("POST", "/api/v1/session", content=body), 401, "unauthorized")


def test_the_cookie_is_secure_behind_tls(tmp_path: Path) -> None:
    backend = FakeBackend(tls={"certificate": tmp_path / "a.pem", "key": tmp_path / "b.pem"})
    answer = Api(backend, TOKENS).ask("POST", "/api/v1/session", token=VIEW)
    assert "Secure" in answer.headers["set-cookie"]


def test_invalid_tokens_from_one_address_are_rate_limited() -> None:
    api = Api(FakeBackend(), TOKENS, address="192.0.2.1")
    for _ in range(10):
        problem(api.get("/api/v1/version", token="wrong"), 401, "unauthorized")
    for _ in range(3):
        answer = api.get("/api/v1/version", token="wrong")
        problem(answer, 429, "too-many-requests")
        assert int(answer.headers["retry-after"]) >= 1
    problem(api.ask("POST", "/api/v1/session", json={"token": "wrong"}), 429, "too-many-requests")
    # Others may share this address, for example behind a proxy.
    assert api.get("/api/v1/version", token=ADMIN).status_code == 200
    assert api.ask("POST", "/api/v1/session", json={"token": ADMIN}).status_code == 200
    api.clock.move(5)
    problem(api.get("/api/v1/version", token="wrong"), 401, "unauthorized")
    problem(api.get("/api/v1/version", token="wrong"), 429, "too-many-requests")


def test_sessions_expire_and_are_bounded() -> None:
    clock = HandClock()
    sessions = Sessions(clock, lifetime_s=60, max_per_token=3)
    admin = sessions.open(Principal("a", "a", "admin", "admin"), ADMIN)
    first, *others = [sessions.open(Principal("v", "v", "view", "view"), VIEW) for _ in range(4)]
    found = [sessions.principal_of(one) for one in (first, *others, admin)]
    assert [one and one.level for one in found] == [None, "view", "view", "view", "admin"]
    assert len({one.key for one in found if one is not None}) == 4
    clock.move(60)
    assert [sessions.principal_of(one) for one in (admin, *others)] == [None] * 4
    assert len(sessions) == 0
    sessions.close("unknown")
