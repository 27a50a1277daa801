"""The actors in Ray: their names, how they are found, and calls of the controller."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import RayError

from vision_infer.service.errors import UnavailableError

AUTH = "RAY_AUTH_MODE"
"""The environment variable that enables token authentication: https://docs.ray.io/en/latest/ray-security/token-auth.html"""
CALL_S = 20.0
"""The time in which the controller must answer, seconds. It waits up to 15 s when it stops the workers."""
HEAD = "node:__internal_head__"
"""The resource that only the head node of Ray has."""
NAMESPACE = "vision-infer"
CONTROLLER = "controller"


def is_secure() -> bool:
    """Return whether this process uses token authentication. Processes that Ray starts have the environment of their node."""
    return os.environ.get(AUTH, "").lower() == "token"


def raise_priority() -> bool:
    """Give this process the priority of its node; return whether it has it.

    Ray lowers the priority of its workers by ``RAY_worker_niceness``, 15, so that cameras would wait for all other programs.
    """
    try:
        priority = os.getpriority(os.PRIO_PROCESS, os.getppid())
        for thread in os.listdir("/proc/self/task"):  # the priority is that of a thread, which further threads inherit
            os.setpriority(os.PRIO_PROCESS, int(thread), priority)
    except OSError:  # it needs CAP_SYS_NICE
        return False
    return True


def find_controller() -> Any:
    """Return the handle of the controller.

    Raises:
        ValueError: No controller runs.
    """
    return ray.get_actor(CONTROLLER, NAMESPACE)


def worker_name(node_id: str) -> str:
    """Return the name of the actor of a node."""
    return f"worker-{node_id}"


class DisconnectedError(UnavailableError):
    """This process must connect to the cluster again: a connection over Ray Client does not recover by itself."""


def call_controller(method: str, *arguments: object) -> Any:
    """Call the controller from a thread without an event loop, and return its answer.

    Raises:
        DisconnectedError: The connection over Ray Client is lost.
        UnavailableError: The controller does not run, or does not answer.
    """
    try:
        if not ray.is_initialized():
            raise ConnectionError
        return ray.get(getattr(find_controller(), method).remote(*arguments), timeout=CALL_S)
    except ValueError:
        hint = "Start it with: vision-infer serve CONFIG.yaml --cluster auto"
        raise UnavailableError("no vision-infer service runs on this cluster", hint) from None
    except ConnectionError:  # of Ray Client
        raise DisconnectedError("the connection to the head of the cluster is lost", "It is restored automatically.") from None
    except RayError as error:
        what = f"the controller of the cluster does not answer: {type(error).__name__}"
        raise UnavailableError(what, "Try again in a moment.") from None
