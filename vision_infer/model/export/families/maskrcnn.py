"""Mask R-CNN, of torchvision, which cannot be exported; the file has the reason."""

from __future__ import annotations

from vision_infer.model.export.families._torchvision import TWO_STAGES
from vision_infer.model.export.family import Refused

FAMILY = Refused("Mask R-CNN", f"{TWO_STAGES}; RF-DETR-Seg (rfdetrseg) returns masks from one stage")
