"""INT8: ranges by four methods, both forms, excluded nodes, sensitive layers, and the search for layers to keep."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tests.precision.tiny import CARD, frame_set, noise_frames, tiny_model, write_tiny
from vision_infer.core.errors import ModelError
from vision_infer.model.graph import PREFIX, check_contract, read_card
from vision_infer.precision.quantization.int8 import (
    FORMS,
    Form,
    Int8Recipe,
    calibrated_tensors,
    quantizable,
    quantize,
    simplify,
)
from vision_infer.precision.quantization.ranges import METHODS, Activations, collect_activations, find_ranges
from vision_infer.precision.quantization.search import LayerSearch
from vision_infer.precision.quantization.sensitivity import border_tensors, rank_layers, round_weights
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.engine_check import open_reference

pytest.importorskip("onnxruntime")

SIMPLE = simplify(tiny_model(), "tiny")
FRAMES = noise_frames(40)
ACTIVATIONS = collect_activations(SIMPLE, calibrated_tensors(SIMPLE), FRAMES, "tiny")


def element_types(model: onnx.ModelProto) -> frozenset[int]:
    """Return the element types of the zero points, which are those of the quantized tensors."""
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    types = frozenset(tensor.data_type for tensor in model.graph.initializer if tensor.name in zeros)
    return types or frozenset({TensorProto.UINT8})


def made(form: Form = "cpu", **options: object) -> onnx.ModelProto:
    return quantize(SIMPLE, find_ranges(ACTIVATIONS, "minmax"), Int8Recipe(form, **options), "tiny")  # type: ignore[arg-type]


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of the constants that a DequantizeLinear reads."""
    read = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer if tensor.name in read}


def test_the_prediction_and_the_added_nodes_are_not_quantized() -> None:
    assert quantizable(SIMPLE) == ("network/conv1", "network/conv2", "network/conv3")
    producers = {name: node for node in made().graph.node for name in node.output}
    for node in made().graph.node:
        if node.name.startswith(PREFIX) or node.name == "network/predict":
            before = [producers[name].op_type for name in node.input if name in producers]
            assert node.name == "network/predict" or "DequantizeLinear" not in before, node.name


def test_the_form_for_the_cpu() -> None:
    model = made("cpu")
    assert element_types(model) == {TensorProto.UINT8}
    assert Counter(kinds(model).values()) == {TensorProto.INT8: 3, TensorProto.INT32: 1}  # weights; the one bias
    scales = {tensor.name: numpy_helper.to_array(tensor).shape for tensor in model.graph.initializer if "w1" in tensor.name}
    assert (8,) in scales.values()  # one for each channel


