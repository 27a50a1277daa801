"""The cameras and nodes of a cluster as the controller knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Plain = dict[str, Any]


@dataclass(slots=True)
class DesiredCamera:
    """A camera and its owner."""

    given: Plain
    """``settings`` and ``origin``, as :func:`streams_to_plain` returns them; with passwords."""
    weight: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    epoch: int = 0
    granted: bool = False
    """Whether the node may run it: no other node does."""
    cost: float | None = None
    """The cores that it uses; None if not measured."""
    kind: str = ""
    """The kind of machine on which the cost was measured."""
    reason: str = ""
    """Why it does not run, or does not leave a drained node."""

    @property
    def expected_cost(self) -> float | None:
        """The cores that it uses, if known; a disabled camera uses none."""
        return self.cost if self.given["settings"].get("enabled", True) else 0.0

    def plain(self) -> Plain:
        """Return what the worker needs to run the camera, and what a restarted controller needs to take it over."""
        return {**self.given, "epoch": self.epoch, "weight": self.weight, "labels": dict(self.labels)}


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A machine in Ray's list of nodes, or the part of it that belongs to one of its GPUs."""

    labels: Mapping[str, str]
    cores: float
    machine: str = ""
    """The name of the machine, if it has several parts."""


@dataclass(slots=True)
class KnownNode:
    """A node and the last report of its worker."""

    labels: Mapping[str, str]
    cores: float
    machine: str
    heard_ns: int
    """The time of the last report of a process that responds, or of the discovery of the node."""
    contact_ns: int
    """The time of the last report, also of one that says that the process does not respond."""
    joined: bool = False
    """Whether its worker has reported."""
    process: str = ""
    """The process that runs the cameras; a different one has started again."""
    up: bool = False
    ready: bool = False
    reason: str = "starting"
    starts: int = 0
    failing: bool = False
    """Whether its process cannot start, for example because its GPU is gone."""
    running: frozenset[str] = frozenset()
    """The cameras that it has not let go."""
    draining: bool = False
    lost: bool = False
    kind: str = ""
    """The kind of machine: nodes of one kind are equally fast."""
    parked: bool = False
    """Whether its worker was ended because it has no cameras, so that Ray's autoscaler can remove the node."""
    idle_since_ns: int | None = None
    """The time since which it has no cameras."""
    over_since_ns: int | None = None
    next_start_ns: int = 0
    """The time at which it may start another camera, monotonic nanoseconds."""
    orders: tuple[Plain, ...] = ()
    version: int = 0
    """Changes with the orders."""


def camera_from_plain(plain: Plain) -> DesiredCamera:
    """Return a camera from plain values: ``settings``, ``origin``, ``weight``, ``labels``, and ``node`` if it runs there."""
    given = {"settings": plain["settings"], "origin": plain["origin"]}
    return DesiredCamera(given, plain["weight"], plain["labels"], plain.get("node"))
