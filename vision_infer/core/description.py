"""The description of a whole image or of a crop: its classes, its embedding, the class of each pixel, or its keypoints."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.details import ClassMap, Keypoints
from vision_infer.core.details.masks import MASK_SCHEMA
from vision_infer.core.json_text import quoted


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A possible class of an image."""

    class_id: int
    label: str
    score: float
    """The probability, 0–1."""


@dataclass(frozen=True, slots=True)
class Description:
    """The output of a model other than a detector for one image; one of the fields is set."""

    classes: tuple[ClassScore, ...] | None = None
    """The most probable classes, best first."""
    embedding: NDArray[np.float32] | None = None
    """The embedding, float32 [D], of unit length."""
    segments: ClassMap | None = None
    """The class of each pixel."""
    keypoints: Keypoints | None = None
    """The keypoints of the one object in a crop, in pixels of the crop; they become the details of its detection."""

    @property
    def best(self) -> ClassScore | None:
        """The most probable class; None if there is none."""
        return self.classes[0] if self.classes else None

    def to_json(self) -> str:
        """Return the fields of a JSON object, without its braces; :data:`DESCRIPTION_PROPERTIES` describes them."""
        parts: list[str] = []
        if self.classes is not None:
            found = [
                '{"class_id": %d, "label": %s, "score": %.4f}' % (entry.class_id, quoted(entry.label), entry.score)
                for entry in self.classes
            ]
            parts.append('"classes": [%s]' % ", ".join(found))
        if self.embedding is not None:
            parts.append('"embedding": "%s"' % base64.b64encode(self.embedding.astype("<f4", copy=False).tobytes()).decode())
        if self.segments is not None:
            parts.append('"segments": ' + json.dumps(self.segments.rows(), ensure_ascii=False))
        return ", ".join(parts)


DESCRIPTION_PROPERTIES: dict[str, Any] = {
    "classes": {
        "type": "array",
        "description": "The most probable classes, best first. Only with a model for classification.",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["class_id", "label", "score"],
            "properties": {
                "class_id": {"type": "integer", "minimum": 0},
                "label": {"type": "string"},
                "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "The probability."},
            },
        },
    },
    "embedding": {
        "type": "string",
        "contentEncoding": "base64",
        "description": "The embedding of unit length: float32 values, little-endian. Only with a model for embeddings.",
    },
    "segments": {
        "type": "array",
        "description": "The classes of the image's pixels, the largest first. Only with a model for semantic segmentation.",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["class_id", "label", "share", "mask"],
            "properties": {
                "class_id": {"type": "integer", "minimum": 0},
                "label": {"type": "string"},
                "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "The share of the image's pixels."},
                "mask": MASK_SCHEMA
                | {
                    "description": "The pixels of the class: height and width of the model's map, which covers the whole image, "
                    "and compressed run lengths in the format of COCO, which pycocotools reads."
                },
            },
        },
    },
}
"""The JSON Schema (2020-12) of the fields."""
