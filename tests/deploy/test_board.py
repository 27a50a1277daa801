"""Grafana's board asks for what the program writes, and the files around it belong together."""

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


def test_every_query_asks_for_metrics_and_labels_that_are_written() -> None:
    samples = written()
    assert len(QUERIES) > 30
    for title, target in QUERIES:
        assert unknown(target["expr"], samples) == [], (title, target["expr"])


def test_what_is_not_there_would_be_noticed() -> None:
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


def test_legends_name_labels_that_the_result_has() -> None:
    samples = written()
    for title, target in QUERIES:
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.match(r"(?:sum|min|max|histogram_quantile)\b.*?\bby \(([^)]*)\)", target["expr"])
        if grouped is not None:
            there = set(re.split(r",\s*", grouped[1])) - {"le"}
        elif target["expr"].startswith(("sum(", "min(", "max(", "count(")):
            there = set()
        else:
            there = {"instance", "job"}.union(*(samples[name][0] for name in re.findall(r"vision_infer_\w+", target["expr"])))
        assert wanted <= there, (title, target["legendFormat"])


def test_variables_are_those_that_are_declared() -> None:
    declared = {one["name"] for one in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__all"}
    assert used == declared == {"source", "instance", "stream"}
    samples = written()
    for one in BOARD["templating"]["list"]:
        if one["type"] == "query":
            expression, label = re.fullmatch(r"label_values\((.*), (\w+)\)", one["definition"]).groups()  # type: ignore[union-attr]
            assert unknown(expression, samples) == []
            assert label == "instance" or label in samples[re.findall(r"\w+", expression)[0]][0]


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("part", ["state", "outcome", "stage"])
def test_what_states_and_reasons_there_are_is_not_written_down_twice(part: str) -> None:
    """The board shows whatever labels come, but for those that it gives a colour."""
    fixed = set(re.findall(rf'{part}=~?\\"([^\\"$]*)', json.dumps(BOARD)))
    known = {labels.get(part) for family in written().values() for labels in family}
    assert {one for values in fixed for one in values.split("|")} <= known


def test_what_is_provisioned_is_what_compose_mounts() -> None:
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
