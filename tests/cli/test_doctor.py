"""``vision-infer doctor``: its text and JSON reports."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.buses import RedisServer
from tests.support.free_port import free_port
from tests.support.otlp_receiver import OtlpReceiver
from vision_infer.cli import camera_checks, checks, doctor, service_checks
from vision_infer.cli.app import app
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.core.errors import EngineError
from vision_infer.core.finding import Finding, Severity, worst
from vision_infer.core.geometry import Size
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.engine.gpu.gpus import Gpu
from vision_infer.engine.smoke_test import SmokeTestResult
from vision_infer.stream.codecs import CodecState
from vision_infer.stream.discovery.probe import Probe
from vision_infer.stream.discovery.probe_findings import find_in_probe
from vision_infer.stream.source import LiveOptions
from vision_infer.telemetry.machine import Disk, Grants, MemorySize


def texts_of(findings: Any) -> list[tuple[str, str]]:
    return [(one.severity, one.text) for one in findings]


def test_the_json_report_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_to_try", lambda *_: [("onnxruntime", "cpu")])  # the others take seconds to import
    words = ["doctor", "--json", "test://", "rtsp://user:geheim@nowhere.invalid/x"]
    done = CliRunner().invoke(app, words, standalone_mode=False)
    assert "geheim" not in done.output
    found = json.loads(done.stdout)
    assert (done.return_value, found["worst"]) == (2, "error"), "a camera is not there"
    areas = {one["area"] for one in found["findings"]}
    assert {"camera", "cpu", "memory", "gpu", "package", "runtime", "codec", "disk", "clock", "home"} <= areas
    assert all(set(one) == {"area", "severity", "text", "hint", "facts"} for one in found["findings"])
    errors = [one for one in found["findings"] if one["severity"] == "error"]
    assert [(one["area"], one["facts"]["failed_at"]) for one in errors] == [("camera", "name")]
    engines = {one["facts"]["engine"] for one in found["findings"] if one["area"] == "runtime"}
    assert "onnxruntime-cpu-fp32" in engines


def test_each_sink_of_the_file_is_connected_and_problems_are_explained(tmp_path: Path) -> None:
    closed = free_port()
    with RedisServer(tmp_path / "redis") as server:
        (tmp_path / "cameras.yaml").write_text(
            f"""
streams: {{a: {{detect: 'test://'}}}}
sinks:
  mqtt: {{house: {{url: 'mqtt://127.0.0.1:{closed}', username: me, password: geheim}}}}
  webhook: {{alarm: {{url: 'https://127.0.0.1:{closed}/geheim'}}}}
  kafka: {{lake: {{url: 'kafka://127.0.0.1:{closed}'}}}}
  redis:
    recent: {{url: '{server.url}'}}
    locked: {{url: '{server.url}', username: me, password: geheim}}
  notify: {{night: {{urls: ['json://me:geheim@127.0.0.1:{closed}']}}}}
