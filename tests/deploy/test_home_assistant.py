"""Home Assistant's own schemas accept the discovery messages, for streams with any names."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from vision_infer.sink.delivery.home_assistant import Topics, discovery
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot

CHECK = Path(__file__).with_name("home_assistant_schema.py")


def check(messages: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Check messages with a Python that has the packages homeassistant, numpy, paho-mqtt and PyTurboJPEG."""
    python = os.environ.get("HOME_ASSISTANT_PYTHON")
    if python is None:
        pytest.skip("HOME_ASSISTANT_PYTHON is not set")
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    text = json.dumps(messages)
    return subprocess.run([python, CHECK], input=text, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["door", "Tür 2 'Süd' {{x}}"])
def test_the_schemas_accept_every_entity(name: str) -> None:
    stream = StreamSnapshot(name, "{}", True, ("person", "hot dog"), {"yard": 1, name: 0}, {"gate": (1, 2)})
    messages = discovery("homeassistant", Topics("vision-infer", "worker-0"), stream, True)
    assert {topic.split("/")[1] for topic in messages} == {"binary_sensor", "camera", "sensor"}
    done = check(messages)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(messages))), done.stderr


@pytest.mark.slow
def test_the_schemas_refuse_an_unknown_field() -> None:
    message = {"state_topic": "a/b", "device_class": "nothing", "unique_id": "one"}
    done = check({"homeassistant/binary_sensor/one/config": json.dumps(message)})
    assert done.returncode != 0
    assert "device_class" in done.stderr
