"""Graphs with keypoints, masks and rotated boxes: the runtimes return all of their outputs, and refuse wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support import raw_networks as raw
from vision_infer.core.errors import ModelError
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.model.graph import read_card, write_card
from vision_infer.model.importing import ImportRequest, import_model

pytest.importorskip("onnxruntime")
Kind = Literal["pose", "segment", "obb"]


def imported(kind: Kind, folder: Path) -> Path:
    return import_model(ImportRequest(raw.yolov8(folder / "raw.onnx", more=kind), kind, model_dir=folder / "models"))


def outputs_of(graph: Path, runtime: str) -> dict[str, NDArray[Any]]:
    with open_engine(graph, EngineRequest(runtime, "cpu", workers=1, threads=1, batch=2)) as engine:
        loan = engine.lend(2)
        for number, slot in enumerate(loan.slots):
            slot.pixels[:] = np.random.default_rng(number).integers(0, 255, slot.pixels.shape, np.uint8)
        found = dict(engine.collect(engine.submit(loan)).outputs)
        assert sorted(found) == sorted(engine.card.outputs)
        return found


@pytest.mark.parametrize("kind", ["pose", "segment", "obb"])
def test_runtimes_return_all_outputs(kind: Kind, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = imported(kind, tmp_path)
    one, other = outputs_of(graph, "onnxruntime"), outputs_of(graph, "openvino")
    all_shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "pose": {"keypoints": (2, 300, 17, 3)},
        "segment": {"coefficients": (2, 300, 32), "prototypes": (2, 32, 12, 20)},
        "obb": {"rotated_boxes": (2, 300, 5)},
    }
    shapes = all_shapes[kind]
    for found in (one, other):
        assert {name: found[name].shape for name in shapes} == shapes
    best = [np.argmax(found["scores"][0]) for found in (one, other)]
    for name in shapes:
        a, b = (
            found[name][0] if name == "prototypes" else found[name][0, at] for found, at in zip((one, other), best, strict=True)
        )
        np.testing.assert_allclose(a, b, atol=0.05)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_whose_keypoints_do_not_match_its_card_is_refused(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    graph = imported("pose", tmp_path)
    model = onnx.load(graph)
    card = read_card(model, "test")
    assert card is not None
    assert card.keypoints is not None
    fewer = card.keypoints.model_copy(update={"names": card.keypoints.names[:5], "skeleton": ()})
    write_card(model, card.model_copy(update={"keypoints": fewer}))
    onnx.save(model, graph)
    with pytest.raises(ModelError, match=r"the shapes of its outputs are .*'keypoints': \(300, 17, 3\)"):
        open_engine(graph, EngineRequest(runtime, "cpu"))


def test_a_graph_without_the_outputs_of_its_card_is_refused(tmp_path: Path) -> None:
    graph = imported("segment", tmp_path)
    model = onnx.load(graph)
    kept = [info for info in model.graph.output if info.name != "prototypes"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, graph)
    with pytest.raises(ModelError, match="its output 'prototypes' is missing"):
        open_engine(graph, EngineRequest("onnxruntime", "cpu"))
    with pytest.raises(ModelError, match="not a deployment graph for detect"):
        import_model(ImportRequest(graph, "again", model_dir=tmp_path / "models"))