def test_the_form_for_tensorrt() -> None:
    model = made("tensorrt")
    assert element_types(model) == {TensorProto.INT8}
    assert set(kinds(model).values()) == {TensorProto.INT8}
    zeros = {node.input[2] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        assert tensor.name not in zeros or not numpy_helper.to_array(tensor).any(), tensor.name
    # Nothing stands between a convolution and what is fused with it.
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert {node.op_type for node in model.graph.node if dequantized & set(node.input)} == {"Conv"}


@pytest.mark.parametrize("form", FORMS)
def test_the_card_is_kept_and_the_contract_holds(form: Form) -> None:
    model = made(form)
    assert read_card(model, "x") == CARD.model_copy(update={"precision": "int8"})
    check_contract(model, CARD, "x")
    assert read_card(SIMPLE, "x") == CARD
    assert not any(node.op_type == "QuantizeLinear" for node in SIMPLE.graph.node)  # it was left as it was


def test_weights_of_seven_bits() -> None:
    seven = [numpy_helper.to_array(t) for t in made(reduced_range=True).graph.initializer if t.data_type == TensorProto.INT8]
    assert max(int(np.abs(one.astype(np.int32)).max()) for one in seven) <= 64


def test_kept_layers_stay_in_fp32_and_keeping_all_is_an_error() -> None:
    kept = made(kept=frozenset({"network/conv2"}))
    assert {tensor.name for tensor in kept.graph.initializer if tensor.data_type == TensorProto.FLOAT} >= {"network/w2"}
    assert Counter(kinds(kept).values())[TensorProto.INT8] == 2
    with pytest.raises(ModelError, match="no convolution"):
        made(kept=frozenset(quantizable(SIMPLE)))


def test_results_are_near_those_of_fp32(tmp_path: Path) -> None:
    for form in FORMS:
        onnx.save(made(form), tmp_path / "int8.onnx")
        onnx.save(tiny_model(), tmp_path / "fp32.onnx")
        with open_reference(tmp_path / "fp32.onnx") as fp32, open_reference(tmp_path / "int8.onnx") as int8:
            assert int8.name == "onnxruntime-cpu-int8"
            agreement = Judge(fp32, frame_set(noise_frames(60, seed=5))).compare(int8)
        assert agreement.figures["top1_agreement"] > 90, form


def test_ranges_contain_zero_and_clip_outliers() -> None:
    chance = np.random.default_rng(0)
    values = np.abs(chance.normal(0, 1, 100_000)).astype(np.float32)
    values[0] = 1000.0
    one = {"x": Activations(float(values.min()), float(values.max()), values)}
    found = {method: find_ranges(one, method)["x"] for method in METHODS}
    assert found["minmax"] == (0.0, 1000.0)
    assert 3 < found["percentile"][1] < 6
    assert 0 < found["entropy"][1] < 1000
    assert all(low <= 0 <= high for low, high in found.values())
    constant = {"x": Activations(0.0, 0.0, np.zeros(10, np.float32))}
    assert all(find_ranges(constant, method)["x"] == (0.0, 0.0) for method in METHODS)


def test_entropy_is_not_min_max() -> None:
    chance = np.random.default_rng(0)
    values = np.concatenate((chance.normal(0, 1, 50_000), chance.normal(0, 12, 50))).astype(np.float32)
    one = {"x": Activations(float(values.min()), float(values.max()), values)}
    low, high = find_ranges(one, "entropy")["x"]
    assert high - low < 0.9 * (values.max() - values.min())


def _error(values: NDArray[np.float32], ends: tuple[float, float], slope: float) -> float:
    """Return the mean squared error of 256 levels after an activation function."""
    low, high = ends
    scale = (high - low) / 255
    zero = round(-low / scale)
    seen = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    behind, wanted = (np.where(one < 0, slope * one, one) for one in (seen, values))
    return float(np.square(behind - wanted).mean())


@pytest.mark.parametrize(("slope", "better", "cut"), [(0.0, 0.5, 0.2), (0.1, 0.9, 0.9), (1.0, 1.001, 1.0)])
def test_squares_has_the_smallest_error_after_the_activation_function(slope: float, better: float, cut: float) -> None:
    values = np.random.default_rng(0).normal(0, 1, 8000).astype(np.float32)
    one = {"x": Activations(float(values.min()), float(values.max()), values, slope)}
    errors = {method: _error(values, find_ranges(one, method)["x"], slope) for method in METHODS}
    assert errors["squares"] <= 1.03 * min(errors.values())  # the ends are tried in steps
    assert errors["squares"] <= better * errors["minmax"]
    low, high = find_ranges(one, "squares")["x"]
    assert 3 < high <= 1.0001 * values.max()
    assert low >= 1.0001 * cut * values.min()  # what the function makes small needs fewer levels


def test_which_tensors_an_activation_function_reads() -> None:
    slopes = {name: ACTIVATIONS[name].slope for name in ("network/conv1", "network/conv2", "network/relu1", "network/leaky2")}
    assert slopes == {
        "network/conv1": 0.0,
        "network/conv2": pytest.approx(0.1),
        "network/relu1": 1.0,  # a convolution reads it
        "network/leaky2": 1.0,
    }


def test_the_extremes_do_not_depend_on_the_sample() -> None:
    whole = collect_activations(SIMPLE, ["network/conv1"], FRAMES[:3], "tiny")["network/conv1"]
    each = [collect_activations(SIMPLE, ["network/conv1"], [frame], "tiny")["network/conv1"] for frame in FRAMES[:3]]
    assert whole.low == min(one.low for one in each)
    assert whole.high == max(one.high for one in each)
    assert whole.low <= whole.sample.min() < whole.sample.max() <= whole.high


def test_no_frames_and_values_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="no frames"):
        collect_activations(SIMPLE, ["network/conv1"], [], "tiny")
    broken = tiny_model()
    for tensor in broken.graph.initializer:
        if tensor.name == "network/w2":
            tensor.CopyFrom(numpy_helper.from_array(np.full((8, 1, 3, 3), np.nan, np.float32), tensor.name))
    with pytest.raises(ModelError, match="not finite"):
        collect_activations(broken, ["network/conv2"], FRAMES[:2], "tiny")


