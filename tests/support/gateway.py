"""``serve --cluster`` as a separate process, a reader of its rows, and the commands of the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.media import ROOT
from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S, ServeProcess

TOKEN = "the-token-of-the-test"


class Gateway(ServeProcess):
    """``serve --cluster`` with the null engine.

    Args:
        folder: The home folder.
        cluster: The cluster.
        cameras: The URLs of cameras by name.
        options: Further options of ``serve``.
        more: Further settings, lines of YAML.
        address: The address of the cluster; by default, the one of its head.
        secrets: Additional environment variables.
    """

    def __init__(
        self,
        folder: Path,
        cluster: RayCluster,
        cameras: dict[str, str],
        options: tuple[str, ...] = ("--insecure-cluster",),
        more: str = "",
        address: str = "",
        **secrets: str,
    ) -> None:
        streams = "".join(f"  {name}: {{url: '{url}'}}\n" for name, url in cameras.items())
        text = (
            f"model: clock\nengine: null-cpu-none\nservice: {{token: {TOKEN}, inference_protocol: {{grpc_port: 0}}}}\n{more}"
            + (f"streams:\n{streams}" if cameras else "")
        )
        super().__init__(folder, text, arguments=("--port", "0", "--cluster", address or cluster.address, *options), **secrets)
        self.token = TOKEN

    def wait_until_live(self) -> None:
        self.wait(lambda: set(self.states().values()) == {"live"}, "all cameras are live")

    def states(self) -> dict[str, str]:
        return {name: stream["status"]["state"] for name, stream in self.streams().items()}

    def since(self) -> dict[str, str]:
        return {name: stream["status"]["since"] for name, stream in self.streams().items()}


class ClusterRows:
    """Reads results and changes of all cameras on a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.rows: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        request = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/api/v1/results?states=true")
        request.add_header("Authorization", f"Bearer {gateway.token}")
        self._answer = urllib.request.urlopen(request, timeout=LIMIT_S)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        kind = ""
        try:
            for line in self._answer:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    row = json.loads(value) | {"arrived_s": time.monotonic()}
                    (self.changes if kind else self.rows).append(row)
                    kind = ""
        except OSError:  # the gateway was stopped
            return

    def nodes(self) -> dict[str, str]:
        """Return the node of the newest row of each camera."""
        return {row["stream"]: row["node"] for row in list(self.rows)}

    def check_epochs(self) -> None:
        """Check that no row of an older epoch comes after a newer one."""
        newest: dict[str, int] = {}
        for row in list(self.rows):
            assert row["epoch"] >= newest.get(row["stream"], 0)
            newest[row["stream"]] = row["epoch"]


def command(cluster: RayCluster, *words: str, status: int = 0, environ: Mapping[str, str] | None = None) -> str:
    """Run ``vision-infer cluster``; return what it prints. Without an environment with a token, the cluster needs none."""
    line = [sys.executable, "-m", "vision_infer", "cluster", *words, "--cluster", cluster.address]
    line += [] if environ else ["--insecure-cluster"]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT, check=False, env={**os.environ, **(environ or {})}
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr
