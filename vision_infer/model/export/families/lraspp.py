"""LR-ASPP with MobileNetV3, semantic segmentation of torchvision: small and quick on a CPU (Howard et al., 2019)."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import segmenter

FAMILY = segmenter("LR-ASPP", {"mobilenetv3": "lraspp_mobilenet_v3_large"})
