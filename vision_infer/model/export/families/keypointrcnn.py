"""Keypoint R-CNN, of torchvision, which cannot be exported; the file has the reason."""

from __future__ import annotations

from vision_infer.model.export.families._torchvision import TWO_STAGES
from vision_infer.model.export.family import Refused

FAMILY = Refused("Keypoint R-CNN", f"{TWO_STAGES}; a graph of the family yolov8_pose returns keypoints from one stage")
