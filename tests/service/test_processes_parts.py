"""The parts of a service with several processes: settings, placement, supervision, merged answers; without a process each."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from tests.pipeline.fakes import LONG_S
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.serve import StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.sinks import MqttSettings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.service import worker
from vision_infer.service.operations.logs import with_worker
from vision_infer.service.processes import worker_process, worker_settings
from vision_infer.service.processes.merge import merge_costs, merge_metrics, merge_models, merge_sinks
from vision_infer.service.processes.merged_results import messages_of
from vision_infer.service.processes.placement import Placement
from vision_infer.service.processes.worker_process import WorkerProcess
from vision_infer.service.processes.worker_settings import GivenStream, WorkerPlace, WorkerStart, settings_of, worker_places
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.service import Service
from vision_infer.sink.delivery import mqtt
from vision_infer.sink.delivery.carrier import CarrierContext
from vision_infer.sink.delivery.home_assistant import Topics, discovery
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot

EVERYTHING = """
service: {token: a-secret-token, allow_networks: [10.0.0.0/8], root_path: /vision}
preview: {ice_servers: [{url: "turn:relay:3478", secret: shared-secret}]}
sinks:
  mqtt: {broker: {url: "mqtt://hub", username: me, password: mqtt-password}}
  webhook: {hook: {url: "https://hub/x", secret: whsec_MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=}}
results: {jsonl: out/rows.jsonl, parquet: out/rows.parquet}
clips: {dir: /clips, max_mb: 100}
streams:
  a:
    url: "rtsp://user:camera-password@10.0.0.5/a"
    fps: 5
    zones: {door: {units: relative, polygon: [[0, 0], [1, 0], [1, 1]]}}
    lines: {gate: {units: relative, from: [0.1, 0.5], to: [0.9, 0.5]}}
    clips: {pre_s: 2}
  b: {url: "rtsp://10.0.0.6/b"}
