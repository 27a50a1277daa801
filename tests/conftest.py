"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that `from tests.support.media import …` works however pytest was started
    sys.path.insert(0, str(ROOT))

from tests.support.fake_cuda import FakeCuda
from vision_infer.core.card import ModelCard, parse_card


@pytest.fixture
def card() -> ModelCard:
    """Return the card of a small fictitious detector."""
    return parse_card(
        {"name": "tiny", "input": {"width": 32, "height": 32}, "labels": ["person", "bicycle", "car"], "confidence": 0.25}, "tiny"
    )


@pytest.fixture(scope="session")
def bundled() -> Path:
    """Return the deployment graph of the bundled default model."""
    pytest.importorskip("onnxruntime")
    return ROOT / "models" / "nanodet-416" / "model.onnx"


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give all tests an empty home folder, so that the measurements and models of this user do not affect them.

    With ``auto`` the bundled model runs in FP32 and no better engine is built in the background, because many tests compare the
    rows of two runs. Tests of other engines name the engine, or use another home folder.
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


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    """Return a stand-in for NVIDIA's driver library, which the real bindings load in child processes."""
    pytest.importorskip("cuda.bindings.driver")
    if which("gcc") is None:
        pytest.skip("gcc is not installed")
    return FakeCuda(tmp_path_factory.mktemp("fake-libcuda"))
