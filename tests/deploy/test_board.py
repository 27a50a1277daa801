"""The Grafana dashboard uses existing metrics, and the provisioning files are consistent."""

from __future__ import annotations

import configparser
import json
import re
from typing import Any

import pytest
import yaml

from tests.deploy.exposed import unknown, written
from tests.support.media import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "boards" / "vision-infer.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def test_every_query_uses_existing_metrics_and_labels() -> None:
    samples = written()
    assert len(QUERIES) > 30
    for title, target in QUERIES:
        assert unknown(target["expr"], samples) == [], (title, target["expr"])


def test_unknown_metrics_and_labels_are_detected() -> None:
    samples = written()
    for expression, part in (
        ("vision_infer_redy", "vision_infer_redy"),
        ('vision_infer_stream_state{state="alive"}', 'vision_infer_stream_state{state="alive"}'),
        ('sum(vision_infer_ready{stream="door"})', 'vision_infer_ready{stream="door"}'),
        ("sum by (camera) (vision_infer_stream_state)", "by camera"),
        ("sum(vision_infer_ready", "brackets"),
        ("summ(vision_infer_ready)", "summ"),
        ("rate(vision_infer_stream_detections[5m])", "vision_infer_stream_detections"),
    ):
        assert part in unknown(expression, samples), expression


def test_legends_use_labels_of_the_query_result() -> None:
    samples = written()
    for title, target in QUERIES:
        legend_labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.match(r"(?:sum|min|max|histogram_quantile)\b.*?\bby \(([^)]*)\)", target["expr"])
        if grouped is not None:
            result_labels = set(re.split(r",\s*", grouped[1])) - {"le"}
        elif target["expr"].startswith(("sum(", "min(", "max(", "count(")):
            result_labels = set()
        else:
            result_labels = {"instance", "job"}.union(
                *(samples[name][0] for name in re.findall(r"vision_infer_\w+", target["expr"]))
            )
        assert legend_labels <= result_labels, (title, target["legendFormat"])


def test_all_variables_are_declared() -> None:
    declared = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__all"}
    assert used == declared == {"source", "instance", "stream"}
    samples = written()
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            expression, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert unknown(expression, samples) == []
            assert label == "instance" or label in samples[re.findall(r"\w+", expression)[0]][0]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert grid["x"] + grid["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("part", ["state", "outcome", "stage"])
def test_fixed_label_values_exist(part: str) -> None:
    """The dashboard shows all label values; only those with a fixed color are listed in it."""
    fixed = set(re.findall(rf'{part}=~?\\"([^\\"$]*)', json.dumps(BOARD)))
    known = {labels.get(part) for family in written().values() for labels in family}
    assert {value for values in fixed for value in values.split("|")} <= known


def test_the_provisioned_files_are_mounted_by_compose() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]
    mounted = dict(volume.split(":")[:2] for volume in compose["volumes"] if volume.startswith("./"))
    assert {ROOT / source for source in mounted} == {GRAFANA / "grafana.ini", GRAFANA / "provisioning", GRAFANA / "boards"}
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/vision-infer.yml").read_text(encoding="utf-8"))["providers"]
    assert provider["options"]["path"] == mounted["./deploy/grafana/boards"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == BOARD["templating"]["list"][0]["current"]["value"]
    settings = configparser.RawConfigParser()
    settings.read(GRAFANA / "grafana.ini", encoding="utf-8")
    assert settings["dashboards"]["default_home_dashboard_path"] == f"{provider['options']['path']}/vision-infer.json"
    assert settings["security"]["admin_password"] == "$__file{/run/secrets/grafana_password}"
    assert compose["secrets"] == ["grafana_password"]
