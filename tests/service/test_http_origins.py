"""Origins and host names of requests: pages of other sites, proxies, and clients that know only HTTP Basic."""

from __future__ import annotations

import base64

import pytest

from tests.service.fakes import ADMIN, JPEG, OPEN, TOKENS, VIEW, Api, FakeBackend, problem
from tests.service.test_http_auth import cookie_of
from vision_infer.config.serve import ServiceSettings


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
