"""SSD300 with VGG16, of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import detector

FAMILY = detector(
    "SSD300",
    "ssd",
    {"vgg16": "ssd300_vgg16"},
    ("cls_logits", "bbox_regression"),
    side=300,
    mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),  # the means of Caffe's VGG; its values are not divided
    std=(1.0, 1.0, 1.0),
)
