"""Authentication: tokens, roles, sessions, host names, origins."""

from __future__ import annotations

import base64
import json
import stat
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.service.fakes import ADMIN, JPEG, OPEN, TOKENS, VIEW, Api, FakeBackend, problem
from tests.support.hand_clock import HandClock
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.service.http.access.identify import SESSION_COOKIE
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.auth import Sessions, is_loopback, tokens_for

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


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://127.0.0.1:8080", True),
        ("http://127.0.0.1", False),
        ("http://localhost:8080", False),
        ("http://127.0.0.1:8080.evil.example", False),
        ("https://evil.example", False),
        ("null", False),
        ("http://[", False),
        ("http://127.0.0.1:99999", False),
        ("", False),
        (None, False),
    ],
)
def test_changes_with_a_cookie_depend_on_the_origin(origin: str | None, allowed: bool) -> None:
    api = Api(tokens=TOKENS)
    headers = {"Cookie": cookie_of(api, ADMIN)} | ({} if origin is None else {"Origin": origin})
    assert api.get("/api/v1/streams", headers=headers).status_code == 200  # CORS is disabled
    answer = api.ask("PUT", "/api/v1/streams/x", headers=headers, json={"detect": "rtsp://10.0.0.9/x"})
    if allowed:
        assert answer.status_code == 201
    else:
        problem(answer, 403, "wrong-origin")
        assert "x" not in api.backend.kept


def test_a_foreign_website_cannot_use_an_open_service() -> None:
    api = Api(tokens=OPEN)
    evil = {"Origin": "https://evil.example"}
    problem(api.ask("PUT", "/api/v1/streams/x", headers=evil, json={"detect": "rtsp://10.0.0.9/x"}), 403, "wrong-origin")
    answer = api.ask("OPTIONS", "/api/v1/streams/x", headers=evil | {"Access-Control-Request-Method": "PUT"})
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)
    token = Api(tokens=TOKENS).ask("PUT", "/api/v1/streams/x", token=ADMIN, headers=evil, json={"detect": "rtsp://10.0.0.9/x"})
    assert token.status_code == 201  # a client with the token is not a foreign website


SNAPSHOT = "/api/v1/streams/door/snapshot.jpg"


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'camera:{password}'.encode()).decode()}"}


def test_simple_clients_get_images_with_the_token_as_password() -> None:
    api = Api(tokens=TOKENS)
    asked = api.get(SNAPSHOT)
    assert (asked.status_code, asked.headers["www-authenticate"]) == (401, 'Basic realm="vision-infer"')
    for token in (VIEW, ADMIN):
        assert api.get(SNAPSHOT, headers=basic(token)).content == JPEG
    problem(api.get(SNAPSHOT, headers=basic("wrong")), 401, "unauthorized")
    for broken in ("Basic", "Basic !", "Basic /w==", "Basic YWJj"):
        problem(api.get(SNAPSHOT, headers={"Authorization": broken}), 401, "unauthorized")
    # Browsers send the password by themselves: it is not valid for anything else, and not for pages of other sites.
    problem(api.get(SNAPSHOT, headers=basic(ADMIN) | {"Sec-Fetch-Site": "cross-site"}), 403, "wrong-origin")
    problem(api.get("/api/v1/streams", headers=basic(ADMIN)), 401, "unauthorized")
    for method in ("PUT", "DELETE", "POST"):
        for path in (SNAPSHOT, "/api/v1/streams/door"):
            assert api.ask(method, path, headers=basic(ADMIN), json={}).status_code == 401
    assert "door" in api.backend.kept


def test_the_page_shows_no_login_dialog_of_the_browser() -> None:
    api = Api(tokens=TOKENS)
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    assert api.get(SNAPSHOT, headers=browser | {"Accept": "*/*"}).headers["www-authenticate"].startswith("Bearer")
    opened = api.get(SNAPSHOT, headers=browser | {"Accept": "text/html,*/*;q=0.8"})
    assert opened.headers["www-authenticate"].startswith("Basic")


DASHBOARD = "https://dashboard.example"


def test_pages_of_allowed_origins_use_the_api() -> None:
    api = Api(FakeBackend(allow_origins=["https://Dashboard.example:443/"]), TOKENS)
    page = {"Origin": DASHBOARD, "Sec-Fetch-Site": "cross-site"}
    wanted = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}
    asked = api.ask("OPTIONS", "/api/v1/streams/x", headers=page | wanted)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, DASHBOARD)
    assert "PUT" in asked.headers["access-control-allow-methods"]
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    answer = api.get("/api/v1/streams", token=VIEW, headers=page)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == DASHBOARD
    assert {"link", "location", "etag"} <= {
        name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")
    }
    assert "Origin" in answer.headers["vary"]
    refused = api.get("/api/v1/streams", headers=page)  # the page can read the reason
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, DASHBOARD)
    # With the cookie, which a page of the same site (https://*.example) can send
    cookie = page | {"Cookie": cookie_of(api, ADMIN)}
    assert api.ask("PUT", "/api/v1/streams/x", headers=cookie, json={"detect": "rtsp://10.0.0.9/x"}).status_code == 201
    for other in ("https://dashboard.example.evil.example", "http://dashboard.example", "https://evil.example", "null"):
        evil = cookie | {"Origin": other}
        problem(api.ask("PUT", "/api/v1/streams/y", headers=evil, json={"detect": "rtsp://10.0.0.9/x"}), 403, "wrong-origin")
        problem(api.get("/api/v1/streams", headers=evil), 403, "wrong-origin")
        assert api.ask("OPTIONS", "/api/v1/streams/x", headers=evil | wanted).status_code == 400


