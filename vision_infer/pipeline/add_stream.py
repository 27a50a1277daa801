"""From a stream's policy to the command that adds the stream; runs over files and the service share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vision_infer.analyze.similar import with_groups
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import UsageError
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, class_groups, classes_by_number, make_selector, scores_by_class
from vision_infer.stream.source import SourceSpec


def add_stream(source: SourceSpec, lane: Lane, policy: StreamPolicy, **fields: Any) -> AddStream:
    """Return the command that adds a stream.

    Args:
        source: Where its frames come from.
        lane: The lane, or one lane of the group, that infers its frames.
        policy: The settings of the stream.
        fields: The other fields of the command.

    Raises:
        UsageError: The model does not know a class of the policy, or has no detections for tiles.
    """
    card = lane.engine.card
    if card.task == "keypoints":
        message = f"{card.name} finds the keypoints of one object, in the crop of a detection"
        raise UsageError(message, "Choose it as the secondary model of a detector.")
    if card.task != "detect" and (policy.tiles is not None or policy.crop_region):
        hint = "Leave them out, or choose a model for 'detect'."
        raise UsageError(f"tiles and crop_region: {card.name} is a model for '{card.task}' and has no detections to join", hint)
    reported = card.confidence if policy.confidence is None else policy.confidence
    reported_by_class = scores_by_class(card, policy.per_class)
    selected, selected_by_class = reported, reported_by_class
    if policy.tracked:  # a tracker finds lost objects again by their detections of low confidence
        selected = min(reported, policy.track_floor)
        selected_by_class = {number: min(score, policy.track_floor) for number, score in reported_by_class.items()}
    groups = class_groups(card, policy.compared)
    selector = make_selector(card, selected, policy.iou, policy.classes, selected_by_class, groups)
    if policy.tracked and selector.classes is not None:
        # The class of a track is decided by vote: its detections of similar classes are needed, and the tracker filters.
        selector = replace(selector, classes=with_groups(selector.classes, groups))
    return AddStream(
        source,
        lane.group,
        policy=policy,
        track=reported if policy.tracked else None,
        track_per_class=reported_by_class,
        track_classes=classes_by_number(card, policy.classes),
        selector=selector,
        **fields,
    )


def check_secondary(where: str, primary: ModelCard | None = None, secondary: ModelCard | None = None) -> None:
    """Refuse a secondary model that cannot describe the detections of the primary model.

    Args:
        where: The option or setting that names the secondary model.
        primary: The card of the model that infers the frames; None: not checked.
        secondary: The card of the secondary model; None: not checked.

    Raises:
        UsageError: The primary model has no detections, or the secondary model does not describe crops.
    """
    if primary is not None and primary.task != "detect":
        message = f"{where}: {primary.name} is a model for '{primary.task}' and has no detections"
        raise UsageError(message, "Leave it out, or choose a primary model for 'detect'.")
    if secondary is not None and secondary.task in ("detect", "segment"):
        hint = "Choose a model for 'classify', 'embed' or 'keypoints'."
        raise UsageError(f"{where}: {secondary.name} is a model for '{secondary.task}'", hint)
    if primary is not None and secondary is not None and primary.detail is not None and secondary.task == "keypoints":
        message = f"{where}: the detections of {primary.name} have {primary.detail.replace('_', ' ')} already"
        raise UsageError(message, f"Choose a detector of boxes only before {secondary.name}.")


def check_embeddings(where: str, policy: StreamPolicy, secondary: ModelCard) -> None:
    """Refuse a secondary model without embeddings for re-identification.

    Args:
        where: The option or setting of re-identification.
        policy: The settings of the stream.
        secondary: The card of the secondary model.

    Raises:
        UsageError: The stream re-identifies objects, and the model has no embeddings.
    """
    if policy.reidentify is not None and secondary.task != "embed":
        message = f"{where}: {secondary.name} is a model for '{secondary.task}' and has no embeddings to compare"
        raise UsageError(message, "Choose a secondary model for 'embed'.")
