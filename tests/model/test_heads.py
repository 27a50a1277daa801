"""Heads on synthetic models: layouts, refusals, and how heads are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.raw_networks import deployment_graph
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.model import heads
from vision_infer.model.heads import find_head, head_names
from vision_infer.model.network import prepare_network
from vision_infer.model.reading import read_onnx
from vision_infer.model.recognize import recognize_head

ONES = np.ones((2, 64, 64, 3), np.uint8)
SIZES = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["n", 2])


def card(head: str, **fields: Any) -> ModelCard:
    """Return a card without normalization."""
    return parse_card({"name": "made-up", "head": head, "input": {"width": 64, "height": 64}} | fields, "test")


def nanodet_outputs(classes: int, bins: int, strides: tuple[int, ...] = (8, 16, 32)) -> dict[str, NDArray[Any]]:
    """Each level's outputs; distance peaks at bin 2 on the left and top, bin 1 on the right and bottom."""
    outputs: dict[str, NDArray[Any]] = {}
    for stride in reversed(strides):  # in no useful order
        count = (64 // stride) ** 2
        sides = np.full((count, 4, bins), -100.0)
        sides[:, :2, 2] = sides[:, 2:, 1] = 100.0
        outputs[f"dis{stride}"] = sides.reshape(count, 4 * bins)
        scores = np.full((count, classes), -9.0)
        scores[-1, 1] = stride / 10
        outputs[f"cls{stride}"] = scores
    return outputs


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize(("bins", "strides"), [(8, (8, 16, 32, 64)), (11, (8, 16))])
def test_nanodet_pairs_outputs_and_infers_strides_and_bins(
    fabricate: Any, run: Any, sigmoid: bool, bins: int, strides: tuple[int, ...]
) -> None:
    outputs = nanodet_outputs(8, bins, strides)
    names = tuple(name for name in outputs if name.startswith("cls")) if sigmoid else ()
    path = fabricate(outputs, sigmoid=names)
    found = run(deployment_graph(path, card("nanodet"), candidates=len(strides)), {"images": ONES})
    for index in range(2):
        for rank, stride in enumerate(reversed(strides)):
            center = (64 // stride - 0.5) * stride
            expected = [center - 2 * stride, center - 2 * stride, center + stride, center + stride]
            np.testing.assert_allclose(found["boxes"][index, rank], expected, atol=1e-3)
            np.testing.assert_allclose(found["scores"][index, rank], 1 / (1 + np.exp(-stride / 10)), rtol=1e-6)
    assert (found["class_ids"] == 1).all()


def test_a_batch_fixed_in_reshapes_becomes_dynamic(fabricate: Any, run: Any) -> None:
    outputs = {"output": np.random.default_rng(0).random((84, 8))}
    graph = deployment_graph(fabricate(outputs), card("yolox"))
    pictures = np.stack([ONES[0], ONES[0] * 2])
    both = run(graph, {"images": pictures})
    for index in range(2):
        alone = run(graph, {"images": pictures[index : index + 1]})
        assert all(np.array_equal(both[name][index], alone[name][0]) for name in both)
    assert not np.array_equal(both["scores"][0], both["scores"][1])


def test_yolox_gives_all_pairs_if_there_are_fewer_than_candidates(fabricate: Any, run: Any) -> None:
    output = np.zeros((84, 5 + 2))
    output[0] = [0.5, 0.25, np.log(2), np.log(3), 0.5, 0.5, 0.25]
    found = run(deployment_graph(fabricate({"output": output}), card("yolox"), candidates=1000), {"images": ONES})
    assert found["scores"].shape == (2, 84 * 2)
    np.testing.assert_allclose(found["boxes"][0, 0], [4 - 8, 2 - 12, 4 + 8, 2 + 12], rtol=1e-6)
    assert found["scores"][0, :2].tolist() == [0.25, 0.125]
    assert found["class_ids"][0, :2].tolist() == [0, 1]


@pytest.mark.parametrize("opset", [13, 17])
def test_a_half_precision_model_is_decoded_in_float32(fabricate: Any, run: Any, opset: int) -> None:
    path = fabricate({"output": np.full((84, 6), 0.5)}, half=True, opset=opset)
    found = run(deployment_graph(path, card("yolox"), candidates=5), {"images": ONES})
    assert found["boxes"].dtype == found["scores"].dtype == np.float32
    assert (found["scores"] == 0.25).all()


def detr_outputs(queries: int = 6) -> dict[str, NDArray[Any]]:
    order = np.arange(queries)
    return {"labels": order, "boxes": np.repeat(order[:, None], 4, axis=1) * 1.0, "scores": (order * 7 % queries) / 10}


@pytest.mark.parametrize(("candidates", "count"), [(300, 6), (2, 2)])
def test_detr_gives_all_boxes_or_the_best(fabricate: Any, run: Any, candidates: int, count: int) -> None:
    path = fabricate(detr_outputs(), extra_inputs=(SIZES,), batch="n")
    found = run(deployment_graph(path, card("detr", iou=None), candidates), {"images": ONES})
    assert found["boxes"].shape == (2, count, 4)
    best = {(5, 0.5), (4, 0.4), (3, 0.3), (2, 0.2), (1, 0.1), (0, 0.0)}
    pairs = {(int(c), round(float(s), 3)) for c, s in zip(found["class_ids"][1], found["scores"][1], strict=True)}
    assert pairs == {pair for pair in best if pair[0] >= 6 - count}
    assert np.array_equal(found["boxes"][0, :, 0], found["class_ids"][0])


def test_detr_boxes_are_in_input_pixels(fabricate: Any, run: Any) -> None:
    """The second input of the model gets the input size, width first."""
    outputs = detr_outputs()
    boxes = outputs.pop("boxes")
    steps = (
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sizes", "sizes"], ["sizes4"], axis=1),
        helper.make_node("Unsqueeze", ["sizes4", "axis"], ["sizes_row"]),
        helper.make_node("Mul", ["unit", "sizes_row"], ["boxes"]),
    )
    path = fabricate({**outputs, "unit": boxes}, (64, 32), extra=steps, extra_inputs=(SIZES,), batch="n")
    model = onnx.load(path)
    model.graph.output[2].CopyFrom(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 6, 4]))
    onnx.save(model, path)
    graph = deployment_graph(path, card("detr", iou=None, input={"width": 32, "height": 64}))
    found = run(graph, {"images": np.ones((1, 64, 32, 3), np.uint8)})
    assert found["boxes"][0, 1].tolist() == [32, 64, 32, 64]