def test_pages_of_allowed_origins_show_images_and_embed_the_page() -> None:
    api = Api(FakeBackend(allow_origins=[DASHBOARD]), OPEN)
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Referer": f"{DASHBOARD}/"}
    assert api.get(SNAPSHOT, headers=image).content == JPEG
    problem(
        api.get(SNAPSHOT, headers=image | {"Referer": "https://evil.example/?https://dashboard.example"}), 403, "wrong-origin"
    )
    problem(api.ask("POST", "/api/v1/infer", headers=image, content=JPEG), 403, "wrong-origin")
    for path in ("/", "/api/v1/streams"):
        assert api.get(path).headers["content-security-policy"].endswith(f"; frame-ancestors {DASHBOARD}")
        assert Api(tokens=OPEN).get(path).headers["content-security-policy"].endswith("; frame-ancestors 'none'")


@pytest.mark.parametrize(
    "origin",
    ["*", "dashboard.example", "https://", "ftp://x", "https://x/path", "https://x:y", "https://u@x", "https://x y", "null"],
)
def test_an_invalid_origin_is_rejected(origin: str) -> None:
    with pytest.raises(ValueError, match="must be http://HOST"):
        ServiceSettings(allow_origins=(origin,))


def test_a_proxy_that_changes_the_host_header_is_named() -> None:
    api = Api(FakeBackend(allow_hosts=["backend"]), tokens=TOKENS, host="backend:8080")
    login = api.ask("POST", "/api/v1/session", json={"token": ADMIN}, headers={"Origin": "https://cameras.example"})
    detail = problem(login, 403, "wrong-origin")["detail"]
    assert "https://cameras.example does not match the Host header backend:8080" in detail
    assert "proxy" in detail


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "LOCALHOST:8080", "localhost.", "[::1]:8080", "cameras.example:1"]
)
def test_allowed_host_names(host: str) -> None:
    api = Api(FakeBackend(allow_hosts=["cameras.example"]))
    assert api.get("/api/v1/version", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "10.0.0.7:8080", "", "localhost@evil.example", "localhost/x", "a:b:c"),
        *("[::1", "[::1]evil", "[::1]:x", "[::1]evil:80", "::1evil"),
    ],
)
def test_an_unknown_host_name_is_rejected(host: str) -> None:
    api = Api(FakeBackend(allow_hosts=["cameras.example"]), TOKENS)
    problem(api.get("/api/v1/version", headers={"Host": host}, token=ADMIN), 421, "wrong-host")
    assert api.get("/healthz", headers={"Host": host}).status_code == 200


def test_any_address_but_no_unknown_name_is_allowed_on_all_interfaces() -> None:
    api = Api(FakeBackend(host="0.0.0.0"), TOKENS)
    for host in ("10.0.0.7:8080", "[fe80::1]:8080", "localhost"):
        assert api.get("/api/v1/version", headers={"Host": host}, token=ADMIN).status_code == 200
    problem(api.get("/api/v1/version", headers={"Host": "evil.example"}, token=ADMIN), 421, "wrong-host")


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


def test_a_token_is_generated_once_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = tokens_for(ServiceSettings(host="0.0.0.0"), folder, HandClock())
    assert made.made is not None
    assert made.tokens.role_of(made.made) == "admin"
    path = folder / "token.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.made not in path.read_text()
    again = tokens_for(ServiceSettings(host="0.0.0.0"), folder, HandClock())
    assert again.made is None
    assert again.tokens.role_of(made.made) == "admin"
    assert [one.name for one in folder.iterdir()] == ["token.json"]


def test_tokens_of_a_service(tmp_path: Path) -> None:
    assert not tokens_for(ServiceSettings(), tmp_path).tokens.needed
    chosen = tokens_for(ServiceSettings(token=SecretStr(ADMIN), view_token=SecretStr(VIEW), host="0.0.0.0"), tmp_path)
    assert (chosen.made, chosen.tokens.role_of(ADMIN), chosen.tokens.role_of(VIEW)) == (None, "admin", "view")
    assert not (tmp_path / "token.json").exists()
    on_loopback = tokens_for(ServiceSettings(view_token=SecretStr(VIEW)), tmp_path)
    assert on_loopback.made is not None
    assert tokens_for(ServiceSettings(allow_hosts=("cameras.example",)), tmp_path / "proxied").made is not None
    with pytest.raises(UsageError, match="is the same"):
        tokens_for(ServiceSettings(token=SecretStr(ADMIN), view_token=SecretStr(ADMIN)), tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": "00"}', '{"sha256": 5}', '{"sha256": "zz"}', "[" * 100_000])
def test_a_damaged_token_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "token.json").write_text(text)
    with pytest.raises(UsageError, match="contains no valid token hash"):
        tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path)


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"token\.json"):
        tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path / "file" / "state")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("cam", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_the_hash_file_is_json_with_its_date(tmp_path: Path) -> None:
    tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path, HandClock())
    values = json.loads((tmp_path / "token.json").read_text())
    assert values["created"] == "2023-11-14T22:30:00.000Z"
    assert len(values["sha256"]) == 64
