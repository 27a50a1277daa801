"""What detections have in addition to their boxes, by the detail of the model's card: keypoints, masks or rotated boxes."""

from __future__ import annotations

from typing import TypeAlias

from vision_infer.core.details.keypoints import Keypoints
from vision_infer.core.details.masks import Masks
from vision_infer.core.details.rotated_boxes import RotatedBoxes

__all__ = ["Details", "Keypoints", "Masks", "RotatedBoxes"]

Details: TypeAlias = Keypoints | Masks | RotatedBoxes
"""The details of N detections; each kind can be indexed like an array and scaled, and has fields of rows and
of COCO annotations."""
