"""Home Assistant: its own schemas accept the discovery messages, and a running core shows the entities of the service."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.broker import Broker
from tests.support.media import bikes
from tests.support.other_programs import INSTALL_S, python_with
from tests.support.serve_process import ServeProcess
from tests.support.waiting import wait_until
from vision_infer.sink.delivery.home_assistant import Topics, discovery
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * INSTALL_S + 300)]
HOME_ASSISTANT = ("homeassistant==2026.2.3", "numpy", "paho-mqtt", "PyTurboJPEG")
"""Home Assistant, and the packages that it would install when it starts."""
PYTHON = "/usr/bin/python3.13"
"""Home Assistant needs exactly this version."""
FOLDER = Path(__file__).parent
STREAMS = """
streams:
  door-2:
    detect: {clip}
    loop: true
    confidence: 0.4
    classes: [person]
    zones: {{yard: {{polygon: [[0, 0], [1, 0], [1, 1], [0, 1]], units: relative, min_s: 0}}}}
    lines: {{gate: {{units: relative, from: [0.5, 1.0], to: [0.5, 0.0]}}}}
sinks:
  mqtt:
    house: {{url: "mqtt://127.0.0.1:{port}", home_assistant: homeassistant, image_s: 1}}
"""


@pytest.fixture(scope="module")
def command() -> list[str]:
    """Return the Python that has Home Assistant."""
    return [str(python_with(*HOME_ASSISTANT, python=PYTHON, constraints="homeassistant/package_constraints.txt"))]


def environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def check(command: list[str], messages: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Check messages with the schemas."""
    program = [*command, str(FOLDER / "home_assistant_schema.py")]
    text = json.dumps(messages)
    return subprocess.run(program, input=text, env=environ(), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", ["door", "Tür 2 'Süd' {{x}}"])
def test_the_schemas_accept_every_entity(name: str, command: list[str]) -> None:
    stream = StreamSnapshot(name, "{}", True, ("person", "hot dog"), {"yard": 1, name: 0}, {"gate": (1, 2)})
    messages = discovery("homeassistant", Topics("vision-infer", "worker-0"), stream, True)
    assert {topic.split("/")[1] for topic in messages} == {"binary_sensor", "camera", "sensor"}
    done = check(command, messages)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(messages))), done.stderr


def test_the_schemas_refuse_an_unknown_field(command: list[str]) -> None:
    message = {"state_topic": "a/b", "device_class": "nothing", "unique_id": "one"}
    done = check(command, {"homeassistant/binary_sensor/one/config": json.dumps(message)})
    assert done.returncode != 0
    assert "device_class" in done.stderr


class Core:
    """Home Assistant's core as a separate process, connected to a broker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout

    def shown(self) -> dict[str, Any]:
        """Return what a user sees."""
        self._to.write("\n")
        self._to.flush()
        seen = json.loads(self._from.readline())
        assert isinstance(seen, dict)
        return seen


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as one:
        yield one


@pytest.fixture
def core(command: list[str], broker: Broker, tmp_path: Path) -> Iterator[Core]:
    program = [*command, str(FOLDER / "home_assistant_core.py"), str(broker.port)]
    with (tmp_path / "home-assistant.log").open("wb") as log:
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environ(), cwd=tmp_path
        )
        try:
            yield Core(process)
        finally:
            process.communicate(timeout=60)


def test_a_running_core_shows_a_device_for_each_camera(core: Core, broker: Broker, tmp_path: Path) -> None:
    with ServeProcess(tmp_path, STREAMS.format(clip=bikes(), port=broker.port)) as service:
        seen: dict[str, Any] = {}

        def complete() -> bool:
            seen.update(core.shown())
            states = {one["state"] for one in seen["entities"].values()}
            occupied = seen["entities"].get("binary_sensor.door_2_yard_occupied", {}).get("state") == "on"
            return occupied and bool(seen["images"]) and not states & {"unknown", "unavailable"}

        wait_until(complete, lambda: f"{seen} {service.log}", 180)
        assert seen["devices"] == [["door-2", "vision-infer"]]
        classes = {name: one["class"] for name, one in seen["entities"].items()}
        assert classes == {
            "binary_sensor.door_2_camera": "connectivity",
            "binary_sensor.door_2_yard_occupied": "occupancy",
            "camera.door_2_image": None,
            "sensor.door_2_gate_in": None,
            "sensor.door_2_gate_out": None,
            "sensor.door_2_in_yard": None,
            "sensor.door_2_objects": None,
            "sensor.door_2_person": None,
        }
        assert seen["entities"]["binary_sensor.door_2_camera"]["state"] == "on"
        assert base64.b64decode(seen["images"]["camera.door_2_image"]).startswith(b"\xff\xd8\xff")
        assert service.stop()[0] == 0
        wait_until(lambda: {one["state"] for one in core.shown()["entities"].values()} == {"unavailable"}, "all are unavailable")
