"""The connection to a Ray cluster: its security, and the controller, which is started if there is none."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from itertools import count
from typing import Any

import ray
from ray._private import worker

from vision_infer.cluster.actors import AUTH, CONTROLLER, HEAD, NAMESPACE, call_controller, find_controller, is_secure
from vision_infer.cluster.controller import Controller
from vision_infer.core.errors import UsageError, VisionInferError

START_S = 60.0
"""The time that the head has to start a process, seconds."""
ATTEMPTS = 3
"""The number of times that the head is asked for a process for this client."""
_NO_PROCESS = "Starting Ray client server failed"
MAX_REASON = 400
"""The maximum length of an error of Ray that is shown, characters."""
_log = logging.getLogger("vision_infer.cluster")


def connect(address: str, insecure: bool) -> None:
    """Connect this process to a cluster, from its main thread; over Ray Client, any thread can also connect it again.

    Args:
        address: ``auto`` for the cluster of this machine, ``HOST:PORT``, or ``ray://HOST:PORT``.
        insecure: Whether a cluster without token authentication is accepted.

    Raises:
        UsageError: The head node does not use token authentication.
        VisionInferError: The cluster cannot be reached.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _open_connection(address)
        # A process with a token can also use a cluster that does not ask for it. Tasks have the environment of their node.
        task = None if insecure else ray.remote(is_secure).options(num_cpus=0, resources={HEAD: 0.001})
        secure = task is None or ray.get(task.remote(), timeout=START_S)
    except Exception as error:  # noqa: BLE001 - RuntimeError, ConnectionError, ValueError, and errors of Ray
        what = f"cannot connect to the Ray cluster {address}: {_reason_of(error)}"
        raise VisionInferError(what, "Start one with 'ray start --head', and use its token on all machines.") from None
    for number, handler in handlers.items():  # Ray replaces them, and SIGTERM would end this process at once
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    if not secure:
        raise UsageError(
            "the Ray cluster has no token authentication: everybody who reaches its port can run programs on all nodes",
            f"Set {AUTH}=token on all nodes and here, or accept it in a closed network with --insecure-cluster.",
        )


def _open_connection(address: str) -> None:
    # Ray prints its messages to standard output, where rows, tables and JSON are, whatever ``log_to_driver`` is:
    # https://github.com/ray-project/ray/issues/9616
    worker.print_to_stdstream = _log_message
    for attempt in count(1):
        ray.shutdown()  # a lost connection must be closed first
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
            return
        except Exception as error:
            # The head starts a process for each client. On a head that has just started, that process can end at once.
            if _NO_PROCESS not in str(error) or attempt == ATTEMPTS:
                raise


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001 - the signature is Ray's
    for line in "\n".join(data["lines"]).splitlines():
        _log.info("Ray: %s", line[:MAX_REASON])


def _reason_of(error: Exception) -> str:
    """Return an error of Ray, which can have many lines, as one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def open_controller() -> None:
    """Start the controller if there is none."""
    options = {
        "name": CONTROLLER,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "resources": {HEAD: 0.001},  # next to Ray's own control service; the loss of another node then never costs both
        "max_restarts": -1,
        "max_concurrency": 10_000,
    }
    ray.remote(Controller).options(**options).remote()


def stop_cluster() -> None:
    """Stop all workers and the controller.

    Raises:
        UnavailableError: No service runs, or the controller does not answer.
    """
    call_controller("stop")
    ray.kill(find_controller())
