"""The settings of worker processes, and the worker of each stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_infer.config.serve import StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.sinks import MqttSettings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.errors import UsageError
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.service.processes import worker_settings
from vision_infer.service.processes.placement import Placement
from vision_infer.service.processes.worker_settings import GivenStream, WorkerPlace, WorkerStart, settings_of, worker_places
from vision_infer.service.results.sinks import SinkSet
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
credentials: [{match: 10.0.0.0/8, user: viewer, password: site-password}]
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
    assert (own.preview.max_viewers, own.preview.max_encoders) == (16, 1)
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
