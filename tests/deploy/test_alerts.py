"""Alerts use existing metrics, fire under the right conditions, and are documented."""

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


def test_every_alert_uses_existing_metrics_and_labels() -> None:
    samples = written()
    for rule in RULES:
        assert unknown(rule["expr"], samples) == [], rule["alert"]


def test_the_labels_in_messages_exist() -> None:
    samples = written()
    for rule in RULES:
        (first, *_) = re.findall(r"\b(?:vision_infer|process)_\w+|\bup\b", rule["expr"])
        labels = {"instance", "job", *(samples[first][0] if first != "up" else ())}
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def failures_of(site: Site) -> dict[str, float]:
    """Return the metric that ``EngineFails`` uses, by lane."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "EngineFails")
    (name,) = set(re.findall(r"vision_infer_\w+", rule["expr"]))
    text = generate_latest(make_registry(cast(Backend, site.service), SYSTEM_CLOCK)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    return {sample.labels["lane"]: sample.value for sample in samples}


def test_a_failing_engine_increases_the_metric_of_its_alert(engines: Engines) -> None:
    def fail(model: str, batch: object) -> None:
        if failing:
            raise EngineError("out of memory", "use a smaller batch")

    failing = False
    engines.run = fail
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        site.give(camera)
        assert failures_of(site) == {"one": 0}, "the metric exists before the first failure, so that increase() detects it"
        failing = True
        camera.give()
        wait_until(lambda: failures_of(site) == {"one": 1}, "the failure to be counted")
        failing = False
        site.give(camera)
        assert failures_of(site) == {"one": 1}


def test_every_alert_is_documented() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_prometheus_uses_the_read_only_token() -> None:
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert settings["rule_files"] == ["alerts.yml"]
    (job,) = settings["scrape_configs"]
    assert job["job_name"] == "vision-infer"
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/run/secrets/view_token"}
    assert f'job="{job["job_name"]}"' in EXPRESSIONS


@pytest.mark.parametrize("what", ["check", "test"])
def test_promtool_accepts_the_rules(what: str, tmp_path: Path) -> None:
    """``check`` validates the files; ``test`` evaluates the rules on test series and checks which alerts fire."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    command = ["promtool", "test", "rules", str(ROOT / "tests" / "deploy" / "alerts_test.yml")]
    if what == "check":
        settings = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
        (tmp_path / "view_token").touch()
        (tmp_path / "prometheus.yml").write_text(settings.replace("/run/secrets", str(tmp_path)), encoding="utf-8")
        shutil.copy(DEPLOY / "alerts.yml", tmp_path)
        command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
