"""Login through a provider of OpenID Connect, and its tokens; the provider is real HTTP in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from pydantic import ValidationError

from tests.service.fakes import ADMIN, TOKENS, Api, FakeBackend, problem
from tests.support.oidc_provider import (
    CLIENT,
    SECRET,
    Claims,
    OidcProvider,
    elliptic_key,
    signed_by_public_key,
    signed_by_stranger,
    unsigned,
)
from vision_infer.config.access.settings import AccessSettings
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.identify import SESSION_COOKIE
from vision_infer.service.http.routes.access.oidc import LOGIN_COOKIE

PAGE = "https://cameras.example.org/site/"
AUDIENCE = "api://cameras"
CALLBACK = "/api/v1/oidc/callback"


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        yield running


@pytest.fixture(autouse=True)
def _unchanged(provider: OidcProvider) -> None:
    provider.reset()


class Site:
    """A service with single sign-on and the roles viewer, for the group security, and admin, for one person."""

    def __init__(self, provider: OidcProvider, folder: Path, **more: Any) -> None:
        oidc = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "page": PAGE,
            "groups": {"security": "viewer"},
            "users": {"boss@example.org": "admin", "u-boss": "admin", "root@example.org": "admin"},
            "audience": AUDIENCE,
        }
        settings = AccessSettings.model_validate({"roles": {"viewer": ["door"]}, "oidc": oidc | more})
        backend = FakeBackend()
        backend.put("vault", "rtsp://10.0.0.5/vault")
        self.provider = provider
        self.api = Api(backend, TOKENS, access=lambda clock: Access(settings, folder, clock), address="192.0.2.9")
        self.use()

    def use(self) -> None:
        """Set the clock of the provider to that of this site."""
        self.provider.now = lambda: self.api.clock.wall_ns() / 1e9

    def begin(self) -> tuple[str, str]:
        """Begin a login; return the URL of the provider and the cookie."""
        answer = self.api.get("/api/v1/oidc/login", headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"})
        assert answer.status_code == 303
        morsel = SimpleCookie(answer.headers["set-cookie"])[LOGIN_COOKIE]
        assert (morsel["httponly"], morsel["samesite"], morsel["secure"], morsel["path"]) == (True, "lax", True, CALLBACK)
        return answer.headers["location"], f"{LOGIN_COOKIE}={morsel.value}"

    def returned(self, address: str) -> dict[str, str]:
        """Log in at the provider; return the query of its redirect."""
        location = httpx.get(address).headers["location"]
        assert location.startswith(f"{PAGE}api/v1/oidc/callback?")
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def finish(self, query: dict[str, str], cookie: str | None) -> httpx.Response:
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"} | ({} if cookie is None else {"Cookie": cookie})
        return self.api.get(f"{CALLBACK}?{urlencode(query)}", headers=headers)

    def log_in(self) -> httpx.Response:
        address, cookie = self.begin()
        return self.finish(self.returned(address), cookie)

    def session(self) -> dict[str, str]:
        """Log in; return the headers of the browser."""
        answer = self.log_in()
        assert (answer.status_code, answer.headers.get("location")) == (303, PAGE), answer.text
        cookies = SimpleCookie()
        for header in answer.headers.get_list("set-cookie"):
            cookies.load(header)
        morsel = cookies[SESSION_COOKIE]
        assert (morsel["httponly"], morsel["samesite"], morsel["secure"]) == (True, "strict", True)
        assert cookies[LOGIN_COOKIE]["max-age"] == "0"
        return {"Cookie": f"{SESSION_COOKIE}={morsel.value}"}


@pytest.fixture(scope="module")
def shared_site(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(provider, tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(shared_site: Site) -> Site:
    """Return a site that reads the keys again, and from which no client has sent a request recently."""
    shared_site.api.clock.move(4000)
    shared_site.use()
    return shared_site


def test_a_person_logs_in_and_sees_the_cameras_of_its_role(site: Site) -> None:
    assert site.api.get("/api/v1/session").json()["login"] == "api/v1/oidc/login"
    browser = site.session()
    session = site.api.get("/api/v1/session", headers=browser).json()
    assert {name: session[name] for name in ("user", "role", "role_name", "cameras")} == {
        "user": "ada@example.org",
        "role": "view",
        "role_name": "viewer",
        "cameras": ["door"],
    }
    assert [stream["name"] for stream in site.api.get("/api/v1/streams", headers=browser).json()] == ["door"]
    assert site.api.get("/api/v1/streams/vault", headers=browser).status_code == 404
    own = browser | {"Origin": "http://127.0.0.1:8080"}
    assert site.api.ask("DELETE", "/api/v1/session", headers=own).status_code == 204
    assert site.api.get("/api/v1/streams", headers=browser).status_code == 401
    assert site.provider.requests.count("GET /realms/site/keys") == 1  # keys are kept


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["other", "security"]}, "viewer"),
        ({"groups": "security"}, "viewer"),
        ({"groups": ["security"], "email": "boss@example.org"}, "admin"),
        ({"groups": ["security"], "email": "boss@example.org", "email_verified": False}, "viewer"),
        ({"groups": [], "email": "boss@example.org", "email_verified": "true"}, None),
        ({"groups": [], "sub": "u-boss"}, "admin"),
        ({"groups": [], "sub": "root@example.org"}, None),  # at some providers, persons choose this name
        ({"groups": []}, None),
        ({"groups": {"security": 1}}, None),
        ({"groups": None}, None),
        ({"groups": [["security"], {"a": 1}]}, None),
    ],
)
def test_groups_and_persons_have_roles(site: Site, claims: Claims, role: str | None) -> None:
    site.provider.claims |= claims
    if role is None:
        assert "has no role" in problem(site.log_in(), 403, "login-refused")["detail"]
    else:
        assert site.api.get("/api/v1/session", headers=site.session()).json()["role_name"] == role


def test_groups_of_a_nested_claim(provider: OidcProvider, tmp_path: Path) -> None:
    site = Site(provider, tmp_path, groups_claim="realm_access.roles")
    provider.claims["realm_access"] = {"roles": ["security"]}
    assert site.api.get("/api/v1/session", headers=site.session()).json()["role_name"] == "viewer"


FORGED: dict[str, Callable[[Claims], Claims]] = {
    "another issuer": lambda claims: claims | {"iss": "http://127.0.0.1:1/realms/site"},
    "issuer with a slash": lambda claims: claims | {"iss": claims["iss"] + "/"},
    "another audience": lambda claims: claims | {"aud": "other"},
    "no audience": lambda claims: {name: value for name, value in claims.items() if name != "aud"},
    "another party": lambda claims: claims | {"azp": "other"},
    "another nonce": lambda claims: claims | {"nonce": "x" * 43},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "expired": lambda claims: claims | {"exp": claims["iat"] - 61},
    "no expiry": lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    "endless": lambda claims: claims | {"exp": 1e300},
    "infinite": lambda claims: claims | {"exp": float("inf")},
    "not a time": lambda claims: claims | {"exp": float("nan")},
    "text as a time": lambda claims: claims | {"exp": "9999999999"},
    "not valid yet": lambda claims: claims | {"nbf": claims["iat"] + 120},
    "of the future": lambda claims: claims | {"iat": claims["iat"] + 120},
    "no person": lambda claims: {name: value for name, value in claims.items() if name != "sub"},
    "a list as the person": lambda claims: claims | {"sub": ["u-1"]},
}


@pytest.mark.parametrize("kind", FORGED)
def test_wrong_claims_are_refused(site: Site, kind: str) -> None:
    site.provider.edit = FORGED[kind]
    answer = site.log_in()
    problem(answer, 403, "login-refused")
    assert SESSION_COOKIE not in str(answer.headers)
    site.provider.edit = lambda claims: claims
    site.session()


@pytest.mark.parametrize("kind", ["none", "HS256 with the public key", "another key", "another key with a new id", "garbage"])
def test_forged_signatures_are_refused(site: Site, kind: str) -> None:
    provider = site.provider
    site.session()  # the keys are known
    provider.sign = {
        "none": unsigned,
        "HS256 with the public key": signed_by_public_key(provider),
        "another key": signed_by_stranger(provider),
        "another key with a new id": signed_by_stranger(provider, "new"),
        "garbage": lambda _: "a.b.c",
    }[kind]
    assert "signature" in problem(site.log_in(), 403, "login-refused")["detail"]
    problem(site.api.get("/api/v1/streams", token=provider.token(AUDIENCE)), 401, "unauthorized")


def test_a_published_shared_secret_is_not_used(site: Site) -> None:
    """A key set with a symmetric key, and a token that is signed with it."""
    from joserfc import jwt
    from joserfc.jwk import OctKey

    shared = OctKey.generate_key(256, {"kid": "shared"})
    site.provider.more_keys = [shared.as_dict(private=True)]
    site.provider.sign = lambda claims: jwt.encode({"alg": "HS256", "kid": "shared"}, claims, shared)
    problem(site.log_in(), 403, "login-refused")


def test_keys_are_rotated(site: Site) -> None:
    site.session()
    old = site.provider.token(AUDIENCE)
    site.provider.rotate()
    problem(site.log_in(), 403, "login-refused")  # the keys were just read
    asked = len(site.provider.requests)
    for _ in range(5):
        assert site.api.get("/api/v1/streams", token=site.provider.token(AUDIENCE)).status_code == 401
    assert len(site.provider.requests) == asked, "unknown keys cause no requests for 30 s"
    site.api.clock.move(30)
    site.session()
    assert site.api.get("/api/v1/streams", token=site.provider.token(AUDIENCE)).status_code == 200
    assert site.api.get("/api/v1/streams", token=old).status_code == 401
    key = elliptic_key("second")
    site.provider.more_keys = [key.as_dict(private=False)]
    site.api.clock.move(3600)
    from joserfc import jwt

    site.provider.sign = lambda claims: jwt.encode({"alg": "ES256", "kid": "second"}, claims, key)
    site.session()


def test_a_login_belongs_to_one_browser(site: Site) -> None:
    address, cookie = site.begin()
    query = site.returned(address)
    problem(site.finish(query, None), 400, "bad-request")
    _, other = site.begin()
    assert "did not begin" in problem(site.finish(query, other), 403, "login-refused")["detail"]
    for state in ("", "x" * 43, "é"):
        problem(site.finish(query | {"state": state}, cookie), 403, "login-refused")
    forged = f"{LOGIN_COOKIE}={int(time.time())}.guessed"
    problem(site.finish(query, forged), 403, "login-refused")
    problem(site.finish({"error": "access_denied", "state": query["state"]}, cookie), 400, "bad-request")
    assert site.finish(query, cookie).status_code == 303
    assert site.finish(query, cookie).status_code == 403, "the provider accepts a code once"


def test_a_stolen_code_needs_the_browser(site: Site) -> None:
    """PKCE: the code of another login is useless, also with a valid state."""
    stolen = site.returned(site.begin()[0])
    address, cookie = site.begin()
    own = site.returned(address)
    detail = problem(site.finish(own | {"code": stolen["code"]}, cookie), 403, "login-refused")["detail"]
    assert detail == "the login provider did not accept the login"


def test_a_slow_login_and_an_old_session_end(site: Site) -> None:
    address, cookie = site.begin()
    query = site.returned(address)
    site.api.clock.move(601)
    assert "too long" in problem(site.finish(query, cookie), 403, "login-refused")["detail"]
    browser = site.session()
    site.api.clock.move(12 * 3600)
    assert site.api.get("/api/v1/streams", headers=browser).status_code == 401


def test_failed_logins_are_rate_limited(site: Site) -> None:
    _, cookie = site.begin()
    statuses = [site.finish({"state": "x", "code": "y"}, cookie).status_code for _ in range(12)]
    assert statuses == [403] * 10 + [429] * 2
    site.session()  # a valid login is still accepted


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_the_browser_always_returns_to_the_page(site: Site, target: str) -> None:
    address, cookie = site.begin()
    query = site.returned(address) | {"redirect_uri": target, "next": target, "to": target}
    answer = site.api.get(f"{CALLBACK}?{urlencode(query)}", headers={"Cookie": cookie, "Host": "127.0.0.1", "Referer": target})
    assert answer.headers["location"] == PAGE


def test_another_site_cannot_begin_a_login_in_the_background(site: Site) -> None:
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for path in ("/api/v1/oidc/login", CALLBACK):
        problem(site.api.get(path, headers=image), 403, "wrong-origin")


def test_access_tokens_of_programs(site: Site) -> None:
    token = site.provider.token(AUDIENCE)
    assert [stream["name"] for stream in site.api.get("/api/v1/streams", token=token).json()] == ["door"]
    audiences: list[str | list[str]] = [CLIENT, "other", [AUDIENCE + "x"]]
    for audience in audiences:
        problem(site.api.get("/api/v1/streams", token=site.provider.token(audience)), 401, "unauthorized")
    assert site.api.get("/api/v1/streams", token=site.provider.token([AUDIENCE, "other"])).status_code == 200
    others: list[Claims] = [{"nonce": "n"}, {"typ": "ID"}, {"groups": []}]
    for more in others:
        assert site.api.get("/api/v1/streams", token=site.provider.token(AUDIENCE, **more)).status_code == 401
    site.api.clock.move(361)
    assert site.api.get("/api/v1/streams", token=token).status_code == 401


def test_a_person_creates_tokens_for_the_same_role(site: Site) -> None:
    own = site.session() | {"Origin": "http://127.0.0.1:8080"}
    made = site.api.ask("POST", "/api/v1/tokens", headers=own, json={"days": 1})
    assert (made.status_code, made.json()["person"], made.json()["role"]) == (201, "ada@example.org", "viewer")
    assert [one["name"] for one in site.api.get("/api/v1/streams", token=made.json()["token"]).json()] == ["door"]
    for values in ({"role": "admin"}, {"person": "bob"}):
        problem(site.api.ask("POST", "/api/v1/tokens", headers=own, json={"days": 1} | values), 403, "forbidden")
    site.api.ask("POST", "/api/v1/tokens", token=ADMIN, json={"days": 1, "person": "ada@example.org"})
    (listed,) = site.api.get("/api/v1/tokens", headers=own).json()  # a name does not make an owner
    assert listed["id"] == made.json()["id"]
    assert site.api.ask("DELETE", f"/api/v1/tokens/{listed['id']}", headers=own).status_code == 204


def test_logins_that_ask_the_provider_are_rate_limited(site: Site) -> None:
    address, cookie = site.begin()
    query = site.returned(address)
    statuses = [site.finish(query | {"state": "x"}, cookie).status_code for _ in range(31)]
    assert statuses.count(403) == 10
    problem(site.finish(query, cookie), 429, "too-many-requests")
    site.api.clock.move(1)
    assert site.finish(query, cookie).status_code == 303


def test_no_access_tokens_are_accepted_without_an_audience(provider: OidcProvider, tmp_path: Path) -> None:
    site = Site(provider, tmp_path, audience=None)
    assert site.api.get("/api/v1/streams", token=provider.token(CLIENT)).status_code == 401


def test_a_provider_that_is_away_or_wrong(provider: OidcProvider, tmp_path: Path) -> None:
    site = Site(provider, tmp_path)
    provider.document = {"issuer": "https://evil.example"}
    problem(site.api.get("/api/v1/oidc/login"), 503, "unavailable")
    problem(site.api.get("/api/v1/streams", token="a.b.c"), 503, "unavailable")
    assert site.api.get("/api/v1/streams", token=ADMIN).status_code == 200
    provider.document = {"token_endpoint": "http://login.example.org/token"}
    site.api.clock.move(30)
    problem(site.api.get("/api/v1/oidc/login"), 503, "unavailable")
    provider.document = {}
    problem(site.api.get("/api/v1/oidc/login"), 503, "unavailable")  # it is asked again after 30 s
    site.api.clock.move(30)
    site.session()


def test_the_routes_do_not_exist_without_a_provider() -> None:
    api = Api(tokens=TOKENS)
    for path in ("/api/v1/oidc/login", CALLBACK, "/api/v1/tokens"):
        problem(api.get(path, token=ADMIN), 404, "not-found")
        assert "login" not in problem(api.get(path), 401, "unauthorized")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"issuer": "http://login.example.org"}, "https"),
        ({"issuer": "https://user@login.example.org"}, "https"),
        ({"issuer": "https://login.example.org/?a=b"}, "https"),
        ({"page": "ftp://cameras"}, "https"),
        ({"scopes": ["email"]}, "openid"),
        ({"groups": {"a": "missing"}}, "no role named missing"),
        ({"users": {"a": "missing"}}, "no role named missing"),
    ],
)
def test_wrong_settings(values: dict[str, Any], text: str) -> None:
    oidc = {"issuer": "https://login.example.org", "client_id": "a", "page": "https://cameras.example.org"} | values
    with pytest.raises(ValidationError, match=text):
        AccessSettings.model_validate({"oidc": oidc})


def test_the_admin_role_cannot_be_limited() -> None:
    with pytest.raises(ValidationError, match="always has all rights"):
        AccessSettings.model_validate({"roles": {"admin": ["door"]}})
