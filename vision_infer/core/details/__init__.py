"""What detections have in addition to their boxes: keypoints, masks or rotated boxes; and the class of each pixel of an image."""

from __future__ import annotations

from typing import TypeAlias

from vision_infer.core.details.class_map import ClassMap
from vision_infer.core.details.keypoints import Keypoints
from vision_infer.core.details.masks import Masks
from vision_infer.core.details.rotated_boxes import RotatedBoxes

__all__ = ["ClassMap", "Details", "Keypoints", "Masks", "RotatedBoxes"]

Details: TypeAlias = Keypoints | Masks | RotatedBoxes
"""The details of N detections; each kind can be indexed like an array and scaled, and has fields of rows and
of COCO annotations."""