def hide_count(path: Path, constant: bool) -> None:
    """Compute the scores with a TopK over a number of values that cannot be inferred."""
    model = onnx.load(path)
    graph = model.graph
    scores = next(node for node in graph.node if node.output[0] == "scores")
    scores.output[0] = "first_scores"
    graph.initializer.append(numpy_helper.from_array(np.array([6]), "six"))
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    graph.node.extend(
        [
            helper.make_node("NonZero", ["images"], ["nonzero"]),
            helper.make_node("ReduceMax", ["nonzero"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "axis"], ["hidden"]),  # 63, an index of the last pixel
            helper.make_node("Slice", ["first_scores", "zero", "hidden", "axis"], ["all_scores"]),
            helper.make_node("TopK", ["all_scores", "six" if constant else "hidden"], ["scores", "order"], axis=1),
        ]
    )
    for info in graph.output:
        info.type.tensor_type.shape.dim[1].dim_param = "some"
    onnx.save(model, path)


def test_detr_finds_a_count_that_shape_inference_loses(fabricate: Any, run: Any) -> None:
    path = fabricate(detr_outputs(), extra_inputs=(SIZES,), batch="n")
    hide_count(path, constant=True)
    found = run(deployment_graph(path, card("detr", iou=None)), {"images": ONES})
    np.testing.assert_allclose(found["scores"], [[0.5, 0.4, 0.3, 0.2, 0.1, 0.0]] * 2, rtol=1e-6)


