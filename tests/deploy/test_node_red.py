"""The example flow for Node-RED: topics that the service publishes, and messages through a real Node-RED."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import topic_matches_sub

from tests.sink.mqtt_site import Site
from tests.support.broker import Broker, Listener
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA
from vision_infer.sink.delivery.home_assistant import Topics

TOPICS = Topics("vision-infer")
OF_NODE_RED = {"tab", "mqtt-broker", "mqtt in", "switch", "template", "change", "debug"}


def flow() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = json.loads((ROOT / "deploy" / "node-red" / "flows.json").read_text(encoding="utf-8"))
    return nodes


def test_the_flow_reads_topics_and_fields_that_the_service_publishes() -> None:
    nodes = flow()
    known = {node["id"] for node in nodes}
    assert len(known) == len(nodes)
    assert {node["type"] for node in nodes} == OF_NODE_RED
    assert {wire for node in nodes for wires in node.get("wires", []) for wire in wires} < known
    published = [TOPICS.of("yard", part) for part in ("events", "counts")]
    subscribed = [node["topic"] for node in nodes if node["type"] == "mqtt in"]
    assert [topic_matches_sub(wanted, topic) for wanted, topic in zip(subscribed, published, strict=True)] == [True, True]
    (template,) = (node["template"] for node in nodes if node["type"] == "template")
    assert {"kind", "label", "place"} <= SCENE_EVENT_SCHEMA["properties"].keys()
    assert template == "{{payload.stream}}: {{payload.label}} entered {{payload.place}}"


@pytest.mark.slow
def test_node_red_runs_the_flow(tmp_path: Path) -> None:
    command = os.environ.get("NODE_RED") or shutil.which("node-red")
    if command is None:
        pytest.skip("node-red is not installed")
    with Broker(tmp_path / "broker") as broker:
        nodes = flow()
        for node in nodes:
            if node["type"] == "mqtt-broker":
                node |= {"broker": "127.0.0.1", "port": str(broker.port)}
            if node["type"] in ("template", "change"):
                node["wires"][0].append("heard")
        heard = {"id": "heard", "type": "mqtt out", "z": "vi-tab", "topic": "heard", "broker": "vi-broker", "x": 9, "y": 9}
        folder = tmp_path / "node-red"
        folder.mkdir()
        (folder / "flows.json").write_text(json.dumps([*nodes, heard | {"wires": []}]), encoding="utf-8")
        settings = "module.exports = { disableEditor: true, httpAdminRoot: false, httpNodeRoot: false };"
        (folder / "settings.js").write_text(settings, encoding="utf-8")
        arguments = [command, "--userDir", str(folder), "--settings", str(folder / "settings.js"), "flows.json"]
        with Listener(broker) as listener, (folder / "log").open("wb") as log:
            process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
            try:
                log_file = folder / "log"
                wait_until(lambda: "Connected to broker" in log_file.read_text(), log_file.read_text, 120)
                site = Site(tmp_path, broker.port, topics=TOPICS)
                row = {"type": "event", "stream": "door", "kind": "enter", "place": "yard", "label": "person"}
                site.delivery.put("events", "door", lambda: json.dumps(row))
                site.delivery.put("events", "door", lambda: json.dumps(row | {"kind": "leave"}))
                site.carrier.count("door", {"person": 2})

                def texts() -> set[str]:
                    return {one.payload for one in listener.of("heard")}

                wait_until(lambda: {"door: person entered yard", "2"} <= texts(), lambda: f"{texts()} {log_file.read_text()}")
                assert not any("leave" in text for text in texts())
                site.delivery.close()
            finally:
                process.terminate()
                process.wait(30)
