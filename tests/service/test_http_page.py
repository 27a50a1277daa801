"""The page's files, the probing of URLs, and passports, without a network."""

from __future__ import annotations

import posixpath
import re
from importlib.resources import files

import pytest

from tests.service.fakes import ADMIN, TOKENS, VIEW, Api, FakeBackend, problem
from vision_infer.service.http.routes import page as routes_page

PROBE = "/api/v1/probe"


def test_only_the_page_needs_no_token() -> None:
    api = Api(tokens=TOKENS)
    for path in ("/", "/docs", "/page/main.js", "/page/style/base.css", "/page/icon.svg"):
        assert api.get(path).status_code == 200, path
    problem(api.get("/page/none.js"), 404, "not-found")
    problem(api.ask("POST", "/"), 401, "unauthorized")
    problem(api.get("/pages"), 401, "unauthorized")
    problem(api.get("/", headers={"Host": "elsewhere.example"}), 421, "wrong-host")


def test_every_file_of_the_page_is_served() -> None:
    api = Api()
    page = files("vision_infer.service") / "page"
    for folder in ("", "state", "transport", "views", "style", "vendor"):
        for file in (page / folder).iterdir() if folder else page.iterdir():
            if file.is_file() and not file.name.startswith("LICENSE"):
                path = f"/page/{folder}/{file.name}" if folder else f"/page/{file.name}"
                answer = api.get(path)
                assert answer.content == file.read_bytes()
                assert answer.headers["cache-control"] == "no-cache"
                assert api.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
                assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_has_a_content_security_policy() -> None:
    policy = Api().get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    for path in ("/", "/docs"):
        policy = Api().get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "://" not in policy


def test_the_page_loads_nothing_from_other_hosts() -> None:
    """The files of the page contain no URLs of other hosts, except in comments of the chart library."""
    for name, file in routes_page._files().items():
        if not name.startswith("vendor/"):
            text = file.data.decode()
            assert "http://" not in text.replace("http://www.w3.org/", ""), name
            assert "https://" not in text, name
            assert "innerHTML" not in text, name


def test_the_page_uses_relative_urls_only() -> None:
    """A proxy may serve the page under any path."""
    for name, file in routes_page._files().items():
        if not name.startswith("vendor/"):
            found = re.findall(r"""["'`(]/(?:api|page|docs|metrics|healthz)\b""", file.data.decode())
            assert found == [], name


def test_urls_in_answers_begin_with_the_root_path() -> None:
    api = Api(FakeBackend(root_path="/vision"), TOKENS)
    opened = api.ask("POST", "/api/v1/session", ADMIN)
    assert "; Path=/vision/;" in opened.headers["set-cookie"]
    assert api.ask("GET", "/api/v1/openapi.json", ADMIN).json()["servers"] == [{"url": "/vision"}]
    assert "servers" not in Api().get("/api/v1/openapi.json").json()


def test_the_page_has_layers() -> None:
    """Transport, state and views: each layer imports only itself and the layers below."""
    floors = {"transport": {"transport"}, "state": {"transport", "state"}, "views": {"transport", "state", "views", "vendor"}}
    for name, file in routes_page._files().items():
        folder = name.partition("/")[0]
        if folder in floors:
            text = file.data.decode()
            imported = re.findall(r'(?:from |import\()"([^"]+)"', text)
            folders = {posixpath.normpath(posixpath.join(folder, path)).partition("/")[0] for path in imported}
            assert folders <= floors[folder], name
            assert text.count("\n") <= 350, name


def test_a_url_that_works() -> None:
    answer = Api().ask("POST", PROBE, json={"url": "test://?size=320x180&fps=10"})
    assert answer.status_code == 200
    found = answer.json()
    assert found["works"]
    assert found["size"] == {"width": 320, "height": 180}
    assert found["frame_rate"] == 10
    assert not found["untouched"]


def test_a_url_that_does_not_work() -> None:
    found = Api().ask("POST", PROBE, json={"url": "rtsp://user:secret@127.0.0.1:1/x"}).json()
    assert not found["works"]
    assert "connection refused" in found["reason"]
    assert "secret" not in found["reason"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "/dev/video0", "${HOME}", "rtsp://192.168.0.1/x", "nonsense", "rtsp://"]
)
def test_a_forbidden_url_is_not_opened(url: str) -> None:
    backend = FakeBackend(allow_networks=["10.0.0.0/8"])
    problem(Api(backend).ask("POST", PROBE, json={"url": url}), 422, "invalid")


def test_a_hidden_password_is_replaced_for_its_own_stream_only() -> None:
    backend = FakeBackend()
    backend.put("yard", "rtsp://user:secret@127.0.0.1:1/yard", origin="api")
    api = Api(backend)
    hidden = "rtsp://user:***@127.0.0.1:1/yard"
    problem(api.ask("POST", PROBE, json={"url": hidden}), 422, "invalid")
    problem(api.ask("POST", PROBE, json={"url": hidden.replace("yard", "other"), "stream": "yard"}), 422, "invalid")
    problem(api.ask("POST", PROBE, json={"url": "rtsp://10.0.0.5/x", "stream": "door"}), 422, "invalid")
    problem(api.ask("POST", PROBE, json={"url": "test://", "stream": "none"}), 422, "invalid")
    assert "connection refused" in api.ask("POST", PROBE, json={"url": hidden, "stream": "yard"}).json()["reason"]


def test_viewers_cannot_probe_urls() -> None:
    api = Api(tokens=TOKENS)
    problem(api.ask("POST", PROBE, VIEW, json={"url": "test://"}), 403, "forbidden")
    assert api.ask("POST", PROBE, ADMIN, json={"url": "test://"}).status_code == 200


def test_a_missing_passport_is_null() -> None:
    api = Api()
    assert api.get("/api/v1/engines/main/passport").json() is None
    problem(api.get("/api/v1/engines/other/passport"), 404, "not-found")