def test_detr_without_a_static_count_is_refused(fabricate: Any) -> None:
    path = fabricate(detr_outputs(), extra_inputs=(SIZES,), batch="n")
    hide_count(path, constant=False)
    with pytest.raises(ModelError, match="number of its boxes is not static"):
        deployment_graph(path, card("detr", iou=None))


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        ("nanodet", {"a": np.ones((64, 32))}, "for each stride"),
        ("nanodet", {"a": np.ones((64, 32)), "b": np.ones((16, 32))}, "for each stride"),
        ("nanodet", {"a": np.ones((63, 32)), "b": np.ones((63, 80))}, "for each stride"),
        ("nanodet", {"a": np.ones((64, 32)), "b": np.ones((64, 32))}, "for each stride"),
        ("nanodet", {"a": np.ones((64, 31)), "b": np.ones((64, 33))}, "for each stride"),
        ("nanodet", {"a": np.ones(64), "b": np.ones(64)}, "for each stride"),
        ("yolox", {"output": np.ones((83, 6))}, r"84 or 85, 5 \+ classes"),
        ("yolox", {"output": np.ones((84, 5))}, r"84 or 85, 5 \+ classes"),
        ("yolox", {"output": np.ones(84)}, r"84 or 85, 5 \+ classes"),
        ("yolox", nanodet_outputs(80, 11), r"84 or 85, 5 \+ classes"),
        ("detr", {"output": np.ones((84, 6))}, "labels"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_its_outputs(
    fabricate: Any, head: str, outputs: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(ModelError, match=f"raw.onnx: does not fit head '{head}'.*{message}.*its outputs are") as caught:
        deployment_graph(fabricate(outputs), card(head))
    assert "\n" not in str(caught.value)


def test_a_yolox_with_decoded_boxes_is_refused(fabricate: Any) -> None:
    path = fabricate({"output": np.ones((84, 6))}, extra=(helper.make_node("Exp", ["mean"], ["grown"]),))
    with pytest.raises(ModelError, match="already decoded"):
        deployment_graph(path, card("yolox"))


@pytest.mark.parametrize("head", ["nanodet", "yolox"])
def test_the_number_of_labels_must_match_the_classes(fabricate: Any, head: str) -> None:
    path = fabricate(nanodet_outputs(3, 8) if head == "nanodet" else {"output": np.ones((84, 8))})
    deployment_graph(path, card(head, labels=["a", "b", "c"]))
    with pytest.raises(ModelError, match="has 3 classes, but there are 2 labels"):
        deployment_graph(path, card(head, labels=["a", "b"]))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("nanodet", nanodet_outputs(3, 8)), ("yolox", {"output": np.ones((84, 8))}), ("detr", detr_outputs())],
)
def test_a_head_is_recognized_with_the_reason(fabricate: Any, name: str, outputs: dict[str, NDArray[Any]]) -> None:
    parts = {"output": ((4, "MatMul"), (1, "Sigmoid"), (3, "Sigmoid"))} if name == "yolox" else {}
    path = fabricate(outputs, extra_inputs=(SIZES,) if name == "detr" else (), parts=parts)
    head, reason = recognize_head(prepare_network(read_onnx(path), path.name))
    assert head == name
    assert "output" in reason


def test_an_unrecognized_model_lists_the_heads(fabricate: Any) -> None:
    path = fabricate({"output": np.ones((7, 7))})
    with pytest.raises(ModelError, match=r"no head fits its outputs output\[1, 7, 7\].*classify, dbnet, detr, embed, end2end"):
        recognize_head(prepare_network(read_onnx(path), path.name))


def test_several_heads_that_fit_are_named(fabricate: Any) -> None:
    """This graph does not show whether boxes are decoded, or whether the fifth value is objectness."""
    path = fabricate({"output": np.ones((84, 8))})
    with pytest.raises(ModelError, match=r"several heads fit.*Choose one: --head yolov5 if.*--head yolov8 if.*--head yolox if"):
        recognize_head(prepare_network(read_onnx(path), path.name))


def test_a_head_is_a_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "made_up_family.py").write_text("from vision_infer.model.heads.yolox import DEFAULTS, append, recognize\n")
    (tmp_path / "_not_a_head.py").write_text("")
    # In a separate process, so that no module of a temporary folder stays imported.
    code = (
        "import sys; from vision_infer.model import heads; heads.__path__.append(sys.argv[1]);"
        "print(*heads.head_names(), heads.find_head('made_up_family').DEFAULTS.iou)"
    )
    root = Path(heads.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [*sorted([*head_names(), "made_up_family"]), "0.45"]


@pytest.mark.parametrize("name", head_names())
def test_the_defaults_of_a_head_make_a_valid_card(name: str) -> None:
    defaults = find_head(name).DEFAULTS
    assert defaults.input_size.width % 2 == defaults.input_size.height % 2 == 0
    assert min(defaults.input_size.width, defaults.input_size.height) >= 100
    card(name, color=defaults.color, mean=defaults.mean, std=defaults.std, fit=defaults.fit, fill=defaults.fill)


def test_an_unknown_head_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"unknown head 'yolo-x'\. Did you mean 'yolox'\? .*detr, .*yolox"):
        find_head("yolo-x")
    with pytest.raises(ModelError, match=r"unknown head 'q'\. The heads are classify, dbnet, detr"):
        find_head("q")
