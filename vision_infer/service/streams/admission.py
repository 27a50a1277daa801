"""Admission control: a stream's frame rate is accepted only if the machine has enough capacity for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vision_infer.config.serve import StreamSettings
from vision_infer.service.errors import ConflictError
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import EPSILON, HEADROOM, Cost


@dataclass(frozen=True, slots=True)
class SpareCapacity:
    """The remaining capacity for another stream."""

    fps: float
    """The remaining rate, results per second."""
    binding: str
    """The limiting resource: ``cpu`` or ``accelerator``."""


def spare_capacity(cost: Cost, promised: Mapping[str, float], joins: bool) -> SpareCapacity | None:
    """Calculate the remaining capacity for another stream, after the guaranteed rates of the other streams.

    Streams without a guaranteed rate use free capacity and release it when needed, so that only their decoding counts.
    Degraded streams count with their cost at full quality.

    Args:
        cost: The measured costs.
        promised: The guaranteed rates by stream, results per second.
        joins: Whether the stream is not decoded yet; the average decoding cost is then added.

    Returns:
        The capacity; None if nothing has been measured yet, or the full cost of a degraded stream is unknown.
    """
    streams = cost.undegraded or ()
    measured = [stream for stream in streams if stream.result_fps >= EPSILON]
    results = sum(stream.result_fps for stream in measured)
    if results < EPSILON:
        return None
    machine = cost.machine
    decoding = sum(stream.decode_cores for stream in streams)
    if joins:
        decoding += decoding / len(streams)
    cores_each = sum(stream.shared_cores for stream in measured) / results
    other = sum(promised.values())
    free = machine.cores * HEADROOM - machine.others - decoding - other * cores_each
    by_cpu = max(0.0, free) / max(cores_each, EPSILON)
    engine_each = sum(stream.accelerator or 0.0 for stream in measured) / results
    if engine_each < EPSILON:
        return SpareCapacity(by_cpu, "cpu")
    by_engine = max(0.0, HEADROOM - other * engine_each) / engine_each
    return SpareCapacity(by_cpu, "cpu") if by_cpu <= by_engine else SpareCapacity(by_engine, "accelerator")


def check_capacity(
    name: str,
    settings: StreamSettings,
    streams: Mapping[str, ConfiguredStream],
    cost: Callable[[], Cost],
    joins: bool,
) -> None:
    """Reject a stream that needs more than the measured remaining capacity.

    Args:
        name: The name of the stream.
        settings: The settings of the stream.
        streams: All existing streams by name.
        cost: Returns the measured costs.
        joins: Whether the stream is not running yet.

    Raises:
        ConflictError: The capacity is too small; the message contains the figures.
    """
    wanted = settings.fps
    if wanted is None or settings.best_effort or not settings.enabled:
        return
    promised = {
        other: stream.settings.fps
        for other, stream in streams.items()
        if other != name and stream.settings.enabled and stream.settings.fps is not None and not stream.settings.best_effort
    }
    measured = cost()
    hint = "Lower the fps of this or other streams, or set best_effort: true."
    if measured.undegraded is None:
        raise ConflictError(f"{name}: needs {wanted:g} fps; the remaining capacity is unknown: {measured.unknown}", hint)
    spare = spare_capacity(measured, promised, joins)
    if spare is not None and spare.fps < wanted:
        message = f"{name}: needs {wanted:g} fps; {spare.fps:.1f} fps are available, limited by the {spare.binding}"
        raise ConflictError(message, hint)
