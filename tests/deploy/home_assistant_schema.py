"""Checks the discovery messages on standard input with Home Assistant's own schemas; run by a Python that has it."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile


async def main() -> None:
    """Check the messages, and print their number."""
    messages = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        hass = importlib.import_module("homeassistant.core").HomeAssistant(
            folder
        )  # templates are checked by the running instance
        for topic, message in messages.items():
            component = importlib.import_module(f"homeassistant.components.mqtt.{topic.split('/')[1]}")
            component.DISCOVERY_SCHEMA(json.loads(message))
        await hass.async_stop(force=True)
    sys.stdout.write(f"{len(messages)}\n")


asyncio.run(main())
