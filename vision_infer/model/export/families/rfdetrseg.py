"""RF-DETR-Seg, of the package rfdetr: RF-DETR with a mask for each query (Robinson et al., 2025)."""

from __future__ import annotations

from vision_infer.model.export.families.rfdetr import family

FAMILY = family(
    "RF-DETR-Seg",
    "Seg",
    {"nano": 312, "small": 384, "medium": 432, "large": 504},
    multiple=24,
    outputs=("pred_boxes", "logits", "pred_masks"),
)
