"""The text at the boxes of drawn detections."""

from __future__ import annotations

from typing import Literal

LabelText = Literal["scores", "names", "none"]
"""Labels with scores, labels only, or no text."""
