"""Faster R-CNN, of torchvision: known by name, so that the reason why it cannot be exported is told."""

from __future__ import annotations

from vision_infer.model.export.family import Refused

FAMILY = Refused(
    "Faster R-CNN",
    "its second stage looks at regions that NMS has chosen inside the network, a number that changes with each picture; "
    "FCOS and RetinaNet have the same backbones and one stage",
)
