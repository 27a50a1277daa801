"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `from tests.support.media import …` works however pytest was started
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


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine's user has measured or imported decides nothing in a test.

    Where ``auto`` is left the choice, the bundled network runs in FP32, and no better engine is made meanwhile: rows of two runs
    are compared in many tests. Those of other engines name them, or have a home of their own.
    """
    before = os.environ.get("VISION_INFER_HOME")
    home = tmp_path_factory.mktemp("home")
    os.environ["VISION_INFER_HOME"] = str(home)
    if find_spec("onnxruntime") is not None:
        from vision_infer.engine.selection.by_passport import BUDGET_POINTS
        from vision_infer.engine.selection.candidates import candidates
        from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore

        possible = candidates(ROOT / "models" / "nanodet-416" / "model.onnx")
        TuningStore(home / "engines", BUDGET_POINTS).save_choice(possible, EngineChoice(possible[0], "FP32, for tests"))
    yield
    if before is None:
        del os.environ["VISION_INFER_HOME"]
    else:
        os.environ["VISION_INFER_HOME"] = before
