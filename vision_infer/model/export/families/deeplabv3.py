"""DeepLabV3, semantic segmentation of torchvision (Chen et al., 2017)."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import segmenter

FAMILY = segmenter(
    "DeepLabV3",
    {
        "mobilenetv3": "deeplabv3_mobilenet_v3_large",
        "resnet50": "deeplabv3_resnet50",
        "resnet101": "deeplabv3_resnet101",
    },
)
