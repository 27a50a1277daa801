"""ConvNeXt, classifiers of torchvision."""

from __future__ import annotations

from vision_infer.model.export.torchvision_models import classifier

FAMILY = classifier("ConvNeXt", {size: f"convnext_{size}" for size in ("tiny", "small", "base", "large")})
