"""The steps from a stream's candidates to its results. They are made from the command, and replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.analyze.camera_motion import CameraMotion
from vision_infer.analyze.identity.gallery import Galleries
from vision_infer.analyze.identity.identities import Identities
from vision_infer.analyze.region import Filter
from vision_infer.analyze.select import Selector
from vision_infer.analyze.track import Tracker
from vision_infer.analyze.zones import Zones
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import Clock
from vision_infer.core.packages import require
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.hooks.stage import HookStage, open_hooks
from vision_infer.pipeline.lanes.lane import class_groups, class_id


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one stream."""

    lane: str
    """The lane that the selector is for; frames that are still in another lane use that lane's selector."""
    selector: Selector | None
    """The stream's own selector; None: the lane's selector is used."""
    keep: Filter | None
    tracker: Tracker | None
    zones: Zones | None
    hooks: HookStage | None
    camera: CameraMotion | None = None
    """Compensates the motion of the camera; None: the camera stands still."""
    identities: Identities | None = None
    """Re-identifies the tracks after the secondary model."""


def make_steps(
    command: AddStream,
    card: ModelCard,
    hook: Hook | None,
    clock: Clock,
    before: tuple[AddStream, Steps] | None = None,
    galleries: Galleries | None = None,
) -> Steps:
    """Make the steps of a command.

    Args:
        command: What to do with the stream.
        card: The card of the model, for the labels of zones.
        hook: The hook of all streams; the command's own hooks replace it.
        clock: The monotonic clock.
        before: The previous command and steps. Steps that have not changed keep their state: tracks, counts and identities.
        galleries: The identities that cameras share; None: this camera's own.

    Raises:
        UsageError: The hook cannot be loaded, OpenCV is missing for the tracker, or a zone names an unknown class.
    """
    old, kept = before or (None, None)
    if old is not None and old.lane != command.lane:  # another model has other classes
        old, kept = None, None
    tracker: Tracker | None = None
    zones: Zones | None = None
    if command.track is not None:
        tracker = None if kept is None else kept.tracker
        if tracker is None:
            tracker = Tracker()
        elif old is not None and kept is not None and (command.zones, command.lines) == (old.zones, old.lines):
            zones = kept.zones
        if zones is None and (command.zones or command.lines):
            zones = Zones(
                command.zones,
                command.lines,
                lambda label: class_id(card, label),
                interval_s=command.counts_interval_s,
                intervals=command.count_intervals,
            )
    policy = command.policy
    camera: CameraMotion | None = None
    if tracker is not None and policy.tracker == "bytetrack-cmc":
        require("tracker bytetrack-cmc", "cv2")
        camera = (kept.camera if kept is not None else None) or CameraMotion()
    keep = Filter(policy.min_size, command.region) if policy.min_size or command.region else None
    identities = _identities(command, tracker, before, galleries or Galleries())
    hooks = None if before is None else before[1].hooks
    if before is None or hooks is None:
        hooks = open_hooks(command.source.name, policy.hook, hook, clock)
    elif policy.hook != before[0].policy.hook:
        hooks.change(policy.hook)
    if tracker is not None and command.track is not None:  # last: a failure above must change nothing
        tracker.confidence, tracker.per_class = command.track, command.track_per_class
        tracker.agnostic, tracker.groups = policy.compared != "per_class", class_groups(card, policy.compared)
        tracker.floor = policy.track_floor
        tracker.classes = command.track_classes
        if identities is not None and policy.reidentify is not None:
            identities.threshold, identities.timeout_s = policy.reidentify.threshold, policy.reidentify.timeout_s
    return Steps(command.lane, command.selector, keep, tracker, zones, hooks, camera, identities)


def _identities(
    command: AddStream, tracker: Tracker | None, before: tuple[AddStream, Steps] | None, galleries: Galleries
) -> Identities | None:
    """Return the identities of a stream. Those of earlier steps stay known, also if another model has begun new tracks."""
    wanted = command.policy.reidentify
    if wanted is None or tracker is None:
        return None
    old = None if before is None else before[0].policy.reidentify
    kept = None if before is None or old is None or old.group != wanted.group else before[1].identities
    if before is not None and kept is not None and before[1].tracker is tracker:
        return kept
    return Identities(galleries.of(wanted.group, command.secondary) if kept is None else kept.gallery)
