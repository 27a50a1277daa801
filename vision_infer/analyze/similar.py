"""Classes that detectors confuse: NMS and tracking compare boxes of one group, as they may be of one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Groups: TypeAlias = Mapping[int, int] | None
"""The number of the group of each class number. A class that is missing forms a separate group; None: all are one group."""

PER_CLASS: Groups = {}
"""Each class forms a separate group."""

SIMILAR = (
    ("car", "truck", "bus", "train", "van"),
    ("bicycle", "motorcycle", "motorbike"),
    ("cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
)
"""The labels of each group: those of COCO, and other names. A person is in no group: a rider is not the motorcycle."""


def similar_classes(labels: Sequence[str]) -> dict[int, int]:
    """Return the groups of the labels that are in one of :data:`SIMILAR`: the first class number of the group."""
    numbers: dict[str, int] = {label.casefold(): number for number, label in reversed(list(enumerate(labels)))}
    groups: dict[int, int] = {}
    for group in SIMILAR:
        present = [numbers[label] for label in group if label in numbers]
        groups |= dict.fromkeys(present, min(present, default=0))
    return groups


def group_numbers(class_ids: list[int], groups: Groups) -> list[int]:
    """Return the group of each class number."""
    if groups is None:
        return [0] * len(class_ids)
    return [groups.get(class_id, class_id) for class_id in class_ids] if groups else class_ids


def with_groups(classes: frozenset[int], groups: Groups) -> frozenset[int] | None:
    """Return the classes and all others of their groups; None: all."""
    if groups is None:
        return None
    wanted = set(group_numbers(list(classes), groups))
    return classes | {class_id for class_id, group in groups.items() if group in wanted}
