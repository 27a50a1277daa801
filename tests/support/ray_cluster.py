"""A Ray cluster of several nodes on this machine, in a process of its own, so that nothing of it remains.

Run as a script, it reads commands as lines of JSON, and answers each with one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.media import ROOT

STORE_BYTES = 80 << 20


class RayCluster:
    """A head without CPUs and named nodes of one CPU, until the context ends.

    Args:
        folder: The home folder of the workers.
        nodes: The names of the nodes.
        cpus: The number of CPUs that each node reports.
        environ: Additional environment variables.
    """

    def __init__(self, folder: Path, *nodes: str, cpus: int = 2, environ: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environ = environ or {}
        self._nodes = nodes
        self._cpus = cpus
        self.address = ""

    def __enter__(self) -> Self:
        environ = {
            **os.environ,
            **self._environ,
            "VISION_INFER_HOME": str(self._folder / "home"),
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self._log = (self._folder / "ray.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self._folder,
            env=environ,
            start_new_session=True,
        )
        self.address = self.order("start")
        for name in self._nodes:
            self.add(name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.order("end")
        finally:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._log.close()

    def add(self, name: str, **labels: str) -> None:
        """Add a node."""
        self.order("add", name, self._cpus, labels)

    def remove(self, name: str) -> None:
        """Kill a node with all its processes, without a chance to say good-bye."""
        self.order("remove", name)

    def kill_controller(self) -> None:
        """Kill the process of the controller; Ray starts it again."""
        self.order("kill_controller")

    def actor_pid(self, name: str) -> int:
        """Return the process id of a node's worker actor, or of the ``controller``."""
        return int(self.order("actor_pid", name))

    def order(self, *words: object) -> Any:
        """Send a command, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self._folder / "ray.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        return json.loads(line)


def main() -> None:
    """Obey the commands on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import ray
    from ray.cluster_utils import Cluster

    cluster: Any = None
    nodes: dict[str, Any] = {}
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        answer: Any = None
        if word == "start":
            head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            ray.init(address=cluster.address, namespace="vision-infer", log_to_driver=False, configure_logging=False)
            answer = cluster.address
        elif word == "add":
            name, cpus, labels = arguments
            nodes[name] = cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES, node_name=name, labels=labels)
        elif word == "remove":
            cluster.remove_node(nodes.pop(arguments[0]), allow_graceful=False)
        elif word == "kill_controller":
            ray.kill(ray.get_actor("controller"), no_restart=False)
        elif word == "actor_pid":
            names = {node["NodeName"]: f"worker-{node['NodeID']}" for node in ray.nodes() if node["Alive"]}
            actor = ray.get_actor(names.get(arguments[0], arguments[0]))
            answer = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
        elif word == "end":
            ray.shutdown()
            cluster.shutdown()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
