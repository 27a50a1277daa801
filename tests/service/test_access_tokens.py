"""API tokens of persons and the audit log."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.service.fakes import ADMIN, LONG_S, TOKENS, VIEW, Api, FakeBackend, problem
from tests.service.test_http_auth import cookie_of
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.cli.app import app as command
from vision_infer.config.access.settings import AccessSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.api_tokens import MAX_TOKENS_OF_ONE, ApiTokens
from vision_infer.service.http.access.audit import route_of
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

ROLES = {"viewer": ["door"], "shift": {"level": "operator", "cameras": ["door"]}}
TOKENS_PATH = "/api/v1/tokens"


class Team:
    """A service with access for teams.

    Args:
        folder: The state folder.
        settings: The settings of access, besides the roles.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = AccessSettings.model_validate({"roles": ROLES} | settings)
        self.api = self.restarted()

    def restarted(self) -> Api:
        """Return the service after a restart."""
        access = self.settings
        return Api(FakeBackend(), TOKENS, access=lambda clock: Access(access, self.folder, clock), address="192.0.2.7")

    def create(self, by: str = ADMIN, **values: Any) -> httpx.Response:
        return self.api.ask("POST", TOKENS_PATH, token=by, json={"days": 1} | values)

    def records(self) -> list[dict[str, Any]]:
        """Return the audit log."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text(encoding="ascii").splitlines()]


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_a_token_of_a_person(team: Team) -> None:
    answer = team.create(person="ada", role="viewer", note="tablet")
    assert answer.status_code == 201
    made = answer.json()
    secret = made.pop("token")
    assert secret.startswith("vi_")
    assert len(secret) == 46  # 256 random bits
    assert team.api.get(TOKENS_PATH, token=ADMIN).json() == [made]
    session = team.api.get("/api/v1/session", token=secret).json()
    assert (session["user"], session["role_name"], session["cameras"]) == ("ada", "viewer", ["door"])
    path = team.folder / "api_tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    assert secret not in (team.folder / "audit.jsonl").read_text()
    again = team.restarted()
    assert again.get("/api/v1/session", token=secret).json()["user"] == "ada"
    assert again.ask("DELETE", f"{TOKENS_PATH}/{made['id']}", token=ADMIN).status_code == 204
    problem(again.get("/api/v1/session", token=secret), 401, "unauthorized")
    problem(team.restarted().get("/api/v1/session", token=secret), 401, "unauthorized")
    problem(again.ask("DELETE", f"{TOKENS_PATH}/{made['id']}", token=ADMIN), 404, "not-found")


def test_a_token_expires(team: Team) -> None:
    secret = team.create(days=1).json()["token"]
    cookie = {"Cookie": cookie_of(team.api, secret)}
    team.api.clock.move(11 * 3600)
    assert team.api.get("/api/v1/version", headers=cookie).status_code == 200
    cookie = {"Cookie": cookie_of(team.api, secret)}
    team.api.clock.move(13 * 3600 - 1)
    assert team.api.get("/api/v1/version", token=secret).status_code == 200
    team.api.clock.move(1)
    assert team.api.get("/api/v1/version", token=secret).status_code == 401
    assert team.api.get("/api/v1/version", headers=cookie).status_code == 401, "a session ends with its token"
    assert team.api.get(TOKENS_PATH, token=ADMIN).json() == []


@pytest.mark.parametrize(
    "values", [{"days": 0}, {"days": 91}, {"days": None}, {}, {"days": 1, "role": "boss"}, {"days": 1, "note": "\n"}]
)
def test_every_token_has_a_limited_lifetime_and_a_known_role(team: Team, values: dict[str, Any]) -> None:
    problem(team.api.ask("POST", TOKENS_PATH, token=ADMIN, json=values), 422, "invalid")


def test_rights_to_create_and_see_tokens(team: Team) -> None:
    ada = team.create(person="ada", role="viewer").json()
    bob = team.create(person="bob", role="shift").json()
    boss = team.create(person="boss", role="admin").json()
    for token in (VIEW, ada["token"], boss["token"]):  # a token must not outlive the one that created it
        assert "only a person" in problem(team.create(token), 403, "forbidden")["detail"]
    browser = {"Cookie": cookie_of(team.api, bob["token"]), "Origin": "http://127.0.0.1:8080"}
    problem(team.api.ask("POST", TOKENS_PATH, headers=browser, json={"days": 1}), 403, "forbidden")
    assert [one["id"] for one in team.api.get(TOKENS_PATH, token=ada["token"]).json()] == [ada["id"]]
    problem(team.api.ask("DELETE", f"{TOKENS_PATH}/{bob['id']}", token=ada["token"]), 404, "not-found")
    assert team.api.ask("DELETE", f"{TOKENS_PATH}/{ada['id']}", token=ada["token"]).status_code == 204
    assert team.api.get("/api/v1/session", token=bob["token"]).status_code == 200
    cross = {"Cookie": cookie_of(team.api, ADMIN), "Origin": "https://evil.example"}
    problem(team.api.ask("POST", TOKENS_PATH, headers=cross, json={"days": 1}), 403, "wrong-origin")


def test_a_token_of_a_removed_role_is_invalid(team: Team) -> None:
    secret = team.create(person="ada", role="viewer").json()["token"]
    team.settings = AccessSettings()
    assert team.restarted().get("/api/v1/session", token=secret).status_code == 401


def test_the_number_of_tokens_is_limited(team: Team) -> None:
    store = ApiTokens(team.folder, team.api.clock)
    for _ in range(MAX_TOKENS_OF_ONE):
        store.create("ada", "person:ada", "viewer", "", 60)
    with pytest.raises(Exception, match="maximum number"):
        store.create("ada", "person:ada", "viewer", "", 60)
    store.create("bob", "person:bob", "viewer", "", 60)
    team.api.clock.move(60)
    store.create("ada", "person:ada", "viewer", "", 60)
    assert len(json.loads((team.folder / "api_tokens.json").read_text())) == 1, "expired tokens are removed"


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[{}]", '[{"id": 1}]', "[" * 100_000, "\xff"])
def test_a_damaged_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "api_tokens.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="is damaged"):
        ApiTokens(tmp_path, SYSTEM_CLOCK)


def test_a_full_disk_creates_no_token(team: Team) -> None:
    (team.folder / "api_tokens.json").mkdir()
    problem(team.create(person="ada"), 507, "not-stored")
    assert team.api.get(TOKENS_PATH, token=ADMIN).json() == []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, FakeBackend]]:
    backend = FakeBackend(port=0)
    access = Access(AccessSettings.model_validate({"roles": ROLES}), tmp_path, SYSTEM_CLOCK)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS, access=access))
        yield web.url, backend


def invoke(url: str, folder: Path, *arguments: str, token: str = ADMIN) -> str:
    file = folder / "token"
    file.write_text(token)
    result = CliRunner().invoke(command, ["token", *arguments, "--url", url, "--token-file", str(file)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def test_the_command_revokes_a_token_and_its_connections_end_at_once(running: tuple[str, FakeBackend], tmp_path: Path) -> None:
    url, backend = running
    secret = invoke(url, tmp_path, "create", "--person", "ada", "--role", "viewer", "--days", "1").strip()
    assert "ada  viewer  until" in invoke(url, tmp_path, "list")
    (shown,) = json.loads(invoke(url, tmp_path, "list", "--json"))
    login = httpx.post(f"{url}/api/v1/session", json={"token": secret})
    cookie = {"Cookie": login.headers["set-cookie"].split(";")[0], "Origin": url}
    headers = {"Authorization": f"Bearer {secret}"}
    with (
        connect(f"ws{url[4:]}/api/v1/results", additional_headers=headers, proxy=None) as socket,
        connect(f"ws{url[4:]}/api/v1/results", additional_headers=cookie, proxy=None) as page,
        httpx.stream("GET", f"{url}/api/v1/results", headers=headers, timeout=LONG_S) as events,
        connect(f"ws{url[4:]}/api/v1/results", additional_headers={"Authorization": f"Bearer {VIEW}"}, proxy=None),
    ):
        wait_until(lambda: backend.hub.readers == 4, "the readers")
        assert "is revoked" in invoke(url, tmp_path, "revoke", shown["id"])
        for one in (socket, page):
            with pytest.raises(ConnectionClosed) as closed:
                one.recv(LONG_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        assert all("data" not in line for line in events.iter_lines())  # it ends
        wait_until(lambda: backend.hub.readers == 1, "the other reader to be left")
    assert httpx.get(f"{url}/api/v1/streams", headers=headers).status_code == 401


def test_an_offer_that_waits_for_video_ends_when_its_token_is_revoked(
    running: tuple[str, FakeBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, backend = running
    secret = invoke(url, tmp_path, "create", "--person", "ada", "--role", "viewer", "--days", "1").strip()
    (shown,) = json.loads(invoke(url, tmp_path, "list", "--json"))
    waits = threading.Event()

    async def offer(*_: object) -> None:
        waits.set()
        await asyncio.Event().wait()  # no key frame comes

    monkeypatch.setattr(backend.preview, "offer", offer)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/sdp"}
    with ThreadPoolExecutor(1) as pool:
        path = f"{url}/api/v1/streams/door/whep"
        answer = pool.submit(httpx.post, path, content="v=0", headers=headers, timeout=LONG_S)
        assert waits.wait(LONG_S)
        invoke(url, tmp_path, "revoke", shown["id"])
        detail = problem(answer.result(LONG_S), 401, "unauthorized")["detail"]
    assert detail == "the session has ended"


def test_a_logout_with_a_token_and_a_cookie_ends_the_session(running: tuple[str, FakeBackend]) -> None:
    url, backend = running
    login = httpx.post(f"{url}/api/v1/session", json={"token": VIEW})
    cookie = {"Cookie": login.headers["set-cookie"].split(";")[0], "Origin": url}
    token = {"Authorization": f"Bearer {ADMIN}"}
    rows = f"ws{url[4:]}/api/v1/results"
    with (
        connect(rows, additional_headers=cookie, proxy=None) as page,
        connect(rows, additional_headers=token, proxy=None),
    ):
        wait_until(lambda: backend.hub.readers == 2, "the readers")
        assert httpx.delete(f"{url}/api/v1/session", headers=cookie | token).status_code == 204
        with pytest.raises(ConnectionClosed) as closed:
            page.recv(LONG_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        wait_until(lambda: backend.hub.readers == 1, "the reader with the token to be left")
        assert httpx.delete(f"{url}/api/v1/session", headers=cookie | token).status_code == 204
        assert backend.hub.readers == 1
    assert httpx.get(f"{url}/api/v1/streams", headers=cookie).status_code == 401


def test_a_websocket_ends_when_its_token_expires(tmp_path: Path) -> None:
    backend, clock = FakeBackend(port=0), HandClock()  # the token has one more second, however long the connection takes
    access = Access(AccessSettings(), tmp_path, clock)
    _, secret = access.tokens.create("ada", "person:ada", "view", "", 1)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS, clock, access))
        headers = {"Authorization": f"Bearer {secret}"}
        with connect(f"ws{web.url[4:]}/api/v1/results", additional_headers=headers, proxy=None) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(LONG_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008


# The audit log


def test_changes_and_logins_are_recorded(team: Team) -> None:
    shift = team.create(person="bob", role="shift").json()
    api = team.api
    api.ask("PUT", "/api/v1/streams/x", token=ADMIN, json={"detect": "rtsp://user:secret@10.0.0.9/x"})
    api.ask("PUT", "/api/v1/streams/door/model", token=shift["token"], json={"model": "tiny"})
    api.ask("DELETE", "/api/v1/streams/door", token=shift["token"])
    api.get("/api/v1/streams", token="wrong")
    cookie = {"Cookie": cookie_of(api, shift["token"]), "Origin": "http://127.0.0.1:8080"}
    api.ask("POST", "/api/v1/session", json={"token": "wrong"})
    api.ask("DELETE", "/api/v1/session", headers=cookie)
    api.ask("DELETE", f"{TOKENS_PATH}/{shift['id']}", token=ADMIN)
    for path in ("/api/v1/streams", "/metrics", "/", "/healthz"):
        api.get(path, token=VIEW)  # reading is not recorded
    api.get("/api/v1/streams")
    found = [
        (one["event"], one.get("user"), one.get("role"), one["method"], one["route"], one["target"], one["status"])
        for one in team.records()
    ]
    name = "/api/v1/streams/{name}"
    assert found == [
        ("change", "admin token", "admin", "POST", TOKENS_PATH, f"{shift['id']} shift bob", 201),
        ("change", "admin token", "admin", "PUT", name, "x", 201),
        ("change", "bob", "shift", "PUT", f"{name}/model", "door", 409),
        ("change", "bob", "shift", "DELETE", name, "door", 403),
        ("refused", None, None, "GET", "/api/v1/streams", "", 401),
        ("login", "bob", "shift", "POST", "/api/v1/session", "", 200),
        ("refused", None, None, "POST", "/api/v1/session", "", 401),
        ("logout", "bob", "shift", "DELETE", "/api/v1/session", "", 204),
        ("change", "admin token", "admin", "DELETE", f"{TOKENS_PATH}/{{token_id}}", shift["id"], 204),
    ]
    assert {one["address"] for one in team.records()} == {"192.0.2.7"}
    assert all(one["at"].endswith("Z") for one in team.records())
    text = (team.folder / "audit.jsonl").read_text()
    assert "secret" not in text
    assert shift["token"] not in text


def test_a_name_cannot_forge_a_record(team: Team) -> None:
    team.api.ask("PUT", '/api/v1/streams/x%22%7D%0A%7B"at": 0}', token=ADMIN, json={})
    team.create(person='eve", "role": "admin', role="viewer")
    team.api.ask("DELETE", "/api/v1/streams/" + "y" * 5000, token=ADMIN)
    assert len(team.records()) == 3
    assert len((team.folder / "audit.jsonl").read_text()) < 2000


def test_the_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    team = Team(tmp_path, audit={"rotate_mb": 0.001, "keep": 2})
    for number in range(40):
        team.api.clock.move(1)
        team.api.ask("DELETE", f"/api/v1/streams/s{number}", token=ADMIN)
    files = sorted(tmp_path.glob("audit*.jsonl"))
    assert len(files) == 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert team.records()[-1]["target"] == "s39"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    team = Team(tmp_path, audit={"file": tmp_path / "file" / "audit.jsonl"})
    assert team.api.ask("PUT", "/api/v1/streams/x", token=ADMIN, json={"detect": "rtsp://10.0.0.9/x"}).status_code == 201
    assert team.api.access is not None
    assert team.api.access.audit.lost == 1
    assert "the audit record cannot be written" in caplog.text
    assert "vision_infer_audit_lost_records_total 1.0" in team.api.get("/metrics", token=ADMIN).text


def test_templates_of_paths() -> None:
    templates = ("/a/{name}", "/a/{name}/b", "/c.d")
    assert [route_of(path, templates) for path in ("/a/x", "/a/x/b", "/c.d", "/cxd", "/a/x/y", "/a/")] == [
        ("/a/{name}", "x"),
        ("/a/{name}/b", "x"),
        ("/c.d", ""),
        ("", ""),
        ("", ""),
        ("", ""),
    ]
