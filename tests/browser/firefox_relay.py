"""Runs Firefox for Playwright, and answers the one command of WebDriver BiDi that Firefox ESR does not have.

Playwright sends ``emulation.setMediaFeaturesOverride`` for each new context. The command is from 2026
(https://github.com/w3c/webdriver-bidi/pull/1076), and Firefox ESR 153 answers "unknown command", so that no context opens.

    python firefox_relay.py /usr/bin/firefox-esr --headless …
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

MISSING = "emulation.setMediaFeaturesOverride"


async def main(program: str, *arguments: str) -> int:
    """Run Firefox; return its exit status. Its standard error has the URL of the relay in place of that of Firefox."""
    firefox = await asyncio.create_subprocess_exec(program, *arguments, stderr=PIPE)
    assert firefox.stderr is not None
    own = ""

    async def relay(playwright: ServerConnection) -> None:
        async with connect(own + "/session", max_size=None, proxy=None) as session:

            async def answers() -> None:
                async for message in session:
                    await playwright.send(message)

            answering = asyncio.create_task(answers())
            try:
                async for message in playwright:
                    command = json.loads(message)
                    if command["method"] == MISSING:
                        await playwright.send(json.dumps({"type": "success", "id": command["id"], "result": {}}))
                    else:
                        await session.send(message)
            except ConnectionClosed:
                pass
            finally:
                answering.cancel()

    async with serve(relay, "127.0.0.1", 0, max_size=None) as server:
        async for line in firefox.stderr:
            text = line.decode(errors="replace")
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", text):
                own = found[1]
                text = text.replace(own, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            sys.stderr.write(text)
            sys.stderr.flush()
        return await firefox.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
