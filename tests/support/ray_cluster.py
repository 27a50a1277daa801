"""A Ray cluster of several nodes on this machine, in a separate process, so that nothing of it remains.

Run as a script, it reads commands as lines of JSON, and answers each with one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.free_port import free_port
from tests.support.media import ROOT
from tests.support.waiting import wait_until

STORE_BYTES = 80 << 20


HEAD_TYPE = "ray.head.default"
HEAD_ID = "f" * 51 + "00000"
"""The type and the id of the head node that Ray's provider of synthetic nodes expects."""


class RayCluster:
    """A head without CPUs and named nodes of one CPU, until the context ends.

    Args:
        folder: The home folder of the workers.
        nodes: The names of the nodes.
        cpus: The number of CPUs that each node reports.
        environ: Additional environment variables.
        client: Whether the head accepts Ray Client.
    """

    start = "start"
    """The command that starts the head."""

    def __init__(
        self, folder: Path, *nodes: str, cpus: int = 2, environ: Mapping[str, str] | None = None, client: bool = False
    ) -> None:
        self._folder = folder
        self._environ = environ or {}
        self._nodes = nodes
        self._cpus = cpus
        self._client_port = free_port() if client else 0
        self.address = ""
        self.client_address = f"ray://127.0.0.1:{self._client_port}"

    def __enter__(self) -> Self:
        environ = {
            **os.environ,
            "VISION_INFER_HOME": str(self._folder / "home"),
            "PYTHONPATH": str(ROOT),
            **self._environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",  # a loaded machine can need more than 30 s
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
        self.address = self.order(self.start, *([self._client_port] if self._client_port else []))
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

    def add(self, name: str, gpus: int = 0, **labels: str) -> None:
        """Add a node. Its GPUs do not have to exist."""
        self.order("add", name, self._cpus, gpus, labels)

    def remove(self, name: str) -> None:
        """Kill a node with all its processes, without a chance to say good-bye."""
        self.order("remove", name)

    def kill_everything(self) -> None:
        """Kill all nodes and the head."""
        self.order("kill_everything")

    def start_again(self) -> None:
        """Start the head again, on the same ports and without its state, and the nodes."""
        self.order("start_head", self._client_port, int(self.address.rpartition(":")[2]))
        for name in self._nodes:
            self.add(name)

    def kill_controller(self) -> None:
        """Kill the process of the controller; Ray starts it again."""
        self.order("kill_controller")

    def actor_pid(self, name: str) -> int:
        """Return the process id of a node's worker actor, or of the ``controller``; 0 while Ray starts it again."""
        return int(self.order("actor_pid", name))

    def set_costs(self, cores: float) -> None:
        """Make the controller believe that each camera uses this number of cores, until it is measured again."""
        self.order("set_costs", cores)

    def stop_streams(self, name: str) -> None:
        """Make the process of a node stop its streams, without the knowledge of its worker."""
        self.order("stop_streams", name)

    @property
    def session(self) -> Path:
        """Ray's folder with the logs of all nodes."""
        return Path(self.order("session"))

    def order(self, *words: object) -> Any:
        """Send a command, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self._folder / "ray.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        return json.loads(line)


class AutoscalingCluster(RayCluster):
    """A head without CPUs, to which Ray's autoscaler adds a node of two CPUs on request, and removes it after 6 s without use.

    Ray's own class of this name ends all processes of Ray on this machine.
    """

    start = "start_autoscaling"

    def set_idle(self, seconds: float) -> None:
        """Set the time after which the controller releases a node without cameras."""
        self.order("set_idle", seconds)


def _set_idle(controller: Any, seconds: float) -> None:
    from vision_infer.cluster import autoscale

    del controller
    autoscale.IDLE_S = seconds


def _start_autoscaling() -> str:
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    types = {
        HEAD_TYPE: {"resources": {}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2, "object_store_memory": STORE_BYTES}, "node_config": {}, "max_workers": 1},
    }
    provider = {"type": "fake_multinode", "gcs_address": address, "use_node_id_as_ip": True}
    checks = {"disable_node_updaters": True, "disable_launch_config_check": True}
    config: dict[str, Any] = {"cluster_name": "test", "max_workers": 1, "idle_timeout_minutes": 0.1, "upscaling_speed": 1.0}
    config |= {
        "provider": provider | checks,
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        "docker": {},
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }
    config |= {f"{one}_commands": [] for one in ("initialization", "setup", "head_setup", "worker_setup")}
    config |= {f"{one}_start_ray_commands": [] for one in ("head", "worker")}
    config |= {"cluster_synced_files": [], "file_mounts": {}, "rsync_exclude": [], "rsync_filter": []}
    Path("autoscaling.json").write_text(json.dumps(config), encoding="utf-8")
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={address.rpartition(':')[2]}"]
    line += ["--num-cpus=0", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", "--disable-usage-stats"]
    line += ["--min-worker-port=0", "--max-worker-port=0"]  # by default a range that the port of the head may be in
    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    subprocess.Popen([*line, "--autoscaling-config=autoscaling.json"], env=os.environ | own, stdin=subprocess.DEVNULL)
    wait_until(lambda: _listens(address))
    return address


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1.0):
        return True
    return False


def _stop_streams(worker: Any) -> None:
    from vision_infer.service.processes.worker_settings import settings_to_plain

    settings = settings_to_plain(worker._start().settings.model_copy(update={"streams": {}}))
    worker._process.send(json.dumps({"settings": settings, "streams": {}, "removed": list(worker._orders["cameras"])}))


def _set_costs(controller: Any, cores: float) -> None:
    for camera in controller._desired.cameras.values():
        camera.cost = cores
    controller._desired.version += 1


class _Commands:
    """The commands of :class:`RayCluster`, in the process of the cluster."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._nodes: dict[str, Any] = {}

    def start(self, client_port: int = 0) -> str:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        return self.start_head(client_port)

    def start_head(self, client_port: int, port: int = 0) -> str:
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        ports = {"ray_client_server_port": client_port or None, "gcs_server_port": port or None}
        self._cluster.add_node(**head, **{name: value for name, value in ports.items() if value})
        return self._connect(self._cluster.address)

    def kill_everything(self) -> None:
        self._ray.shutdown()
        for name in list(self._nodes):
            self.remove(name)
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def start_autoscaling(self) -> str:
        return self._connect(_start_autoscaling())

    def _connect(self, address: str) -> str:
        import ray

        ray.init(address=address, namespace="vision-infer", log_to_driver=False, configure_logging=False)
        self._ray = ray
        return address

    def add(self, name: str, cpus: int, gpus: int, labels: dict[str, str]) -> None:
        size = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": STORE_BYTES}
        self._nodes[name] = self._cluster.add_node(**size, node_name=name, labels=labels)

    def remove(self, name: str) -> None:
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def nodes(self) -> int:
        return sum(node["Alive"] for node in self._ray.nodes())

    def actors(self) -> list[str]:
        return [one["name"] for one in self._ray.util.list_named_actors(all_namespaces=True)]

    def kill_controller(self) -> None:
        self._ray.kill(self._ray.get_actor("controller"), no_restart=False)

    def actor_pid(self, name: str) -> int:
        try:
            return int(self._call(name, lambda _: os.getpid()))
        except self._ray.exceptions.ActorUnavailableError:
            return 0

    def stop_streams(self, name: str) -> None:
        self._call(name, _stop_streams)

    def set_costs(self, cores: float) -> None:
        self._call("controller", _set_costs, cores)

    def set_idle(self, seconds: float) -> None:
        self._call("controller", _set_idle, seconds)

    def _call(self, name: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function with the actor's object in the actor's process."""
        names = {node["NodeName"]: f"worker-{node['NodeID']}" for node in self._ray.nodes() if node["Alive"]}
        return self._ray.get(self._ray.get_actor(names.get(name, name)).__ray_call__.remote(function, *arguments))

    def session(self) -> str:
        return str(self._cluster.head_node.get_session_dir_path())

    def end(self) -> None:
        self._ray.shutdown()
        if self._cluster is not None:
            self._cluster.shutdown()


def main() -> None:
    """Obey the commands on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands = _Commands()
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        answers.write(json.dumps(getattr(commands, word)(*arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
