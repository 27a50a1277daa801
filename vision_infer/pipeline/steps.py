"""What is done with a stream's candidates on their way to a result; made from the command, and replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.analyze.region import Filter
from vision_infer.analyze.select import Selector
from vision_infer.analyze.track import Tracker
from vision_infer.analyze.zones import Zones
from vision_infer.core.card import ModelCard
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hook import GuardedHook, load_hook
from vision_infer.pipeline.lanes.lane import class_id


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one stream."""

    lane: str
    """that they are made for; a frame that is still in another has that lane's choice"""
    selector: Selector | None
    """None: the lane's"""
    keep: Filter | None
    tracker: Tracker | None
    zones: Zones | None
    hook: GuardedHook | None


def make_steps(
    command: AddStream, card: ModelCard, hook: GuardedHook | None, before: tuple[AddStream, Steps] | None = None
) -> Steps:
    """The steps that a command asks for.

    Args:
        command: what is wanted of the stream.
        card: of the network, for the labels of zones.
        hook: of all streams; the command's own comes before it.
        before: what held so far; what has not changed goes on with its memory, tracks and counts.

    Raises:
        UsageError: the hook cannot be loaded, or a zone names an unknown class.
    """
    old, kept = before or (None, None)
    if old is not None and old.lane != command.lane:  # another network has other classes
        old, kept = None, None
    tracker: Tracker | None = None
    zones: Zones | None = None
    if command.track is not None:
        tracker = None if kept is None else kept.tracker
        if tracker is None:
            tracker = Tracker(confidence=command.track, per_class=command.track_per_class)
        elif old is not None and kept is not None and (command.zones, command.lines) == (old.zones, old.lines):
            zones = kept.zones
        if zones is None and (command.zones or command.lines):
            zones = Zones(command.zones, command.lines, lambda label: class_id(card, label))
    policy = command.policy
    keep = Filter(policy.min_size, command.region) if policy.min_size or command.region else None
    own = None if policy.hook is None else GuardedHook(load_hook(policy.hook), policy.hook)
    if tracker is not None and command.track is not None:  # last: what fails above changes nothing
        tracker.confidence, tracker.per_class = command.track, command.track_per_class
    return Steps(command.lane, command.selector, keep, tracker, zones, own or hook)
