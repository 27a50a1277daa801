"""PyTorch as the reference: it computes the same as ONNX Runtime, for each family, in any batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice
from tests.engine.matching import Outputs, assert_same
from tests.support.assets import raw_model
from tests.support.exported import need_torch
from tests.support.gpu import needs_torch_cuda
from tests.support.media import bikes, decoded
from vision_infer.core.card import CARD_KEY, ModelCard
from vision_infer.core.errors import EngineError, ModelError, UsageError
from vision_infer.core.geometry import letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.open import EngineRequest, auto_device, open_engine
from vision_infer.engine.runtime import EngineSettings
from vision_infer.engine.runtimes.onnxruntime import OnnxRuntimeEngine
from vision_infer.stream.image import VideoImage

pytest.importorskip("onnxruntime")
need_torch()

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures() -> list[VideoImage]:
    return [VideoImage(frame) for frame in decoded(bikes())[::60]][:3]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the deployment graph of a family."""

    def make(family: str) -> Path:
        if family in ("nanodet", "int8"):
            return ROOT / "models" / "nanodet-416" / ("model.onnx" if family == "nanodet" else "model.int8.onnx")
        from vision_infer.model.importing import ImportRequest, import_model

        return import_model(ImportRequest(raw_model(family), family, model_dir=folder))

    folder = tmp_path_factory.mktemp("models")
    return lru_cache(make)


def infer(engine: Engine, pictures: list[VideoImage]) -> Outputs:
    loan = engine.lend(len(pictures))
    for slot, image in zip(loan.slots, pictures, strict=True):
        image.write_into(slot, letterbox(image.size, engine.input_size, engine.card.fit, engine.card.fill))
    return engine.collect(engine.submit(loan)).outputs


@pytest.mark.parametrize("family", ["nanodet", "detr"])
def test_pytorch_and_onnx_runtime_find_the_same(family: str, graph: Callable[[str], Path], pictures: list[VideoImage]) -> None:
    path = graph(family)
    with OnnxRuntimeEngine(path, EngineSettings()) as engine:
        expected = [infer(engine, [image]) for image in pictures]
    with open_engine(path, EngineRequest("torch-cpu-fp32", batch=3, workers=1)) as engine:
        assert engine.name == "torch-cpu-fp32"
        batch, single = infer(engine, pictures), infer(engine, pictures[1:2])
        found = [assert_same(batch, place, expected[place], 0, 1e-4, 0.05) for place in range(3)]
        assert assert_same(single, 0, expected[1], 0, 1e-4, 0.05) == found[1]
        assert sum(found) > 0
        assert {name: array.dtype for name, array in batch.items()} == {name: array.dtype for name, array in expected[0].items()}


def test_a_quantized_graph_gives_nearly_the_same(graph: Callable[[str], Path], pictures: list[VideoImage]) -> None:
    """Rounding differs from integer kernels, so the detections are nearly the same."""
    path = graph("int8")
    with OnnxRuntimeEngine(path, EngineSettings()) as engine:
        expected = infer(engine, pictures[1:2])
    with open_engine(path, EngineRequest("torch")) as engine:
        assert engine.name == "torch-cpu-int8"
        assert assert_same(infer(engine, pictures[1:2]), 0, expected, 0, 0.1, 12)


def test_the_buffers_of_a_device_give_the_same(graph: Callable[[str], Path], pictures: list[VideoImage]) -> None:
    """Like on a GPU, but in host memory: PyTorch reads and writes memory of the caller."""
    from vision_infer.engine.runtimes.torch_model import TorchModel

    path = graph("nanodet")
    with open_engine(path, EngineRequest("torch-cpu-fp32")) as engine:
        expected = [infer(engine, [image]) for image in pictures[:2]]
    model, device = TorchModel(path, "cpu"), HostDevice()
    with DeviceEngine(model.name, model.card, model, device, (1, 2), 1, graphs=False) as engine:
        batch = infer(engine, pictures[:2])
        for name in batch:
            alone = np.concatenate([one[name] for one in expected])
            assert np.allclose(batch[name], alone, atol=1e-3)
    assert (device.used, device.things) == (0, 0)
    with pytest.raises(EngineError, match="closed"):
        model.enqueue(1, 0, {}, None)


def test_an_unknown_operator_is_named(tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card)
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "Einsum"
    model.graph.node[1].op_type = "Unheard"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="Einsum, Unheard"):
        open_engine(path, EngineRequest("torch"))


def test_an_unsupported_resize_is_named(tmp_path: Path) -> None:
    import torch

    from vision_infer.engine.runtimes.torch_operators import OPERATORS

    image = torch.zeros(1, 3, 5, 5)
    inputs = [image, None, None, torch.tensor([1, 3, 7, 7])]
    with pytest.raises(NotImplementedError, match="Resize with linear, asymmetric"):
        OPERATORS["Resize"](inputs, {"mode": b"linear", "coordinate_transformation_mode": b"asymmetric"})


