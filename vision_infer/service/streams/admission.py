"""Whether the machine can carry one more stream: a rate is granted only where it can be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vision_infer.config.serve import StreamSettings
from vision_infer.service.errors import ConflictError
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import HEADROOM, LEAST, Cost


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for another stream."""

    fps: float
    """results a second that the machine can still promise"""
    binding: str
    """what limits it: cpu or accelerator"""


def room_for(cost: Cost, promised: Mapping[str, float], joins: bool) -> Room | None:
    """What is left for another stream, beside what other streams have been promised.

    Streams that were promised nothing take what is free, and give it back; only their decoding counts. Those that give way
    for now count with what they take otherwise.

    Args:
        cost: as measured.
        promised: results a second, by stream.
        joins: it has to be decoded too, as others are on average; else it is decoded already.

    Returns:
        None where nothing has been measured yet, or not what streams that give way take otherwise.
    """
    streams = cost.undegraded or ()
    measured = [stream for stream in streams if stream.result_fps >= LEAST]
    results = sum(stream.result_fps for stream in measured)
    if results < LEAST:
        return None
    machine = cost.machine
    decoding = sum(stream.decode_cores for stream in streams)
    if joins:
        decoding += decoding / len(streams)
    cores_each = sum(stream.shared_cores for stream in measured) / results
    other = sum(promised.values())
    free = machine.cores * HEADROOM - machine.others - decoding - other * cores_each
    by_cpu = max(0.0, free) / max(cores_each, LEAST)
    engine_each = sum(stream.accelerator or 0.0 for stream in measured) / results
    if engine_each < LEAST:
        return Room(by_cpu, "cpu")
    by_engine = max(0.0, HEADROOM - other * engine_each) / engine_each
    return Room(by_cpu, "cpu") if by_cpu <= by_engine else Room(by_engine, "accelerator")


def check_room(
    name: str,
    settings: StreamSettings,
    streams: Mapping[str, ConfiguredStream],
    cost: Callable[[], Cost],
    joins: bool,
) -> None:
    """Refuse what the machine cannot carry, as far as that has been measured.

    Args:
        name: of the stream.
        settings: what is wanted of it.
        streams: all that there are, by name.
        cost: measures what they take.
        joins: it does not run yet.

    Raises:
        ConflictError: it cannot; with the arithmetic.
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
    hint = "lower its fps or that of other streams, or set best_effort: true"
    if measured.undegraded is None:
        raise ConflictError(f"{name}: needs {wanted:g} fps; how many are left cannot be told: {measured.unknown}", hint)
    room = room_for(measured, promised, joins)
    if room is not None and room.fps < wanted:
        raise ConflictError(f"{name}: needs {wanted:g} fps; {room.fps:.1f} are left, limited by the {room.binding}", hint)
