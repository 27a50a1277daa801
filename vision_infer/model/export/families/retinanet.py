"""RetinaNet with ResNet-50, of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import detector

FAMILY = detector(
    "RetinaNet",
    "retinanet",
    {"resnet50": "retinanet_resnet50_fpn", "resnet50-v2": "retinanet_resnet50_fpn_v2"},
    ("cls_logits", "bbox_regression"),
    side=800,
)
