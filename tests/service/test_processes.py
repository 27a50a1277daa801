"""Several worker processes behind one API, with real processes: sharing, a killed worker, the end, stored streams."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from tests.support.media import ROOT
from tests.support.serve_process import LIMIT_S, ServeProcess, whole_rows
from vision_infer.core.errors import EngineError

OFFER = (ROOT / "tests" / "preview" / "chromium_offer.sdp").read_text(encoding="ascii")
TEST = "test://?size=320x180&fps=5"


class Site(ServeProcess):
    """A service with two worker processes."""

    def __init__(self, folder: Path, streams: int, more: str = "") -> None:
        names = "".join(f"  s{number}: {{url: '{TEST}'}}\n" for number in range(streams))
        service = "service: {token: the-token-of-the-test, inference_protocol: {grpc_port: 0}}"
        super().__init__(folder, f"processes: 2\n{service}\n{more}streams:\n{names}")
        self.token = "the-token-of-the-test"

    def workers(self) -> dict[int, str]:
        """Return the command lines of the worker processes by process id."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            for pid in (task / "children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
                if "vision_infer.service.worker" in command:
                    found[int(pid)] = command
        return found

    def states(self) -> dict[str, str]:
        return {name: stream["status"]["state"] for name, stream in self.streams().items()}

    def wait_until_live(self) -> None:
        self.wait(lambda: set(self.states().values()) == {"live"}, "all streams to be live")

    def placement(self) -> dict[str, str]:
        text = (self.folder / "home" / "serve" / "placement.json").read_text()
        return dict(json.loads(text))

    def pid_of(self, worker: str) -> int:
        """Return the process id of a worker from the last line of the log that names it."""
        return int(re.findall(rf"worker {worker} has the process id (\d+)", self.log)[-1])


class Reader:
    """Reads results as server-sent events on a thread."""

    def __init__(self, site: ServeProcess, query: str = "") -> None:
        self.rows: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        request = urllib.request.Request(f"http://127.0.0.1:{site.port}/api/v1/results{query}")
        request.add_header("Authorization", f"Bearer {site.token}")
        self._answer = urllib.request.urlopen(request, timeout=LIMIT_S)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        kind = ""
        for line in self._answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                (self.changes if kind else self.rows).append(json.loads(value))
                kind = ""

    def frames(self, stream: str) -> list[int]:
        return [row["frame"] for row in list(self.rows) if row["stream"] == stream]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), 3) as running:
        running.wait_until_live()
        yield running


def test_the_streams_are_shared_and_the_token_is_in_no_command_line_and_no_log(site: Site) -> None:
    counts = sorted(list(site.placement().values()).count(worker) for worker in ("worker-0", "worker-1"))
    assert counts == [1, 2]
    commands = site.workers()
    assert set(commands) == {site.pid_of("worker-0"), site.pid_of("worker-1")}
    for pid, command in commands.items():
        assert "the-token-of-the-test" not in command
        assert b"the-token-of-the-test" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert "the-token" not in site.log
    assert re.search(r"Z  info +\[worker-1\] s\d: live", site.log)


def test_the_answers_of_all_workers_are_one_answer(site: Site) -> None:
    assert list(site.streams()) == ["s0", "s1", "s2"]
    assert [engine["name"] for engine in json.loads(site.ask("GET", "/api/v1/engines")[1])].count("nanodet-416") == 2
    models = [model["name"] for model in json.loads(site.ask("GET", "/api/v1/models")[1]) if model["loaded"]]
    assert models == ["nanodet-416"]
    changes = json.loads(site.ask("GET", "/api/v1/events")[1])
    assert {change["stream"] for change in changes if change["type"] == "state"} == {"s0", "s1", "s2"}
    assert [change["at"] for change in changes] == sorted(change["at"] for change in changes)
    assert site.ask("GET", "/api/v1/events?limit=nothing")[0] == 422
    cost = json.loads(site.ask("GET", "/api/v1/cost?fps=5")[1])
    assert [stream["name"] for stream in cost["streams"]] == ["s0", "s1", "s2"]
    assert json.loads(site.ask("GET", "/api/v1/sinks")[1]) == []
    families = {family.name: family for family in text_string_to_metric_families(site.ask("GET", "/metrics")[1])}
    live = {
        (sample.labels["stream"], sample.labels["worker"])
        for sample in families["vision_infer_stream_state"].samples
        if sample.labels["state"] == "live" and sample.value == 1
    }
    assert dict(live) == site.placement()
    up = families["vision_infer_worker_up"].samples
    assert {sample.labels["worker"]: sample.value for sample in up} == {"worker-0": 1, "worker-1": 1}
    assert families["vision_infer_stream_frames"].type == "counter"


