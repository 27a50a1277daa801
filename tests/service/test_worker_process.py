"""Worker processes: they are supervised and start again, and accept only requests with their token."""

from __future__ import annotations

import io
import json
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import cast

import pytest
from starlette.testclient import TestClient

from tests.pipeline.fakes import LONG_S
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.service import worker
from vision_infer.service.operations.logs import with_worker
from vision_infer.service.processes import worker_process
from vision_infer.service.processes.worker_process import WorkerProcess
from vision_infer.service.service import Service

CHILD = """
import json, sys, time
print("noise from a library", file=sys.stderr, flush=True)
start = json.loads(sys.stdin.readline())
if start["plan"] == "crash":
    sys.exit(70)
if start["plan"] == "invalid":
    sys.exit(4)
print(json.dumps({"ready": False, "reason": "loading"}), flush=True)
if start["plan"] == "stop":
    sys.exit(0)
if start["plan"] == "damaged":
    print('{"ready": ', flush=True)
if start["plan"] == "hang":
    time.sleep(600)
print(json.dumps({"ready": True, "reason": ""}), flush=True)
print(sys.stdin.readline().strip(), file=sys.stderr, flush=True)
sys.stdin.read()
"""


class Supervised:
    """A supervised process that runs ``CHILD``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, plans: list[str]) -> None:
        (folder / "worker_of_the_test.py").write_text(CHILD)
        monkeypatch.setenv("PYTHONPATH", f"{folder}")
        monkeypatch.setattr(worker_process, "MODULE", "worker_of_the_test")
        monkeypatch.setattr(worker_process, "FIRST_S", 0.01)
        self.down: list[str] = []
        self.lines: list[str] = []
        self.plans = plans
        self.process = WorkerProcess("w", self._start_line, self.down.append, self.lines.append, SYSTEM_CLOCK)

    def _start_line(self) -> str:
        return json.dumps({"plan": self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]})

    def __enter__(self) -> Supervised:
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.end()
        self.process.join(10)
        assert self.process.pid is None


def test_a_process_that_ends_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Supervised(tmp_path, monkeypatch, ["crash", "crash", "run"]) as supervised:
        process = supervised.process
        wait_until(lambda: process.ready)
        assert (process.starts, process.up, process.running) == (3, True, True)
        assert ["exit status 70" in reason for reason in supervised.down] == [True, True]
        process.send("an order")
        wait_until(lambda: "an order" in supervised.lines)
        assert supervised.lines.count("noise from a library") == 3
    assert (process.up, process.running, process.error) == (False, False, None)


def test_a_process_that_reports_nothing_or_nonsense_is_killed_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "KILL_AFTER_S", 0.01)
    with Supervised(tmp_path, monkeypatch, ["damaged", "run"]) as supervised:
        wait_until(lambda: supervised.process.ready)
    monkeypatch.setattr(worker_process, "SILENCE_S", 0.01)
    with Supervised(tmp_path, monkeypatch, ["hang", "crash"]) as supervised:
        wait_until(lambda: supervised.down)
    assert "killed by signal 9" in supervised.down[0]


def test_a_process_that_ends_together_with_the_service_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Supervised(tmp_path, monkeypatch, ["stop"]) as supervised:
        wait_until(lambda: supervised.process.starts == 1 and not supervised.process.running)
    assert supervised.down == []


def test_a_process_that_hangs_does_not_prevent_the_end_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "LOCK_S", 0.01)
    supervised = Supervised(tmp_path, monkeypatch, ["hang"])
    process = supervised.process
    process.start()
    wait_until(lambda: process.up)
    sending = Thread(target=process.send, args=("x" * 1_000_000,), daemon=True)  # more than a pipe holds
    sending.start()
    wait_until(process._lock.locked)

    def close() -> None:
        process.end()
        process.join(0.01)

    ending = Thread(target=close, daemon=True)
    ending.start()
    ending.join(LONG_S)
    assert (ending.is_alive(), process.pid) == (False, None)
    sending.join()


def test_a_process_that_cannot_start_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Supervised(tmp_path, monkeypatch, ["invalid"]) as supervised:
        wait_until(lambda: supervised.process.error is not None)
        assert supervised.process.error is not None
        assert supervised.process.error.exit_status == 4
        assert supervised.process.starts == 1


def test_a_later_failure_to_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Supervised(tmp_path, monkeypatch, ["crash", "invalid", "run"]) as supervised:
        wait_until(lambda: supervised.process.ready)
        assert supervised.process.error is None


def test_a_worker_accepts_only_requests_with_its_token(tmp_path: Path) -> None:
    from tests.service.fakes import FakeBackend
    from vision_infer.service.http.app import make_routes
    from vision_infer.service.http.auth import Tokens

    app = make_routes(FakeBackend(), Tokens({}), HandClock())
    app.add_middleware(worker.WorkerGate, security=app.state.context.security, token="right")
    client = TestClient(app)
    assert client.get("/api/v1/streams").status_code == 401
    assert client.get("/api/v1/streams", headers={"X-Worker-Token": "wrong"}).status_code == 401
    assert client.get("/api/v1/streams", headers={"X-Worker-Token": "right"}).status_code == 200


def test_a_worker_that_cannot_apply_an_order_ends_so_that_it_starts_again_with_the_new_settings() -> None:
    stopping = Event()
    orders = worker.Orders()
    worker._read(io.BytesIO(b'{"streams": {}}\n{}\n'), worker.Lease(), orders)
    with pytest.raises(KeyError):
        worker._obey(cast("Service", SimpleNamespace(reload=print, stamp=print)), orders, stopping)
    assert stopping.is_set()


def test_a_worker_without_a_valid_lease_stops_its_streams() -> None:
    lease, clock, running = worker.Lease(), HandClock(), ["a", "b"]
    views = SimpleNamespace(streams=lambda: [SimpleNamespace(name=name) for name in running], give_up=running.remove)
    service = cast("Service", views)
    worker._keep(service, lease, clock)
    assert running == ["a", "b"], "the worker of a single machine has no lease"
    line = json.dumps({"lease_until_ns": clock.monotonic_ns() + 10})
    worker._read(io.BytesIO(f"{line}\n".encode()), lease, worker.Orders())
    worker._keep(service, lease, clock)
    assert running == ["a", "b"]
    clock.move(1.0)
    worker._keep(service, lease, clock)
    assert running == []


def test_log_lines_carry_the_name_of_the_worker() -> None:
    line = "2026-11-24T18:00:00.123Z  warning  door: backing off"
    assert with_worker(line, "gpu-1", "human") == "2026-11-24T18:00:00.123Z  warning  [gpu-1] door: backing off"
    assert with_worker("CUDA error", "gpu-1", "human") == "[gpu-1] CUDA error"
    row = json.dumps({"level": "info", "message": "x"})
    assert json.loads(with_worker(row, "gpu-1", "json")) == {"level": "info", "message": "x", "worker": "gpu-1"}
    assert json.loads(with_worker("CUDA error", "gpu-1", "json"))["message"] == "CUDA error"
