"""The examples of docs/reference/api.md work."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.service.fakes import ADMIN, JPEG, LONG_S, OPEN, TOKENS, Api, FakeBackend, frame, result
from tests.support.media import ROOT
from vision_infer.service.http.api_models import DegradedAnswer, EngineEventAnswer, MovedAnswer, StateChange
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import PROBLEM_SCHEMA
from vision_infer.service.http.server import WebServer

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line.strip()]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DOCUMENTS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend(port=0)


@pytest.fixture(scope="module")
def address(backend: FakeBackend) -> Iterator[str]:
    yield from serve(backend, OPEN)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    yield from serve(FakeBackend(port=0), TOKENS)


def serve(backend: FakeBackend, tokens: Tokens) -> Iterator[str]:
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, tokens))
        yield web.url.removeprefix("http://")


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_documented_commands_work_in_order(number: int, address: str, guarded: str, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(JPEG)
    line = COMMANDS[number]
    assert line.startswith("curl ")
    endless = "--max-time" in line
    line = line.replace("127.0.0.1:8080", guarded if "$TOKEN" in line else address).replace("--max-time 5", "--max-time 1")
    environ = {"TOKEN": ADMIN, "PATH": "/usr/bin:/bin:/usr/local/bin"}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environ, capture_output=True, timeout=LONG_S, check=False)
    assert done.returncode == (28 if endless else 0), (line, done.stderr)
    assert done.stdout or "-X DELETE" in line
    assert b"secret" not in done.stdout


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, address: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()

    def write() -> None:
        index = 0
        while not ended.wait(0.01):
            backend.hub.write(frame(index=index), result(index=index))
            index += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        exec(compile(SNIPPETS[number].replace("127.0.0.1:8080", address), f"snippet {number}", "exec"), {"__name__": "__main__"})
    finally:
        ended.set()
        writer.join(LONG_S)
    assert capsys.readouterr().out.startswith("door ")


def test_the_documented_responses_are_real() -> None:
    problem, change, engine, degraded, moved = DOCUMENTS
    jsonschema.validate(problem, PROBLEM_SCHEMA)
    answer = Api().ask("PUT", "/api/v1/streams/x", json={"detect": "rtsp://10.0.0.5/x", "fps": -1})
    assert answer.json() == problem
    assert StateChange.model_validate(change).model_dump(mode="json") == change
    assert EngineEventAnswer.model_validate(engine).model_dump(mode="json") == engine
    assert DegradedAnswer.model_validate(degraded).model_dump(mode="json") == degraded
    assert MovedAnswer.model_validate(moved).model_dump(mode="json") == moved


def test_statuses_of_the_page_are_documented() -> None:
    known = {str(status) for status in problems(400, 403, 404, 405, 406, 408, 409, 413, 415, 422, 500, 503)}
    general = PAGE.partition("## Tokens")[2].partition("## Errors")[0]
    for status in re.findall(r"^\| (\d{3})(?:, (\d{3}))? \|", general, re.MULTILINE):
        assert set(filter(None, status)) <= known
