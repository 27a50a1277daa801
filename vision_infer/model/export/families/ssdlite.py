"""SSDLite with MobileNetV3, of torchvision: small and quick on a CPU."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import detector

FAMILY = detector("SSDLite", "ssd", {"mobilenetv3": "ssdlite320_mobilenet_v3_large"}, ("cls_logits", "bbox_regression"), side=320)
