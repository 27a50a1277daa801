"""What a network says of a whole picture, or of a crop of one: its classes, or where it lies among others."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.json_text import quoted


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class that a picture may be of."""

    class_id: int
    label: str
    score: float
    """probability, 0–1"""


@dataclass(frozen=True, slots=True)
class Description:
    """What a network for ``classify`` or ``embed`` gives for a picture; one of the two is there."""

    classes: tuple[ClassScore, ...] | None = None
    """the most probable ones, best first"""
    embedding: NDArray[np.float32] | None = None
    """float32 [D], unit length"""

    @property
    def best(self) -> ClassScore | None:
        """The most probable class; None where there is none."""
        return self.classes[0] if self.classes else None

    def to_json(self) -> str:
        """The fields of a JSON object, without its braces; :data:`DESCRIPTION_PROPERTIES` describes them."""
        parts: list[str] = []
        if self.classes is not None:
            found = [
                '{"class_id": %d, "label": %s, "score": %.4f}' % (one.class_id, quoted(one.label), one.score)
                for one in self.classes
            ]
            parts.append('"classes": [%s]' % ", ".join(found))
        if self.embedding is not None:
            parts.append('"embedding": "%s"' % base64.b64encode(self.embedding.astype("<f4", copy=False).tobytes()).decode())
        return ", ".join(parts)


DESCRIPTION_PROPERTIES: dict[str, Any] = {
    "classes": {
        "type": "array",
        "description": "only of a network for classification: the most probable classes, best first",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["class_id", "label", "score"],
            "properties": {
                "class_id": {"type": "integer", "minimum": 0},
                "label": {"type": "string"},
                "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability"},
            },
        },
    },
    "embedding": {
        "type": "string",
        "contentEncoding": "base64",
        "description": "only of a network for embeddings: float32 values, little-endian, together of unit length",
    },
}
"""JSON Schema (2020-12) of the fields"""
