"""Faster R-CNN, of torchvision, which cannot be exported; the file has the reason."""

from __future__ import annotations

from vision_infer.model.export.family import Refused

FAMILY = Refused(
    "Faster R-CNN",
    "its second stage processes regions that NMS selects inside the model, and their number differs for each image; "
    "FCOS and RetinaNet have the same backbones and one stage",
)
