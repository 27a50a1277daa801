"""ResNet, classifiers of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import classifier

FAMILY = classifier("ResNet", {str(depth): f"resnet{depth}" for depth in (18, 34, 50, 101, 152)})