"""


def _settings(folder: Path, text: str = "", **given: object) -> Any:
    file = folder / "cameras.yaml"
    file.write_text(text)
    return load_settings(file, ["test://?size=64x64"], {}, given)


def test_processes_is_a_number_or_per_gpu(tmp_path: Path) -> None:
    assert _settings(tmp_path).processes == 1
    assert _settings(tmp_path, processes="3").processes == 3
    assert _settings(tmp_path, processes="per-gpu").processes == "per-gpu"
    for wrong in ("0", "65", "per-cpu", "2.5", "-1"):
        with pytest.raises(SettingsError, match="must be per-gpu, or a whole number from 1 to 64"):
            _settings(tmp_path, processes=wrong)


def test_the_settings_of_a_worker_survive_the_pipe_and_share_no_file(tmp_path: Path) -> None:
    settings = _settings(tmp_path, EVERYTHING)
    place = WorkerPlace("gpu-1", "cuda:1")
    streams = {name: one for name, one in settings.streams.items() if name != "b"}
    own = settings_of(settings, place, 4, streams, tmp_path)
    start = WorkerStart("gpu-1", Path("/run/x"), "worker-token", own, {"x": GivenStream(settings.streams["b"], "api")}, tmp_path)
    line = start.to_json()
    assert "\n" not in line
    read = WorkerStart.from_json(line.encode())
    assert read == start
    assert read.settings.url_streams == settings.url_streams
    assert set(read.settings.streams) == {"a", *settings.url_streams}
    assert read.settings.streams["a"] == settings.streams["a"]
    assert read.settings.sinks == settings.sinks
    assert (own.device, own.workers, own.processes) == ("cuda:1", None, 1)
    assert own.service.token is None
    assert (own.results.jsonl, own.results.parquet) == ("out/rows.gpu-1.jsonl", "out/rows.gpu-1.parquet")
    assert (own.clips.dir, own.clips.max_mb) == (Path("/clips/gpu-1"), 25)
    assert own.state_dir == tmp_path / "workers" / "gpu-1"
    each = settings.model_copy(update={"results": settings.results.model_copy(update={"jsonl": "out/{stream}.jsonl"})})
    assert settings_of(each, place, 4, {}, tmp_path).results.jsonl == "out/{stream}.jsonl"


def test_each_worker_publishes_its_availability_on_another_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[CarrierContext] = []

    def open_carrier(settings: MqttSettings, context: CarrierContext) -> mqtt.MqttCarrier:
        opened.append(context)
        return real(settings, context)

    real = mqtt.open_carrier
    monkeypatch.setattr(mqtt, "open_carrier", open_carrier)
    settings = _settings(tmp_path, "sinks: {mqtt: {broker: {url: 'mqtt://127.0.0.1:1'}}}\n")
    SinkSet(settings.results, settings.sinks, tmp_path, worker="gpu-1").close()
    topics = Topics("vi", opened[0].worker)
    snapshot = StreamSnapshot("door", "{}", True, (), {}, {})
    payloads = [json.loads(text) for text in discovery("ha", topics, snapshot, images=False).values()]
    assert payloads
    assert all({"topic": "vi/availability/gpu-1"} in payload["availability"] for payload in payloads)
    assert Topics("vi").availability == "vi/availability"


def test_there_is_a_worker_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: list[object] = []

    def list_gpus() -> list[object]:
        if not gpus:
            raise NoGpuError("there is no NVIDIA driver")
        return gpus

    monkeypatch.setattr(worker_settings, "list_gpus", list_gpus)
    monkeypatch.setattr(worker_settings, "available_cpus", lambda: 16)
    with pytest.raises(UsageError, match=r"per-gpu: there is no NVIDIA driver\. Without a GPU, set a number of processes"):
        worker_places(_settings(tmp_path, processes="per-gpu"))
    on_cpus = _settings(tmp_path, processes=4)
    assert worker_places(on_cpus) == [WorkerPlace(f"worker-{number}", "auto") for number in range(4)]
    assert settings_of(on_cpus, WorkerPlace("worker-0", "auto"), 4, {}, tmp_path).workers == 4
    gpus[:] = [object(), object()]
    expected = [WorkerPlace("gpu-0", "cuda:0"), WorkerPlace("gpu-1", "cuda:1")]
    assert worker_places(_settings(tmp_path, processes="per-gpu")) == expected
    assert worker_places(_settings(tmp_path, processes="per-gpu", device="cuda:2,cuda:0")) == [
        WorkerPlace("gpu-2", "cuda:2"),
        WorkerPlace("gpu-0", "cuda:0"),
    ]
    assert [place.device for place in worker_places(_settings(tmp_path, processes=3, device="cuda:0,cuda:1"))] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]
    gpus.append(object())
    assert [place.device for place in worker_places(_settings(tmp_path, processes=2, device="all"))] == [
        "cuda:0,cuda:2",
        "cuda:1",
    ]
    with pytest.raises(UsageError, match="per-gpu: device is cpu"):
        worker_places(_settings(tmp_path, processes="per-gpu", device="cpu"))
    gpus[1:] = []
    assert worker_places(_settings(tmp_path, processes="per-gpu")) == []
    assert worker_places(_settings(tmp_path)) == []


def test_streams_go_to_the_worker_with_the_fewest_and_stay_there(tmp_path: Path) -> None:
    one = StreamSettings(detect="test://")
    placement = Placement(["a", "b"], tmp_path)
    workers = [placement.put(name, one, "file").worker for name in ("s", "t", "u", "v")]
    assert workers == ["a", "b", "a", "b"]
    placement.remove("t")
    placement.remove("v")
    assert placement.put("w", one, "api").worker == "b"
    assert placement.put("x", one, "api", ["a"]).worker == "a"
    assert placement.put("x", one.model_copy(update={"weight": 2.0}), "api", ["b"]).worker == "a"
    placement.store()
    again = Placement(["a", "b"], tmp_path)
    assert [again.put(name, one, "file").worker for name in ("x", "w", "u")] == ["a", "b", "a"]
    fewer = Placement(["b"], tmp_path)
    assert fewer.put("x", one, "file").worker == "b"
    (tmp_path / "placement.json").write_text("[damaged")
    assert Placement(["a"], tmp_path).put("x", one, "file").worker == "a"


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
    with pytest.raises(KeyError):
        worker._obey(cast("Service", SimpleNamespace(reload=print)), io.BytesIO(b'{"streams": {}}\n{}\n'), stopping)
    assert stopping.is_set()


def test_log_lines_carry_the_name_of_the_worker() -> None:
    line = "2026-11-24T18:00:00.123Z  warning  door: backing off"
    assert with_worker(line, "gpu-1", "human") == "2026-11-24T18:00:00.123Z  warning  [gpu-1] door: backing off"
    assert with_worker("CUDA error", "gpu-1", "human") == "[gpu-1] CUDA error"
    row = json.dumps({"level": "info", "message": "x"})
    assert json.loads(with_worker(row, "gpu-1", "json")) == {"level": "info", "message": "x", "worker": "gpu-1"}
    assert json.loads(with_worker("CUDA error", "gpu-1", "json"))["message"] == "CUDA error"


def test_sinks_and_models_of_all_workers_are_added_up() -> None:
    sink = {
        "name": "broker",
        "kind": "mqtt",
        "connected": True,
        "error": None,
        "queued": 1,
        "waiting": 2,
        "spool_bytes": 10,
        "oldest": "2026-01-02",
        "sent": 5,
        "dropped": {"queue_full": 1},
    }
    other = {**sink, "connected": False, "error": "refused", "oldest": "2026-01-01", "dropped": {"rejected": 2}}
    (merged,) = merge_sinks([[sink], [other]])
    assert (merged["connected"], merged["error"], merged["oldest"]) == (False, "refused", "2026-01-01")
    assert (merged["queued"], merged["waiting"], merged["spool_bytes"], merged["sent"]) == (2, 4, 20, 10)
    assert merged["dropped"] == {"queue_full": 1, "rejected": 2}
    models = merge_models([[{"name": "b", "loaded": False}, {"name": "a", "loaded": True}], [{"name": "b", "loaded": True}]])
    assert models == [{"name": "a", "loaded": True}, {"name": "b", "loaded": True}]


def test_the_cores_of_other_workers_are_not_those_of_others() -> None:
    def answer(used: float, others: float, accelerator: float | None) -> dict[str, Any]:
        return {"cores": 8.0, "cores_used": used, "cores_others": others, "accelerator": accelerator, "streams": []}

    cost = merge_costs([answer(2.0, 3.5, 0.2), answer(3.0, 2.5, 0.6)])
    assert (cost.machine.used, cost.machine.others, cost.accelerator) == (5.0, 0.5, 0.6)


def test_metrics_keep_their_families_and_get_the_label_worker() -> None:
    text = (
        '# HELP frames_total Frames.\n# TYPE frames_total counter\nframes_total{stream="%s"} 3.0\n'
        '# HELP age_seconds Age.\n# TYPE age_seconds histogram\nage_seconds_bucket{le="+Inf"} 1.0\n'
        "age_seconds_count 1.0\nage_seconds_sum 0.5\n"
    )
    merged = merge_metrics({"a": text % "x", "b": text % "y"}, {"a": 3, "b": 0}, {"a": True, "b": False}).decode()
    assert merged.count("# TYPE frames_total counter") == merged.count("# TYPE age_seconds histogram") == 1
    assert 'frames_total{stream="x",worker="a"} 3.0\nframes_total{stream="y",worker="b"} 3.0' in merged
    assert 'age_seconds_bucket{le="+Inf",worker="b"} 1.0' in merged
    assert 'vision_infer_worker_up{worker="b"} 0.0' in merged
    assert 'vision_infer_worker_restarts_total{worker="a"} 2.0' in merged


def test_messages_are_read_from_pieces_of_any_size() -> None:
    text = b'retry: 2000\n\nid: 7\ndata: {"a": "b: c"}\n\n: heartbeat\n\nevent: state\ndata: {}\n\n'

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    async def read(size: int) -> list[tuple[str, int, str]]:
        return [(one.kind, one.number, one.text) async for one in messages_of(pieces(size))]

    for size in (1, 5, 1000):
        assert asyncio.run(read(size)) == [("result", 7, '{"a": "b: c"}'), ("state", 0, "{}")]
