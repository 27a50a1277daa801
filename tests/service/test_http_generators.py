"""Clients that openapi-python-client and openapi-generator make from the document, used against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.fakes import ADMIN, TOKENS, FakeBackend, result
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

pytestmark = pytest.mark.slow
LIMIT_S = 300

PYTHON_CLIENT = """
import json, sys
from vision_infer_client import AuthenticatedClient, models
from vision_infer_client.api.streams import list_streams, get_stream
url, token, row = sys.argv[1:]
assert models.VisionInferResult.from_dict(json.loads(row)).stream == "door"
client = AuthenticatedClient(base_url=url, token=token)
assert [one.name for one in list_streams.sync(client=client)] == ["door"]
assert get_stream.sync("door", client=client).status.state == "live"
"""
GENERATED = """
import sys
import generated
from generated import LineSettings, StreamSettings, ZoneSettings
url, token, _ = sys.argv[1:]
api = generated.StreamsApi(generated.ApiClient(generated.Configuration(host=url, access_token=token)))
zone = ZoneSettings(polygon=[[0, 0], [1, 0], [1, 1]], units="relative")
line = LineSettings(var_from=[0, 0], to=[1, 1], units="relative")
settings = StreamSettings(detect="rtsp://10.0.0.9/x", zones={"yard": zone}, lines={"gate": line})
assert api.put_stream("made", settings).settings.zones["yard"].units == "relative"
assert [one.name for one in api.list_streams()] == ["door", "made"]
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generators, in a separate environment, because they need other versions than this project."""
    folder = tmp_path_factory.mktemp("generators")
    venv.create(folder, with_pip=False)
    # What the generated clients import, and what the generators run.
    wanted = ["openapi-python-client==0.29.1", "openapi-generator-cli==7.26.0", "urllib3", "python-dateutil", "pydantic>=2"]
    words = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", *wanted]
    if subprocess.run(words, timeout=LIMIT_S).returncode:
        pytest.skip("the generators of API clients cannot be installed")
    return folder / "bin"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """The address of a server, and its document."""
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        app = make_app(backend, TOKENS)
        web.start(app)
        yield web.url, json.dumps(app.openapi())


def run(words: list[str], folder: Path, tools: Path) -> None:
    path = f"{tools}:{Path(shutil.which('java') or '/').parent}:/usr/bin:/bin"
    done = subprocess.run(words, cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_openapi_python_client(tools: Path, server: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "document.json").write_text(server[1])
    words = ["openapi-python-client", "generate", "--path", "document.json", "--output-path", "client"]
    run([str(tools / words[0]), *words[1:]], tmp_path, tools)
    row = json.dumps(json.loads(result().to_json()) | {"damaged": True, "gated": True})
    run([str(tools / "python"), "-c", PYTHON_CLIENT, server[0], ADMIN, row], tmp_path / "client", tools)


def test_openapi_generator(tools: Path, server: tuple[str, str], tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("the generators of API clients cannot be installed")
    (tmp_path / "document.json").write_text(server[1])
    words = ["generate", "-i", "document.json", "-g", "python", "-o", "client", "--package-name", "generated"]
    run([str(tools / "openapi-generator-cli"), *words], tmp_path, tools)
    run([str(tools / "python"), "-c", GENERATED, server[0], ADMIN, ""], tmp_path / "client", tools)