def test_rounded_weights() -> None:
    weights = np.random.default_rng(0).normal(0, [[1.0], [100.0]], (2, 50)).astype(np.float32)
    for reduced, levels in ((False, 127), (True, 63)):
        rounded = round_weights(weights, Int8Recipe(reduced_range=reduced))
        step = np.abs(weights).max(axis=1, keepdims=True) / levels
        assert (np.abs(rounded - weights) <= step * 0.5001).all()
    assert not round_weights(np.zeros((2, 3), np.float32), Int8Recipe()).any()


def test_the_most_sensitive_layer_comes_first() -> None:
    # The second convolution's range is made far too narrow: what it gives is then cut.
    ranges = find_ranges(ACTIVATIONS, "minmax")
    narrow = {**ranges, "network/conv2": (0.0, ranges["network/conv2"][1] / 50)}
    layers = rank_layers(SIMPLE, narrow, Int8Recipe(), FRAMES[:4])
    assert layers[0].name == "network/conv2"
    assert [layer.error for layer in layers] == sorted((layer.error for layer in layers), reverse=True)
    assert layers[0].error > 10 * layers[1].error
    assert border_tensors(SIMPLE) == ("network/logits",)
    stopped = rank_layers(SIMPLE, ranges, Int8Recipe(), FRAMES[:2], lambda done, _: done < 1)
    assert len(stopped) == 3
    assert sum(layer.error > 0 for layer in stopped) == 1


def test_the_search_keeps_the_sensitive_layers(tmp_path: Path) -> None:
    narrow = dict(ACTIVATIONS)
    bad = ACTIVATIONS["network/conv2"]
    narrow["network/conv2"] = Activations(bad.low / 200, bad.high / 200, np.float32(1 / 200) * bad.sample)
    leaky = ACTIVATIONS["network/leaky2"]
    narrow["network/leaky2"] = Activations(leaky.low / 200, leaky.high / 200, np.float32(1 / 200) * leaky.sample)
    path = write_tiny(tmp_path)
    told: list[str] = []
    with open_reference(path) as fp32:
        judge = Judge(fp32, frame_set(noise_frames(120, seed=2)))
        search = LayerSearch(SIMPLE, narrow, judge, open_reference, "tiny", told.append)
        found = search.run(Int8Recipe(), budget=20.0, time_limit_s=300)
        assert found.within
        assert found.finished
        assert "network/conv2" in found.recipe.kept
        # The third reads what the second gives: both are cut.
        assert {layer.name for layer in found.layers[:2]} == {"network/conv2", "network/conv3"}
        assert found.agreement.lost.high <= 20.0  # 17 without VNNI, where sums of products saturate
        easy = LayerSearch(SIMPLE, ACTIVATIONS, judge, open_reference, "tiny").run(Int8Recipe(), budget=100.0, time_limit_s=300)
        assert (easy.within, easy.recipe.kept, easy.layers) == (True, frozenset(), ())
        late = LayerSearch(SIMPLE, narrow, judge, open_reference, "tiny").run(Int8Recipe(), budget=0.0, time_limit_s=0.0)
        assert not late.finished
        assert not late.within
    assert any("layers in FP32" in line for line in told)


def test_without_tensors_nothing_is_run() -> None:
    assert collect_activations(onnx.ModelProto(), [], [], "a transformer") == {}
