"""Disconnect cameras repeatedly in a separate process and print the remaining resources.

    python -m tests.support.live_reconnects PORT

Prints a JSON list with the resources after each ten of 60 rounds. PORT is the port of an RTSP server with the mounts ``/clock``
and ``/locked``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

from tests.support.fault_proxy import FaultProxy
from tests.support.live_service import Running, camera
from vision_infer.config.service.reconnect import Reconnect

GOOD = tuple(f"good{number}" for number in range(4))
ROUNDS = (10,) * 6
"""The number of disconnections of all good cameras before each measurement."""
AT_ONCE = Reconnect(min_s=0.01, max_s=0.02, refused_s=0.02)


def look(running: Running, bad: tuple[str, ...]) -> dict[str, object]:
    attempts = sum(event.stream in bad for event in running.events)
    running.clear()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    names = sorted(
        thread.name for thread in threading.enumerate() if not thread.name.startswith(("fault proxy", "connection-guard"))
    )
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": names,
        "reconnects": sum(running.status(name).reconnects for name in GOOD),
        "attempts": attempts,
    }


def main(port: int) -> None:
    with FaultProxy(port) as network:
        well = {name: camera(network.url("/clock"), reconnect=AT_ONCE) for name in GOOD}
        url = f"rtsp://user:s3cret@127.0.0.1:{port}"
        bad = {"unknown": f"{url}/none", "locked": f"{url}/locked", "nobody": "rtsp://user:s3cret@127.0.0.1:9/x"}
        with Running(well | {name: camera(one, reconnect=AT_ONCE) for name, one in bad.items()}) as running:
            measurements = []
            for count in ROUNDS:
                for _ in range(count):
                    for name in GOOD:
                        running.wait_for_results(name, 1)
                    network.drop()
                measurements.append(look(running, tuple(bad)))
    print(json.dumps(measurements))


if __name__ == "__main__":
    main(int(sys.argv[1]))
