"""Alerts ask for metrics that there are, fire when they should, and are explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.media import ROOT
from tests.pipeline.live_fakes import Camera, until
from tests.service.site import Engines, Site, engines, settings, wanted
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import EngineError
from vision_infer.pipeline.status import LaneStatus, StreamState, StreamStatus
from vision_infer.service.backend import Backend
from vision_infer.service.metrics import make_registry
from vision_infer.sink.carrier import SinkStatus
from vision_infer.telemetry.histogram import Histogram

__all__ = ["engines"]
DEPLOY = ROOT / "deploy"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
EXPRESSIONS = "\n".join(rule["expr"] for rule in RULES)


class OneStream:
    """A backend with a stream that has met everything, and the engine that it uses."""

    hub = SimpleNamespace(readers=1, skipped=2)

    def ready(self) -> tuple[bool, str]:
        return True, ""

    def streams(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                status=StreamStatus(
                    name="door",
                    source="rtsp://192.0.2.1/door",
                    state=StreamState.LIVE,
                    frames_expected=None,
                    frame_rate=25.0,
                    decoded=9,
                    results=5,
                    detections=3,
                    gaps=1,
                    dropped={reason.value: 1 for reason in DropReason},
                    error=None,
                    picture_bytes=0,
                    live=True,
                    last_frame_ns=1,
                    age_ms={"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0},
                )
            )
        ]

    def lanes(self) -> list[LaneStatus]:
        return [
            LaneStatus(
                name="nanodet",
                model="nanodet-416",
                engine="null",
                input_size=(416, 416),
                batch_sizes=(1,),
                in_flight=1,
                flying=0,
                waiting=0,
                batches={1: 5},
                frames=5,
                busy_ns=5,
                utilisation=0.5,
                inference_ms={},
                padded=0,
                buffer_bytes=0,
            )
        ]

    def sinks(self) -> list[SinkStatus]:
        return [SinkStatus("house", "mqtt", True, None, 0, 3, 1024, 1, 9, {"spool_full": 2})]

    def stages(self) -> Mapping[str, Histogram]:
        return {"decode": Histogram()}


def written() -> dict[str, list[dict[str, str]]]:
    """Labels of the samples of each metric."""
    text = generate_latest(make_registry(cast(Backend, OneStream()), SYSTEM_CLOCK)).decode()
    samples: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    return samples


def test_every_metric_and_label_that_is_asked_for_is_written() -> None:
    samples = written()
    asked = re.findall(r"\b((?:vision_infer|process)_\w+)(?:\{([^}]*)\})?", EXPRESSIONS)
    assert len(asked) > len(RULES)
    for name, matchers in asked:
        assert name in samples, name
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            there = {labels.get(label) for labels in samples[name]}
            assert label == "job" or set(values.split("|")) <= there, (name, label, values)


def test_labels_of_the_messages_are_those_of_the_metrics() -> None:
    samples = written()
    for rule in RULES:
        (first, *_) = re.findall(r"\b(?:vision_infer|process)_\w+|\bup\b", rule["expr"])
        labels = {"instance", "job", *(samples[first][0] if first != "up" else ())}
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def failures_of(site: Site) -> dict[str, float]:
    """What ``EngineFails`` looks at, as the program writes it: by lane."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "EngineFails")
    (name,) = set(re.findall(r"vision_infer_\w+", rule["expr"]))
    text = generate_latest(make_registry(cast(Backend, site.service), SYSTEM_CLOCK)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    return {sample.labels["lane"]: sample.value for sample in samples}


def test_a_failing_engine_raises_what_its_alert_looks_at(engines: Engines) -> None:
    def fail(model: str, batch: object) -> None:
        if failing:
            raise EngineError("out of memory", "use a smaller batch")

    failing = False
    engines.run = fail
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        site.give(camera)
        assert failures_of(site) == {"one": 0}, "it is there before the first failure: an increase is seen of what was there"
        failing = True
        camera.give()
        until(lambda: failures_of(site) == {"one": 1}, "the failure to be counted")
        failing = False
        site.give(camera)
        assert failures_of(site) == {"one": 1}


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_prometheus_reads_the_rules_with_the_token_that_may_only_look() -> None:
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert settings["rule_files"] == ["alerts.yml"]
    (job,) = settings["scrape_configs"]
    assert job["job_name"] == "vision-infer"
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/run/secrets/view_token"}
    assert f'job="{job["job_name"]}"' in EXPRESSIONS


@pytest.mark.parametrize("what", ["check", "test"])
def test_promtool_agrees(what: str, tmp_path: Path) -> None:
    """``check`` reads the files as Prometheus does; ``test`` feeds the rules with series and looks which of them fire."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here")
    command = ["promtool", "test", "rules", str(ROOT / "tests" / "deploy" / "alerts_test.yml")]
    if what == "check":
        settings = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
        (tmp_path / "view_token").touch()
        (tmp_path / "prometheus.yml").write_text(settings.replace("/run/secrets", str(tmp_path)), encoding="utf-8")
        shutil.copy(DEPLOY / "alerts.yml", tmp_path)
        command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
