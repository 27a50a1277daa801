"""The example flow for Node-RED: topics that the service publishes, and messages through a real Node-RED."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import topic_matches_sub

from tests.support.broker import Broker, Listener
from tests.support.media import ROOT, bikes
from tests.support.other_programs import INSTALL_S, npm_command
from tests.support.serve_process import ServeProcess
from tests.support.waiting import wait_until
from vision_infer.core.scene_event import SCENE_EVENT_SCHEMA
from vision_infer.sink.delivery.home_assistant import Topics

NODE_RED = "node-red@4.1.15"
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


SERVED = """
streams:
  street:
    detect: {clip}
    loop: true
    confidence: 0.4
    zones: {{yard: {{polygon: [[0, 0], [1, 0], [1, 1], [0, 1]], units: relative, min_s: 0}}}}
sinks:
  mqtt:
    house: {{url: "mqtt://127.0.0.1:{port}"}}
"""


def flow_with_output(port: int) -> list[dict[str, Any]]:
    """Return the flow for a broker, with a node that publishes what the debug panel shows."""
    nodes = flow()
    for node in nodes:
        if node["type"] == "mqtt-broker":
            node |= {"broker": "127.0.0.1", "port": str(port)}
        if node["type"] in ("template", "change"):
            node["wires"][0].append("heard")
    heard = {"id": "heard", "type": "mqtt out", "z": "vi-tab", "topic": "heard", "broker": "vi-broker", "x": 9, "y": 9}
    return [*nodes, heard | {"wires": []}]


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_S + 300)
def test_node_red_runs_the_flow_with_messages_of_the_service(tmp_path: Path) -> None:
    command = npm_command(NODE_RED, "node-red")
    folder, log_file = tmp_path / "node-red", tmp_path / "node-red/log"
    folder.mkdir()
    settings = "module.exports = { disableEditor: true, httpAdminRoot: false, httpNodeRoot: false };"
    (folder / "settings.js").write_text(settings, encoding="utf-8")
    with Broker(tmp_path / "broker") as broker, Listener(broker) as listener, log_file.open("wb") as log:
        (folder / "flows.json").write_text(json.dumps(flow_with_output(broker.port)), encoding="utf-8")
        arguments = [str(command), "--userDir", str(folder), "--settings", str(folder / "settings.js"), "flows.json"]
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
        try:
            wait_until(lambda: "Connected to broker" in log_file.read_text(), log_file.read_text, 120)
            with ServeProcess(tmp_path, SERVED.format(clip=bikes(), port=broker.port)) as service:

                def texts() -> set[str]:
                    return {one.payload for one in listener.of("heard")}

                def shown() -> bool:
                    return "street: person entered yard" in texts() and any(text.isdecimal() for text in texts())

                wait_until(shown, lambda: f"{texts()} {log_file.read_text()} {service.log}", 120)
                sentences = [one for one in listener.of("heard") if not one.payload.isdecimal()]
                entered = [one for one in listener.of("vision-infer/street/events") if one.row["kind"] == "enter"]
                assert len(sentences) <= len(entered), "other events get no sentence"
        finally:
            process.terminate()
            process.wait(30)
