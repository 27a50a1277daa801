"""FCOS with ResNet-50, of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import detector

FAMILY = detector("FCOS", "fcos", {"resnet50": "fcos_resnet50_fpn"}, ("cls_logits", "bbox_regression", "bbox_ctrness"), side=800)
