"""The names of the actors in Ray, and how they are found."""

from __future__ import annotations

from typing import Any

import ray

NAMESPACE = "vision-infer"
CONTROLLER = "controller"


def find_controller() -> Any:
    """Return the handle of the controller.

    Raises:
        ValueError: No controller runs.
    """
    return ray.get_actor(CONTROLLER, NAMESPACE)


def worker_name(node_id: str) -> str:
    """Return the name of the actor of a node."""
    return f"worker-{node_id}"
