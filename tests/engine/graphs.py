"""Small deployment graphs, valid and invalid ones, made with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vision_infer.core.card import CARD_KEY, InputSize, ModelCard

Shape = Sequence[int | str]


def tiny_graph(
    path: Path,
    card: ModelCard | str | None,
    *,
    image: tuple[str, int, Shape] = ("images", TensorProto.UINT8, ("batch", 32, 32, 3)),
    outputs: dict[str, tuple[int, Shape]] | None = None,
    candidates: int = 4,
    fail_above: int | None = None,
) -> Path:
    """Write a graph whose scores are the mean of the image / 255, so that the results identify the image.

    Args:
        path: The file.
        card: The card in the file; a string is written unmodified; None: no card.
        image: The input: name, type, shape.
        outputs: The declared types and shapes instead of the right ones; a name that is left out is missing.
        candidates: The number of candidates.
        fail_above: The largest batch size that runs; larger ones fail.
    """
    declared = outputs or {
        "boxes": (TensorProto.FLOAT, ("batch", candidates, 4)),
        "scores": (TensorProto.FLOAT, ("batch", candidates)),
        "class_ids": (TensorProto.INT32, ("batch", candidates)),
    }
    ones = np.ones((1, candidates), np.float32)
    corners = np.tile(np.array([1, 2, 20, 30], np.float32), (1, candidates, 1))
    constants: dict[str, Any] = {"ones": ones, "corners": corners, "full": np.float32(255), "one": np.float32(1)}
    nodes = [
        helper.make_node("Cast", [image[0]], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Div", ["column", "full"], ["share"]),
        helper.make_node("Mul", ["share", "ones"], ["plain_scores"]),
        helper.make_node("Unsqueeze", ["plain_scores", "last"], ["deep"]),
        helper.make_node("Sub", ["deep", "deep"], ["nothing"]),
        helper.make_node("Add", ["nothing", "corners"], ["some_boxes"]),
        helper.make_node("Sub", ["plain_scores", "plain_scores"], ["zeros"]),
    ]
    constants |= {"axis": np.array([1], np.int64), "last": np.array([2], np.int64)}
    scores = "plain_scores"
    if fail_above is not None:
        # Broadcasts for one image only: [fail_above, 1] + [B, K] fails for other B above 1.
        constants["narrow"] = np.zeros((fail_above, 1), np.float32)
        nodes.append(helper.make_node("Add", ["plain_scores", "narrow"], ["narrow_scores"]))
        scores = "narrow_scores"
    sources = {"boxes": "some_boxes", "scores": scores, "class_ids": "zeros", "embedding": scores}
    for name, (kind, _) in declared.items():
        nodes.append(helper.make_node("Cast", [sources.get(name, scores)], [name], to=kind))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*image)],
        [helper.make_tensor_value_info(name, *rest) for name, rest in declared.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        text = card if isinstance(card, str) else card.to_json()
        model.metadata_props.append(onnx.StringStringEntryProto(key=CARD_KEY, value=text))
    onnx.save(model, str(path))
    return path


def externalize(path: Path, location: str) -> Path:
    """Declare that the tensor ``ones`` is in another file; write that file if it is in the same folder or below."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == "ones":
            data = numpy_helper.to_array(tensor).tobytes()
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
                tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
            target = path.parent / location
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    path.write_bytes(model.SerializeToString())
    return path


def color_graph(path: Path, task: Literal["classify", "embed"] = "classify", side: int = 16) -> Path:
    """Write a graph that returns the amounts of red, green and blue in an image, as probabilities or as an embedding.

    Args:
        path: The file.
        task: ``classify`` or ``embed``.
        side: The side of its square input, pixels.
    """
    labels = ("red", "green", "blue") if task == "classify" else None
    card = ModelCard(name=f"color-{task}", task=task, input=InputSize(width=side, height=side), fit="stretch", labels=labels)
    output = "scores" if task == "classify" else "embedding"
    if task == "classify":
        whole = helper.make_node("ReduceSum", ["positive", "axis"], ["whole"], keepdims=1)
    else:
        whole = helper.make_node("ReduceL2", ["positive"], ["whole"], keepdims=1, axes=[1])
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["mean", "little"], ["positive"]),
        whole,
        helper.make_node("Div", ["positive", "whole"], [output]),
    ]
    constants = {"little": np.float32(1e-3), "axis": np.array([1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "color",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ("batch", side, side, 3))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("batch", 3))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.append(onnx.StringStringEntryProto(key=CARD_KEY, value=card.to_json()))
    onnx.save(model, str(path))
    return path
