"""Alerts ask for metrics that there are, fire when they should, and are explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.exposed import unknown, written
from tests.pipeline.live_fakes import Camera
from tests.service.site import Engines, Site, engines, settings, wanted
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError
from vision_infer.service.backend import Backend
from vision_infer.service.operations.metrics import make_registry

__all__ = ["engines"]
DEPLOY = ROOT / "deploy"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
EXPRESSIONS = "\n".join(rule["expr"] for rule in RULES)


def test_every_metric_and_label_that_is_asked_for_is_written() -> None:
    samples = written()
    for rule in RULES:
        assert unknown(rule["expr"], samples) == [], rule["alert"]


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
        wait_until(lambda: failures_of(site) == {"one": 1}, "the failure to be counted")
        failing = False
        site.give(camera)
        assert failures_of(site) == {"one": 1}


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
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
