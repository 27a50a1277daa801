"""MobileNetV3, classifiers of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import classifier

FAMILY = classifier("MobileNetV3", {"small": "mobilenet_v3_small", "large": "mobilenet_v3_large"})