""",
            encoding="utf-8",
        )
        settings = load_settings(tmp_path / "cameras.yaml", [], {}, {})
        found = list(checks.check_sinks(settings.sinks))
        with server.client() as client:
            assert not client.keys(), "nothing was sent"
    where = f"127.0.0.1:{closed}"
    assert [(one.severity, one.text) for one in found[:2]] == [
        ("error", f"mqtt house: {where}: cannot be reached: Connection refused"),
        ("note", "webhook alarm: not checked: only rows show whether the receiver accepts them"),
    ]
    assert found[2].text.startswith(f"kafka lake: {where}: cannot be reached: ")
    assert (found[3].severity, found[3].text) == ("ok", "redis recent: connected")
    assert (found[4].severity, found[4].hint) == ("error", "Check username and password.")
    assert found[5].text == f"notify night: URL 1 (json): {where} cannot be reached: Connection refused"
    assert {one.area for one in found} == {"sink"}
    assert "geheim" not in json.dumps([(one.text, one.hint) for one in found])


def test_the_otlp_receiver_of_the_file_is_asked_and_problems_are_explained() -> None:
    assert list(checks.check_telemetry(TelemetrySettings())) == []
    with OtlpReceiver() as receiver:
        settings = TelemetrySettings.model_validate({"endpoint": receiver.url, "headers": {"Authorization": "geheim"}})
        assert list(checks.check_telemetry(settings)) == [Finding("otlp", "ok", f"{receiver.url} accepts traces and metrics")]
        assert receiver.spans == []
        receiver.answer = lambda path: 401
        (refused,) = checks.check_telemetry(settings)
    assert (refused.severity, refused.text) == ("error", f"{receiver.url} answered with status 401")
    assert refused.hint == "Check telemetry.headers."
    (away,) = checks.check_telemetry(settings)
    assert (away.severity, away.text) == ("error", f"{receiver.url} cannot be reached: Connection refused")


def test_the_grpc_port_and_the_shadow_model_of_the_file_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(service_checks.check_grpc_port(ServeSettings())) == list(service_checks.check_shadow(ServeSettings())) == []
    port = free_port()
    settings = ServeSettings.model_validate(
        {
            "service": {"inference_protocol": {"grpc_port": port}},
            "streams": {"door": {"detect": "test://"}},
            "shadow": {"model": "missing", "streams": ["door", "dor"]},
        }
    )
    assert texts_of(service_checks.check_grpc_port(settings)) == [("ok", f"port {port} is free")]
    with socket.create_server(("127.0.0.1", port)):
        (taken,) = service_checks.check_grpc_port(settings)
    assert (taken.severity, taken.text) == (
        "warning",
        f"cannot listen on 127.0.0.1:{port} for gRPC: Address already in use",
    )
    odd = settings.model_copy(update={"service": settings.service.model_copy(update={"host": "." * 70})})
    assert [one.severity for one in service_checks.check_grpc_port(odd)] == ["warning"]
    stream, model = service_checks.check_shadow(settings)
    assert (stream.severity, stream.text) == ("warning", "shadow.streams: dor is not a stream of the configuration")
    assert (model.severity, model.text) == ("error", "shadow.model: unknown model 'missing'")
    monkeypatch.setattr(service_checks, "find_spec", lambda _: None)
    (missing,) = service_checks.check_grpc_port(settings)
    assert (missing.severity, missing.hint) == ("error", "Run: pip install '.[grpc]'")


def test_cameras_are_checked_with_the_credentials_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "streams: {gate: {detect: 'rtsp://10.0.0.5/x'}}\ncredentials: [{match: 10.0.0.0/8, user: ann, password: geheim}]\n"
    )
    asked: list[tuple[list[str], list[str]]] = []

    def check(urls: list[str], live: LiveOptions, seconds: float) -> list[Finding]:
        del seconds
        asked.append((urls, [entry.user for entry in live.credentials]))
        return []

    monkeypatch.setattr(camera_checks, "check_cameras", check)
    assert next(doctor._check([str(path), "rtsp://10.0.0.6/y"], False, 2.0, False, None, None)).area == "cpu"
    assert asked == [(["rtsp://10.0.0.6/y", "rtsp://10.0.0.5/x"], ["ann"])]


@pytest.mark.parametrize(("severity", "status"), [("ok", 0), ("note", 0), ("warning", 1), ("error", 2)])
def test_the_exit_status_is_the_highest_severity(monkeypatch: pytest.MonkeyPatch, severity: Severity, status: int) -> None:
    found = [Finding("cpu", "ok", "two CPUs"), Finding("gpu", severity, "something", "do something")]
    monkeypatch.setattr(doctor, "_check", lambda *_: iter(found))
    done = CliRunner().invoke(app, ["doctor"], standalone_mode=False)
    assert done.return_value == status
    assert done.stdout.splitlines()[:3] == [
        "ok       cpu      two CPUs",
        f"{severity:<8} gpu      something",
        "                  → do something",
    ]
    assert worst([]) == "ok"


def test_an_invalid_transport_is_a_usage_error() -> None:
    done = CliRunner().invoke(app, ["doctor", "--transport", "carrier-pigeon"], standalone_mode=False)
    assert "is not a valid transport" in str(done.exception)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp//user:geheim@host/x", "camera 1: the URL looks like the address of a camera. Write rtsp:// before it."),
        ("user:geheim@host/x", "camera 1: the URL looks like the address of a camera. Write rtsp:// before it."),
        ("rtsps:/user:geheim@host/x", "camera 1: the URL needs two slashes after rtsps:"),
        ("rtsp://user:ge@heim@host:99999/x", "camera 1: the URL has an invalid host or port"),
        ("/nonexistent.mp4", "camera 1: is not a URL, file or device"),
        ("/dev/video97", "/dev/video97: no frame: failed while connecting: "),
    ],
)
def test_an_invalid_url_is_reported_without_its_password(url: str, expected: str) -> None:
    (found,) = camera_checks.check_cameras([url], LiveOptions(), 2.0)
    assert found.severity == "error"
    assert found.text.startswith(expected)
    assert "heim" not in found.text


def seen(**other: Any) -> Probe:
    values: dict[str, Any] = {"url": "rtsp://c/x", "kind": "rtsp", "codec": "h264", "size": Size(1920, 1080), "frame_rate": 25.0}
    values |= {"opened_ms": 50.0, "first_frame_ms": 300.0, "frames": 75, "passthrough_problem": "", "key_interval_s": 2.0}
    values |= {"passthrough_players": "every browser"}
    return Probe(**(values | other))


@pytest.mark.parametrize(
    ("other", "severity", "expected"),
    [
        ({}, "ok", "first frame after 300 ms, a key frame every 2 s; unmodified for every browser"),
        ({"b_frames": True}, "warning", "it sends B-frames"),
        ({"ingest_reason": "the codec vp9 is not supported"}, "note", "it is read by FFmpeg: the codec vp9 is not supported"),
        ({"ingest_reason": "it is encrypted", "ingest_delays": True}, "note", "by FFmpeg, which delays each frame by one frame"),
        ({"key_interval_s": 10.0}, "warning", "its key frames are 10 s apart"),
        ({"key_interval_s": None, "since_key_s": 7.0}, "warning", "its key frames are at least 7 s apart"),
        ({"key_interval_s": None, "first_frame_ms": 6050.0}, "warning", "its key frames are at least 6 s apart"),
        ({"jitter_ms": 250.0}, "warning", "its packets arrive up to 250 ms late"),
        ({"nominal_rate": 25.0, "frame_rate": 10.0}, "note", "it announces 25 frames/s and sends 10"),
        ({"damaged": 3}, "warning", "3 of 75 frames are damaged"),
        ({"ingest": "rtp"}, "ok", "h264 1920x1080, read over RTP, 25 frames/s"),
        ({"ingest": "ffmpeg"}, "ok", "h264 1920x1080, read by FFmpeg, 25 frames/s"),
        (
            {"damaged": 3, "packets_received": 990, "packets_lost": 10},
            "warning",
            "10 of 1000 RTP packets were lost, and 3 of 75 frames are damaged",
        ),
        ({"decode_ms": 40.0}, "warning", "decoding it uses 1.0 CPUs"),
        ({"size": Size(3840, 2160)}, "note", "3840x2160 is larger than detection models use"),
        ({"interlaced": True}, "note", "it is interlaced"),
        (
            {"passthrough_problem": "browsers do not play JPEG over WebRTC", "passthrough_players": ""},
            "note",
            "the preview must transcode it: browsers do not play JPEG",
        ),
    ],
)
def test_what_a_camera_should_be_set_to(other: dict[str, Any], severity: Severity, expected: str) -> None:
    found = find_in_probe(seen(**other))
    assert worst(found) == severity
    assert any(one.severity == severity and expected in one.text for one in found), texts_of(found)
    assert all(one.hint for one in found if one.severity != "ok")
    json.dumps([dict(one.facts) for one in found])


def test_a_small_or_limited_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.engine.device.cpu_facts", lambda: ("Old CPU", ()))
    monkeypatch.setattr("vision_infer.engine.device.available_cpus", lambda: 1)
    monkeypatch.setattr("vision_infer.telemetry.machine.grants", lambda: Grants(0.5, 0.4, None))
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"machine": "x86_64"})())
    found = list(checks.check_cpu())
    assert [one.severity for one in found] == ["ok", "warning", "warning", "warning"]
    assert "limited to the time of 0.5 CPUs by a control group" in found[0].text
    assert "reached its CPU limit in 40% of all periods" in found[2].text
    assert "no AVX2" in found[3].text


@pytest.mark.parametrize(("free", "severity"), [(0.2e9, "error"), (1e9, "warning"), (3e9, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: float, severity: Severity) -> None:
    monkeypatch.setattr("vision_infer.telemetry.machine.memory", lambda: MemorySize(4_000_000_000, int(free)))
    monkeypatch.setattr("resource.getrlimit", lambda _: (4096, 4096))
    assert texts_of(checks.check_memory()) == [(severity, f"{free / 1e9:.1f} of 4.0 GB free")]
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))
    assert texts_of(checks.check_memory())[1] == (
        "warning",
        "the limit of open files is 256, which is enough for about 16 cameras",
    )


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "NVIDIA L4", "8.9", 24_000_000_000, 20_000_000_000, "580.1", False)
    monkeypatch.setattr("vision_infer.engine.gpu.gpus.list_gpus", lambda: [gpu])
    found, has_gpu = checks.check_gpus()
    assert (texts_of(found), has_gpu) == (
        [("ok", "cuda:0 NVIDIA L4: 20.0 of 24.0 GB free, compute capability 8.9, driver 580.1")],
        True,
    )
    for on_bus, broken, severity in ((0, False, "note"), (0, True, "warning"), (1, False, "warning")):

        def fails(broken: bool = broken) -> list[Gpu]:
            raise NoGpuError("no driver", "get one", broken)

        monkeypatch.setattr("vision_infer.engine.gpu.gpus.list_gpus", fails)
        monkeypatch.setattr("vision_infer.telemetry.machine.nvidia_devices", lambda on_bus=on_bus: on_bus)
        found, has_gpu = checks.check_gpus()
        assert ([one.severity for one in found], has_gpu) == ([severity], False)


def test_runtimes_that_fail_or_give_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def tries(graph: Path, runtime: str, *_: Any) -> SmokeTestResult:
        if runtime == "openvino":
            return SmokeTestResult("openvino-cpu-fp32", "2026.4", 7, 0.5, 1.0)
        raise EngineError(f"{runtime} crashed", "install it anew")

    monkeypatch.setattr("vision_infer.engine.smoke_test.run_smoke_test", tries)
    monkeypatch.setattr(checks, "_to_try", lambda *_: [("onnxruntime", "cpu"), ("openvino", "cpu"), ("torch", "cuda:0")])
    assert texts_of(checks.check_runtimes(False)) == [
        ("warning", "onnxruntime does not work: onnxruntime crashed"),
        ("warning", f"openvino gives wrong results: 7 instead of {checks.TIME_CODE}"),
        ("warning", "torch on cuda:0 does not work: torch crashed"),
        ("error", "no inference engine works"),
    ]


def test_which_runtimes_have_a_smoke_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.engine.runtime.find_spec", lambda name: None if name in ("torch", "tensorrt_rtx") else name)
    cpu = [("onnxruntime", "cpu"), ("openvino", "cpu")]
    assert list(checks._to_try(False)) == cpu
    assert list(checks._to_try(True)) == [cpu[0], ("onnxruntime", "cuda:0"), cpu[1], ("tensorrt", "cuda:0")]
    # The wheel for GPUs on a machine without one: doctor shows why it cannot run there.
    monkeypatch.setattr(checks, "_version", lambda package: "1.31.1" if package == "onnxruntime-gpu" else "")
    assert list(checks._to_try(False)) == [cpu[0], ("onnxruntime", "cuda:0"), cpu[1]]


def test_codecs_and_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [CodecState("h264", "decoder", "is missing"), CodecState("libx264", "encoder", "fails: no memory")]
    monkeypatch.setattr("vision_infer.stream.codecs.check_codecs", lambda: states)
    assert texts_of(checks.check_codecs())[2:] == [
        ("error", "decoder h264 is missing"),
        ("warning", "encoder libx264 fails: no memory"),
    ]
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in ("lap", "pyarrow") else name)
    monkeypatch.setattr(checks, "_version", lambda name: "1")
    monkeypatch.setattr("vision_infer.engine.runtime.find_spec", lambda name: name)
    found = list(checks.check_packages())
    assert [one.severity for one in found] == ["error", "warning", "warning", "note"]
    assert found[0].text == "lap is missing"
    assert "onnxruntime and onnxruntime-gpu are both installed" in found[1].text
    assert found[3].hint == "Run: pip install '.[parquet]'"


def test_disk_clock_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vision_infer.telemetry.machine.disk", lambda _: Disk(0, "Read-only file system"))
    assert [one.severity for one in checks.check_disks()] == ["error", "warning", "warning"]
    monkeypatch.setattr("vision_infer.telemetry.machine.disk", lambda _: Disk(1_000_000_000, ""))
    assert [one.severity for one in checks.check_disks()] == ["warning"] * 3
    for kept, severity in ((True, "ok"), (False, "warning"), (None, "note")):
        monkeypatch.setattr("vision_infer.telemetry.machine.clock_synchronized", lambda kept=kept: kept)
        assert [one.severity for one in checks.check_clock()] == [severity]
    monkeypatch.setenv("VISION_INFER_HOME", str(tmp_path))
    assert [one.severity for one in checks.check_home()] == ["ok"]
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.yaml").write_text("name: [")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    (tmp_path / "downloads" / "x").mkdir(parents=True)
    (tmp_path / "downloads" / "x" / "y.part").touch()
    found = list(checks.check_home())
    assert [one.severity for one in found] == ["warning", "warning", "note", "ok"]
    assert "model broken is invalid" in found[0].text
    assert "other users may write there" in found[1].text
    assert found[2].text == "1 unfinished downloads or builds: downloads/x/y.part"
