"""EfficientNet and EfficientNetV2, classifiers of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import classifier

_SIDES = {"b0": 224, "b1": 240, "b2": 288, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
_V2 = {"v2-s": 384, "v2-m": 480, "v2-l": 480}

FAMILY = classifier(
    "EfficientNet", {name: f"efficientnet_{name.replace('-', '_')}" for name in (*_SIDES, *_V2)}, {**_SIDES, **_V2}
)