def test_requests_about_a_stream_reach_its_worker(site: Site) -> None:
    for name in ("s0", "s1", "s2"):
        for path in ("", "/counts", "/frames", "/snapshot.jpg"):
            assert site.ask("GET", f"/api/v1/streams/{name}{path}")[0] == 200, path
    status, text = site.ask("GET", "/api/v1/streams/nobody/snapshot.jpg")
    assert (status, json.loads(text)["title"]) == (404, json.loads(site.ask("GET", "/api/v1/streams/nobody")[1])["title"])
    assert site.ask("GET", "/api/v1/streams/-no-name")[0] == 422
    assert site.ask("POST", "/api/v1/streams")[0] == 405


def test_the_page_and_the_document_come_from_the_service(site: Site) -> None:
    assert "<title>" in site.ask("GET", "/")[1]
    paths = json.loads(site.ask("GET", "/api/v1/openapi.json")[1])["paths"]
    assert "/api/v1/streams/{name}/whep" in paths
    assert site.ask("GET", "/healthz")[0] == 200
    assert json.loads(site.ask("GET", "/readyz")[1]) == {"ready": True, "reason": ""}
    assert "s0:" in site.ask("GET", "/api/v1/cameras.yaml")[1]
    token, site.token = site.token, "wrong-token"
    try:
        assert site.ask("GET", "/api/v1/streams")[0] == 401
        assert site.ask("GET", "/metrics")[0] == 401
    finally:
        site.token = token


def test_an_image_is_inferred_and_a_preview_is_answered_by_a_worker(site: Site) -> None:
    image = (ROOT / "docs" / "images" / "bikes.jpg").read_bytes()
    status, _, text = _send(site, "POST", "/api/v1/infer", image, "image/jpeg")
    assert status == 200
    assert json.loads(text)["detections"]
    status, headers, answer = _send(site, "POST", "/api/v1/streams/s1/whep", OFFER.encode(), "application/sdp")
    assert status == 201
    assert b"a=candidate" in answer
    location = headers["Location"]
    assert json.loads(site.ask("GET", location)[1])["stream"] == "s1"
    assert site.ask("DELETE", location)[0] == 200
    assert site.ask("GET", location)[0] == 404


def test_a_tensor_of_the_inference_protocol_is_inferred_by_a_worker(site: Site) -> None:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": [1, 416, 416, 3],
                    "parameters": {"binary_data_size": 416 * 416 * 3},
                }
            ],
            "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
        }
    ).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    body = head + bytes(416 * 416 * 3)
    status, headers, answer = _send(site, "POST", "/v2/models/nanodet-416/infer", body, "application/octet-stream", length)
    assert status == 200, answer
    scores = json.loads(answer[: int(headers["Inference-Header-Content-Length"])])["outputs"][0]
    assert (scores["datatype"], scores["shape"]) == ("FP32", [1, 300])
    assert json.loads(site.ask("GET", "/v2/models/nanodet-416")[1])["inputs"][0]["name"] == "images"
    assert site.ask("GET", "/v2/health/ready")[0] == 200
    assert "unknown model" in json.loads(site.ask("GET", "/v2/models/none")[1])["error"]


def test_a_client_of_grpc_gets_the_answers_of_a_worker(site: Site) -> None:
    address = re.search(r"over gRPC on (\S+)", site.log)
    assert address, site.log
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([(ROOT / "docs" / "images" / "bikes.jpg").read_bytes()], object))
    headers = {"authorization": f"Bearer {site.token}"}
    with triton.InferenceServerClient(address[1]) as client:
        assert client.is_server_ready(headers)
        answer = client.infer("nanodet-416@image", [image], headers=headers, client_timeout=LIMIT_S)
        assert b"car" in answer.as_numpy("labels").tolist()
        with pytest.raises(InferenceServerException, match="unknown model"):
            client.get_model_metadata("none", headers=headers)


def test_a_stream_of_the_api_is_created_changed_and_removed(site: Site) -> None:
    url = "/api/v1/streams/made"
    status, text = site.ask("PUT", url, {"url": TEST})
    assert (status, json.loads(text)["origin"]) == (201, "api")
    assert site.placement()["made"] in ("worker-0", "worker-1")
    assert site.ask("PUT", url, {"url": TEST, "weight": 2})[0] == 200
    assert site.streams()["made"]["settings"]["weight"] == 2
    assert site.ask("PUT", url, {"url": TEST, "wieght": 2})[0] == 422
    assert site.ask("PUT", f"{url}/model", {"model": "no-such-model"})[0] == 422
    with_results = Reader(site, "?streams=made")
    site.wait(lambda: with_results.frames("made"), "results of the new stream")
    assert site.ask("DELETE", url)[0] == 204
    assert "made" not in site.streams()
    assert site.ask("DELETE", url)[0] == 404
    assert site.ask("DELETE", "/api/v1/streams/s0")[0] == 409


