"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `from tests.media import …` works however pytest was started
    sys.path.insert(0, str(ROOT))

from vision_infer.core.card import ModelCard, parse_card

# How long an example takes says nothing on a machine that is shared.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture
def card() -> ModelCard:
    """A card of a small detector that does not exist."""
    return parse_card(
        {"name": "tiny", "input": {"width": 32, "height": 32}, "labels": ["person", "bicycle", "car"], "confidence": 0.25}, "tiny"
    )


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The deployment graph of the bundled default model."""
    pytest.importorskip("onnxruntime")
    return ROOT / "models" / "nanodet-416" / "model.onnx"