def test_a_failed_batch_releases_its_buffer(tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card, fail_above=2)
    with open_engine(path, EngineRequest("torch", batch=3, workers=1)) as engine:
        for _ in range(2):
            with pytest.raises(EngineError, match=r"torch-cpu-fp32 failed on a batch of 3: [^\n]+$"):
                engine.submit(engine.lend(3))
            assert engine.collect(engine.submit(engine.lend(2))).outputs["scores"].shape == (2, 4)
        engine.__exit__(None, None, None)
        with pytest.raises(EngineError, match="closed"):
            engine.submit(engine.lend(1))


def test_auto_never_chooses_pytorch(bundled: Path, tmp_path: Path) -> None:
    from vision_infer.engine.selection.candidates import candidates

    assert auto_device(EngineRequest()) == "cpu"
    assert not [one for one in candidates(bundled) if one.engine.startswith("torch")]
    with pytest.raises(UsageError, match="Name one of them only"):
        open_engine(bundled, EngineRequest("torch-cpu-fp32", device="cuda:0"))
    with pytest.raises(EngineError, match="the model gives the engine torch-cpu-fp32"):
        open_engine(bundled, EngineRequest("torch-cpu-fp16"))


Case = tuple[str, list[Any], dict[str, Any]]


def real(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


CASES: list[Case] = [
    ("Slice", [real(4, 5, 6), ints(-1, 1), ints(-(2**40), 2**40), ints(0, 2), ints(-2, 3)], {}),
    ("Slice", [real(4, 5, 6), ints(1), ints(-1), ints(-1)], {}),
    ("Split", [real(2, 7), ints(3, 4)], {"axis": -1}),
    ("Pad", [real(2, 3, 4, 5), ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(-7.0)], {}),
    ("Gather", [real(3, 4, 5), np.array([[0, -1], [2, 1]], np.int64)], {"axis": 1}),
    ("Gather", [real(3, 4), np.int64(-2)], {"axis": 0}),
    ("GatherElements", [real(3, 4), np.array([[0, -1, 2, 1]], np.int64)], {"axis": 0}),
    ("GatherND", [real(2, 3, 4, 5), np.array([[[0, 1]], [[2, 3]]], np.int64)], {"batch_dims": 1}),
    ("TopK", [np.random.default_rng(0).permutation(40).reshape(2, 20).astype(np.float32), ints(5)], {"axis": 1}),
    ("Conv", [real(2, 4, 9, 8), real(6, 2, 3, 3), real(6)], {"group": 2, "pads": [0, 1, 2, 0], "strides": [2, 1]}),
    ("MaxPool", [real(1, 2, 9, 9)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [real(1, 2, 8, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [real(1, 2, 9, 9)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [real(1, 2, 9, 9)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Resize", [real(1, 2, 4, 5), real(0), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
    ("Resize", [real(1, 2, 4, 5), real(0), real(0), ints(1, 2, 7, 11)], {"mode": "linear"}),
    (
        "Resize",
        [real(1, 2, 8, 9), real(0), real(0), ints(1, 2, 5, 3)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    ("Resize", [real(1, 2, 8, 9), real(0), real(0), ints(1, 2, 13, 20)], {"mode": "cubic", "cubic_coeff_a": -0.75}),
    ("GridSample", [real(1, 2, 6, 7), np.tanh(real(1, 3, 4, 2)) * 1.2], {"mode": "bilinear", "padding_mode": "zeros"}),
    ("ReduceMean", [real(2, 3, 4)], {"axes": [1, -1], "keepdims": 0}),
    ("ReduceSum", [np.arange(6, dtype=np.int32).reshape(2, 3), ints(1)], {"keepdims": 0}),
    ("ReduceL2", [real(2, 3, 4)], {"axes": [-1]}),
    ("Gemm", [real(3, 4), real(5, 4), real(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("LayerNormalization", [real(2, 3, 8), real(8), real(8)], {"axis": -1}),
    ("BatchNormalization", [real(2, 3, 4, 4), real(3), real(3), real(3), np.abs(real(3)) + 1], {}),
    ("Clip", [real(3, 4), np.float32(-0.5), np.float32(0.25)], {}),
    ("Expand", [real(3, 1), ints(2, 1, 4)], {}),
    ("Tile", [real(2, 3), ints(2, 3)], {}),
    ("Where", [np.array([True, False]), real(2), np.float32(9)], {}),
    ("Div", [np.array([-7, 7], np.int32), np.array([2, -2], np.int32)], {}),
    ("Mod", [np.array([-7, 7], np.int32), np.array([3, -3], np.int32)], {}),
    ("Max", [real(3), real(2, 1), np.float32(0)], {}),
    ("Unsqueeze", [real(2, 3), ints(-1, 0)], {}),
    ("Flatten", [real(2, 3, 4)], {"axis": 2}),
    ("Softmax", [real(2, 3, 4)], {"axis": 1}),
    ("HardSigmoid", [real(5)], {"alpha": 0.25}),
    ("HardSwish", [real(5) * 4], {}),
    ("QuantizeLinear", [real(2, 3), np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], np.uint8)], {"axis": 1}),
    ("DequantizeLinear", [np.arange(-3, 3, dtype=np.int8).reshape(2, 3), np.float32(0.5), np.int8(1)], {}),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{one[0]}-{number}" for number, one in enumerate(CASES)])
def test_each_operator_matches_onnx_runtime(case: Case) -> None:
    import onnxruntime
    import torch

    from vision_infer.engine.runtimes.torch_graph import _attributes
    from vision_infer.engine.runtimes.torch_operators import OPERATORS

    operator, arrays, attributes = case
    arrays = [np.asarray(array) for array in arrays]
    inputs = [f"in{number}" if array.size else "" for number, array in enumerate(arrays)]
    count = 2 if operator in ("Split", "TopK") else 1
    node = helper.make_node(operator, inputs, [f"out{number}" for number in range(count)], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(inputs, arrays, strict=True)
            if name
        ],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: array for name, array in zip(inputs, arrays, strict=True) if name})
    given = OPERATORS[operator]([torch.from_numpy(one.copy()) if one.size else None for one in arrays], _attributes(node))
    for one, other in zip([given] if count == 1 else given, expected, strict=True):
        assert one.numpy().dtype == other.dtype
        assert one.numpy().shape == other.shape
        assert np.allclose(one.numpy(), other, atol=1e-5, rtol=1e-5)


def test_shapes_are_computed_on_the_host(tmp_path: Path, card: ModelCard) -> None:
    """Values computed from shapes stay on the host; only values computed from images are on the device."""
    import torch

    from vision_infer.engine.runtimes.torch_graph import TorchGraph

    side = ("batch", 32, 32, 3)
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["real", "wanted"], ["flat"]),
        helper.make_node("Expand", ["many", "wanted"], ["wide"]),
        helper.make_node("Add", ["flat", "wide"], ["scores"]),
    ]
    constants: dict[str, Any] = {"first": ints(0), "rest": ints(3072), "many": np.ones((1, 1), np.float32)}
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, side)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", 3072))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.append(onnx.StringStringEntryProto(key=CARD_KEY, value=card.to_json()))
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = TorchGraph(path, "meta")  # a device without contents: reading a value fails
    given = loaded.run(torch.empty((5, 32, 32, 3), dtype=torch.uint8, device="meta"))
    assert (given["scores"].device.type, given["scores"].shape) == ("meta", (5, 3072))


@pytest.mark.parametrize("family", ["nanodet", "detr"])
def test_no_value_is_read_from_the_device(family: str, graph: Callable[[str], Path]) -> None:
    """A CUDA graph cannot be recorded if an operator waits for a value; on this device every wait fails."""
    import torch

    from vision_infer.engine.runtimes.torch_graph import TorchGraph

    outputs = TorchGraph(graph(family), "meta").run(torch.empty((3, 416, 416, 3), dtype=torch.uint8, device="meta"))
    assert {name: (tuple(one.shape), one.device.type) for name, one in outputs.items()} == {
        "boxes": ((3, 300, 4), "meta"),
        "scores": ((3, 300), "meta"),
        "class_ids": ((3, 300), "meta"),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of what torch itself imports when it compiles
def test_a_compiled_graph_gives_the_same(bundled: Path, pictures: list[VideoImage]) -> None:
    with open_engine(bundled, EngineRequest("torch")) as engine:
        expected = infer(engine, pictures[:1])
    with open_engine(bundled, EngineRequest("torchcompile-cpu-fp32", workers=1)) as engine:
        assert assert_same(infer(engine, pictures[:1]), 0, expected, 0)


@pytest.mark.gpu
@needs_torch_cuda
@pytest.mark.parametrize("family", ["nanodet", "detr"])
def test_a_gpu_and_the_cpu_find_the_same(family: str, graph: Callable[[str], Path], pictures: list[VideoImage]) -> None:
    path = graph(family)
    with open_engine(path, EngineRequest("torch-cpu-fp32")) as engine:
        expected = [infer(engine, [image]) for image in pictures]
    said: list[str] = []
    with open_engine(path, EngineRequest("torch", device="cuda:0", batch=4), said.append) as engine:
        assert engine.name == "torch-cuda-fp32"
        for _ in range(3):  # unrecorded, recorded, launched
            batch = infer(engine, pictures)
            assert all(assert_same(batch, place, expected[place], 0, 1e-3, 0.2) >= 0 for place in range(3))
    assert said == []
