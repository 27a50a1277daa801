"""Runs Home Assistant's core with its MQTT integration; run by a Python that has it.

For each line of standard input, it prints a JSON object on standard output: the devices, the entities with their states, and the
images of the cameras.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


def module(name: str) -> Any:
    """Return a module of Home Assistant, which this project's environment does not have."""
    return importlib.import_module(f"homeassistant.{name}")


async def shown(hass: Any) -> dict[str, Any]:
    """Return what a user sees."""
    entities, images = {}, {}
    for state in hass.states.async_all():
        entities[state.entity_id] = {"state": state.state, "name": state.name, "class": state.attributes.get("device_class")}
        if state.domain == "camera":
            with suppress(module("exceptions").HomeAssistantError):  # there is no image yet
                image = await module("components.camera").async_get_image(hass, state.entity_id)
                images[state.entity_id] = base64.b64encode(image.content).decode()
    devices = module("helpers.device_registry").async_get(hass).devices.values()
    return {"devices": [[one.name, one.manufacturer] for one in devices], "entities": entities, "images": images}


async def main(port: int) -> None:
    """Connect to the broker on a port as a user does, and print the entities when a line of standard input asks for them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "configuration.yaml").touch()
        hass = module("core").HomeAssistant(folder)
        hass.config.skip_pip = True
        module("loader").async_setup(hass)
        hass.config_entries = module("config_entries").ConfigEntries(hass, {})
        await module("bootstrap").async_load_base_functionality(hass)
        hass.auth = await module("auth").auth_manager_from_config(hass, [{"type": "homeassistant"}], [])
        flows = hass.config_entries.flow
        flow = await flows.async_init("mqtt", context={"source": "user"})
        flow = await flows.async_configure(flow["flow_id"], {"broker": "127.0.0.1", "port": port})
        if flow["type"] != "create_entry":
            raise SystemExit(f"the MQTT integration was not added: {flow}")
        await hass.async_start()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(await shown(hass)) + "\n")
            sys.stdout.flush()
        await hass.async_stop(force=True)


asyncio.run(main(int(sys.argv[1])))