@pytest.mark.slow  # 14 s; tests/service/test_processes_down.py covers the answers in the meantime
def test_a_killed_worker_costs_the_other_nothing_and_its_streams_come_back(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with Site(tmp_path, 4, f"results: {{jsonl: '{rows}'}}\n") as site:
        site.wait_until_live()
        workers = site.placement()
        lost = {name for name, worker in workers.items() if worker == "worker-0"}
        kept = set(workers) - lost
        assert len(lost) == len(kept) == 2
        reader = Reader(site, "?states=true")
        site.wait(lambda: all(len(reader.frames(name)) > 5 for name in workers), "results of all streams")
        for _ in range(2):
            before = {name: len(reader.frames(name)) for name in workers}
            seen = len(reader.changes)
            os.kill(site.pid_of("worker-0"), signal.SIGKILL)
            site.wait(lambda: site.states()[min(lost)] == "backing_off", "the killed worker to be noticed")
            assert site.ask("GET", "/readyz")[0] == 503
            assert site.ask("GET", f"/api/v1/streams/{min(lost)}")[0] == 200
            assert site.ask("GET", f"/api/v1/streams/{min(kept)}/snapshot.jpg")[0] == 200
            site.wait_until_live()
            site.wait(lambda: all(len(reader.frames(name)) > before[name] + 5 for name in workers), "new results")  # noqa: B023
            down = [one for one in reader.changes[seen:] if one["state"] == "backing_off"]
            assert {one["stream"] for one in down} == lost
            assert down[0]["reason"].startswith("worker worker-0: killed by signal 9; it starts again in ")
        for name in sorted(kept):
            received = reader.frames(name)
            first, last = received[0], received[-1]
            site.wait(lambda: last in _written(tmp_path, name), "the last row in the file")  # noqa: B023
            assert received == [frame for frame in _written(tmp_path, name) if first <= frame <= last]
            status = site.streams()[name]["status"]
            assert last - first + 1 - len(received) <= sum(status["dropped"].values())
            assert status["reconnects"] == 0
        assert 'vision_infer_worker_restarts_total{worker="worker-0"} 2.0' in site.ask("GET", "/metrics")[1]


@pytest.mark.slow
def test_streams_are_stored_and_follow_the_file_and_no_worker_outlives_the_service(tmp_path: Path) -> None:
    with Site(tmp_path, 2) as site:
        for name in ("x", "y", "z"):
            assert site.ask("PUT", f"/api/v1/streams/{name}", {"url": TEST})[0] == 201
        assert site.ask("DELETE", "/api/v1/streams/x")[0] == 204
        before, workers = site.placement(), list(site.workers())
        for pid in workers:  # as Ctrl-C and systemd do
            os.kill(pid, signal.SIGTERM)
        assert site.stop()[0] == 0
        assert {name for name in ("s0", "s1", "y", "z") if f"] {name}: stopped" in site.log} == {"s0", "s1", "y", "z"}
        assert not [pid for pid in workers if _runs(pid)]
        assert "it starts again" not in site.log
        site.start()
        site.wait_until_live()
        assert site.placement() == before
        assert set(site.streams()) == {"s0", "s1", "y", "z"}
        text = site.file.read_text().replace("  s0:", "  t0:")
        site.file.write_text(text.replace(f"s1: {{url: '{TEST}'}}", f"s1: {{url: '{TEST}', weight: 7}}"))
        site.wait(lambda: set(site.streams()) == {"t0", "s1", "y", "z"}, "the changed file to be applied")
        site.wait(lambda: site.streams()["s1"]["settings"]["weight"] == 7, "the changed stream")
        after = site.placement()
        assert {name: after[name] for name in ("s1", "y", "z")} == {name: before[name] for name in ("s1", "y", "z")}
        workers = list(site.workers())
        assert len(workers) == 2
        site.kill()
        site.wait(lambda: not [pid for pid in workers if _runs(pid)], "the workers of a killed service to end")


@pytest.mark.slow
def test_an_engine_that_cannot_be_opened_ends_the_service_with_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vision_infer", "serve", "--processes", "2", "--port", "0", "--engine", "no-such-engine"]
    environ = {**os.environ, "VISION_INFER_HOME": str(tmp_path), "VISION_INFER_PREVIEW__PORT": "0"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT, check=False)
    assert done.returncode == EngineError.exit_status
    assert re.search(r"^\[worker-\d\] error: .*no-such-engine", done.stderr, re.MULTILINE)
    assert "cannot start. The line above gives the reason." in done.stderr


def _written(folder: Path, stream: str) -> list[int]:
    return [row["frame"] for row in whole_rows(folder / "rows.worker-1.jsonl") if row["stream"] == stream]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _send(
    site: Site, method: str, path: str, body: bytes, kind: str, more: dict[str, str] | None = None
) -> tuple[int, Any, bytes]:
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": kind, **(more or {})}
    request = urllib.request.Request(f"http://127.0.0.1:{site.port}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return answer.status, answer.headers, answer.read()
