"""The connection to a Ray cluster: its security, and the controller, which is started if there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ray

from vision_infer.cluster.controller import Controller
from vision_infer.cluster.names import CONTROLLER, NAMESPACE
from vision_infer.core.errors import UsageError, VisionInferError

HEAD = "node:__internal_head__"
"""The resource that only the head node of Ray has."""
AUTH = "RAY_AUTH_MODE"
"""The environment variable that enables token authentication of Ray: https://docs.ray.io/en/latest/ray-security/token-auth.html"""


def connect(address: str, insecure: bool, environ: Mapping[str, str] = os.environ) -> None:
    """Connect this process to a cluster.

    Args:
        address: ``auto`` for the cluster of this machine, ``HOST:PORT``, or ``ray://HOST:PORT``.
        insecure: Whether a cluster without token authentication is accepted.
        environ: The environment.

    Raises:
        UsageError: The cluster has no token authentication.
        VisionInferError: The cluster cannot be reached.
    """
    if environ.get(AUTH, "").lower() != "token" and not insecure:
        raise UsageError(
            "the Ray cluster has no token authentication: everybody who reaches its port can run programs on all nodes",
            f"Set {AUTH}=token on all nodes and here, or accept it in a closed network with --insecure-cluster.",
        )
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VisionInferError(f"cannot connect to the Ray cluster {address}: {reason}", "Start one with: ray start --head") from None


def open_controller() -> Any:
    """Return the handle of the controller; start it if there is none."""
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
    return ray.remote(Controller).options(**options).remote()
