"""Passwords in URLs of cameras: over a thousand forms, none of which appears in responses or in the log."""

from __future__ import annotations

import io
import itertools
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.fakes import Api, FakeBackend, status
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.errors import StreamError, UsageError
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.errors import ConflictError, UnavailableError
from vision_infer.service.events import to_row
from vision_infer.service.http.problem import problem_of
from vision_infer.service.operations.logs import JsonFormatter, StateLog
from vision_infer.service.views import StreamView

MARK = "Tr0ub4dor"
SHAPES = 1000
_SCHEMES = ("rtsp", "RTSPS", "http", "https", "rtmp", "srt", "rtsp+tcp", "file", "ftp")
_USERS = ("admin", "a.b@example.org", "ädmin", "admin%40x", "")
_PASSWORDS = (MARK, f"{MARK}@", f"x/{MARK}", f"{MARK}?x", f"{MARK}#1", f"%20{MARK}", f"{MARK}:{MARK}", f"ü{MARK}&", f"[{MARK}]")
_HOSTS = ("10.0.0.5", "camera.example:554", "[fe80::1]:554", "cam")
_TAILS = ("", "/", "/live/ch1", "/x?stream=1", "/x@y", "/x?a=b&c=d#e")
_PARAMETERS = ("password", "PWD", "token", "access_token", "apikey", "auth", "user_secret")


def shapes() -> Iterator[str]:
    drawn = random.Random(1)
    whole = list(itertools.product(_SCHEMES, _USERS, _PASSWORDS, _HOSTS, _TAILS))
    for scheme, user, password, host, tail in drawn.sample(whole, SHAPES - 100):
        yield f"{scheme}://{user}:{password}@{host}{tail}"
    for _ in range(100):
        scheme, host, name = drawn.choice(_SCHEMES), drawn.choice(_HOSTS), drawn.choice(_PARAMETERS)
        yield f"{scheme}://{host}/x?{drawn.choice(('', 'a=b&'))}{name}={MARK}{drawn.choice(('', '&c=d', '#e'))}"


class Talkative(FakeBackend):
    """A backend that puts the unmodified URLs into all its messages."""

    def __init__(self, urls: list[str], **service: Any) -> None:
        super().__init__(**service)
        self.kept.clear()
        for number, url in enumerate(urls):
            name, message = f"s{number}", f"cannot open {url}: 401"
            one = status(name, StreamState.REFUSED, source=url, reason=message, error=message)
            try:
                self.kept[name] = StreamView(name, "api", StreamSettings(detect=url, view=url), one)
            except ValueError:  # no stream has this URL, but it appears in messages
                self.kept[name] = StreamView(name, "api", StreamSettings(detect="test://"), one)
            self.published.append(StreamEvent(name, StreamState.REFUSED, 0, message))

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        raise ConflictError(f"{settings.detect} is used already", f"choose another than {settings.detect}")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Collect the log as the service writes it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("vision_infer")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_no_response_or_log_line_contains_a_password(log: io.StringIO) -> None:
    urls = list(shapes())
    backend = Talkative(urls)
    assert sum(view.settings.detect != "test://" for view in backend.kept.values()) > SHAPES / 3
    api = Api(backend)
    for path in ("/api/v1/streams", "/api/v1/events", "/metrics"):
        answer = api.get(path)
        assert answer.status_code == 200
        assert "s999" in answer.text
        for line in answer.text.splitlines():
            assert MARK not in line
    states = StateLog(api.clock)
    for event in backend.published:
        assert isinstance(event, StreamEvent)
        states.log(event)
        assert MARK not in to_row(event, 0), event
    for line in log.getvalue().splitlines():
        assert MARK not in line


def test_no_response_contains_a_password_of_the_credentials(log: io.StringIO) -> None:
    """All routes are asked, except those that search the network, also for the settings of a stream whose host matches."""
    backend = FakeBackend(requests_per_second=1e6)
    entries = [{"match": f"gate-{number}", "user": "viewer", "password": one} for number, one in enumerate(_PASSWORDS)]
    entries.append({"match": "127.0.0.0/8", "user": "viewer", "password": MARK})
    backend.settings = ServeSettings.model_validate({"service": backend.settings.service, "credentials": entries})
    api = Api(backend)
    assert api.ask("PUT", "/api/v1/streams/gate", json={"detect": "rtsp://gate-1/x", "view": "rtsp://127.0.0.1:9/x"}).is_success
    bodies: list[dict[str, Any] | None] = [{}, {"model": "tiny", "password": 1}]
    bodies += [{field: "rtsp://127.0.0.1:9/x"} for field in ("detect", "url")]
    asked = 0
    for path, methods in api.get("/api/v1/openapi.json").json()["paths"].items():
        for method in methods:
            if path in ("/api/v1/cameras/find", "/api/v1/cameras/inspect", "/api/v1/results"):
                continue
            for body in bodies if method in ("post", "put", "patch") else [None]:
                answer = api.ask(method.upper(), path.replace("{name}", "gate"), json=body)
                assert MARK not in answer.text + str(answer.headers), path
                asked += 1
    assert asked > 40
    backend.broken = RuntimeError(f"a mistake with {backend.settings!r}")
    assert api.get("/api/v1/streams").status_code == 500
    assert "a mistake with" in log.getvalue()
    assert MARK not in log.getvalue()


def test_no_error_contains_a_password(log: io.StringIO) -> None:
    api = Api(Talkative([], requests_per_second=1e6))
    for number, url in enumerate(shapes()):
        body = {"detect": url, "view": url, "degrade_detect": url} if number % 4 else {"detect": url, "fps": -1}
        answer = api.ask("PUT", "/api/v1/streams/new", json=body)
        assert answer.status_code in (409, 422)
        assert MARK not in answer.text, url
        for error in (UnavailableError(f"{url}: nothing", url, "refused", url), UsageError(f"{url}: no", url), StreamError(url)):
            assert MARK.encode() not in problem_of(error).response().body, url
        if number % 20 == 0:
            api.backend.broken = RuntimeError(f"a mistake with {url}")
            assert api.get("/api/v1/streams").status_code == 500
            assert MARK not in log.getvalue(), url
    assert MARK not in log.getvalue()
