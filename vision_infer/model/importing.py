"""A raw network becomes a model: recognised, given its card and its head, and written as ``NAME/model.onnx`` + ``model.yaml``."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnx
import yaml
from onnx import TensorProto

from vision_infer.core.card import InputSize, ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.catalogue import CARD_FILE, GRAPH_FILE
from vision_infer.model.decode import normalise_images
from vision_infer.model.graph import BATCH, GraphBuilder, check_contract, finish, opset_of, read_card, tensor_info, write_card
from vision_infer.model.heads import find_head, head_names
from vision_infer.model.network import RawNetwork, prepare_network, read_onnx

COCO_FILE = Path(__file__).with_name("coco.txt")
_Three = tuple[float, float, float]


def build_deployment_graph(raw_path: Path, card: ModelCard, candidates: int = 300) -> onnx.ModelProto:
    """Give a raw network its pre-processing and the decoding of its head.

    Args:
        raw_path: the network as its authors export it.
        card: what it is; ``head`` and ``input`` must be right.
        candidates: K, the number of boxes for each picture; less where the network has less to give.

    Returns:
        A graph from ``images`` uint8 [batch, H, W, 3] to ``boxes`` float32 [batch, K, 4] (xyxy, input pixels), ``scores``
        float32 [batch, K] and ``class_ids`` int32 [batch, K], with the card inside.

    Raises:
        ModelError: the file cannot be read, or does not fit the head or the card.
    """
    network = prepare_network(read_onnx(raw_path), raw_path.name, card.input_size)
    return _join(network, card, candidates)


def recognise_head(network: RawNetwork) -> tuple[str, str]:
    """Find the head of a network by its inputs and outputs.

    Returns:
        The head's name, and why it is that one.

    Raises:
        ModelError: no head or several fit; names the candidates.
    """
    fitting = {name: reason for name in head_names() if (reason := find_head(name).recognise(network)) is not None}
    if len(fitting) == 1:
        return fitting.popitem()
    shown = ", ".join(str(tensor) for tensor in network.outputs)
    if fitting:
        raise ModelError(f"{network.where}: several heads fit its outputs {shown}", f"choose one: {', '.join(fitting)}")
    raise ModelError(f"{network.where}: no head fits its outputs {shown}", f"choose one of the heads: {', '.join(head_names())}")


def import_model(
    file: Path,
    name: str,
    head: str | None = None,
    *,
    labels: str | Path | None = None,
    fit: Fit | None = None,
    fill: tuple[int, int, int] | None = None,
    color: Literal["rgb", "bgr"] | None = None,
    mean: _Three | None = None,
    std: _Three | None = None,
    input_size: Size | None = None,
    model_dir: Path,
    candidates: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Import a raw network, or a deployment graph as it is.

    Args:
        file: the .onnx file.
        name: of the model, and so of its folder.
        head: its family; None: recognised.
        labels: ``"coco"``, a text file with one label a line, or None: the class number is the label.
        fit: how a picture is fitted; None: as usual in the family. So are the next four.
        fill: RGB around the picture.
        color: colour order that the network wants.
        mean: subtracted, in colour order.
        std: divided by, in colour order.
        input_size: for a file that leaves it open.
        model_dir: where models are kept.
        candidates: K, the number of boxes for each picture; None: 300.
        overwrite: replace a model of that name.
        say: is told which head was recognised, and why.

    Returns:
        The new model's graph, ``MODEL_DIR/NAME/model.onnx``.

    Raises:
        ModelError: the name is taken or not allowed, or the file is refused.
    """
    parse_card({"name": name, "input": {"width": 1, "height": 1}}, f"model name '{name}'")
    folder = model_dir / name
    if folder.exists() and not overwrite:
        raise ModelError(
            f"there is a model '{name}' in {model_dir} already", "replace it with --overwrite, or choose another name"
        )
    # Whatever is None is left out, so that the defaults come from one place: the head.
    given: dict[str, Any] = {"fit": fit, "fill": fill, "color": color, "mean": mean, "std": std}
    given = {key: value for key, value in given.items() if value is not None}
    model = read_onnx(file)
    card = read_card(model, file.name)
    if card is not None:
        if given or head or labels or input_size or candidates is not None:
            message = f"{file.name}: is a deployment graph already, so that its head, labels and normalisation are fixed"
            raise ModelError(message, "leave these options out, or import the raw network")
        check_contract(model, card, file.name)
        card = card.model_copy(update={"name": name})
        write_card(model, card)
    else:
        network = prepare_network(model, file.name, input_size or _default_size(model, head))
        if head is None:
            head, reason = recognise_head(network)
            say(f"{file.name}: head '{head}', for it has {reason}")
        given |= {"labels": read_labels(labels), "weights": {"source": file.name, "sha256": _sha256(file)}}
        card = _make_card(network, name, head, given)
        model = _join(network, card, 300 if candidates is None else candidates)
    _write_folder(folder, model, card)
    return folder / GRAPH_FILE


def read_deployment_card(file: Path) -> ModelCard:
    """The card inside a deployment graph.

    Raises:
        ModelError: the file cannot be read, or carries no card.
    """
    card = read_card(read_onnx(file), str(file))
    if card is None:
        raise ModelError(f"{file}: is no deployment graph", f"vision-infer model import {file} --name NAME makes one")
    return card


def read_labels(labels: str | Path | None) -> tuple[str, ...] | None:
    """The labels by class number.

    Args:
        labels: ``"coco"``, a text file with one label a line, or None.

    Raises:
        ModelError: the file cannot be read as text, or is empty.
    """
    if labels is None:
        return None
    path = COCO_FILE if labels == "coco" else Path(labels)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{labels}: cannot be read as labels", "give 'coco', or a text file with one label a line") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ModelError(f"{labels}: holds no labels", "write one label a line")
    return tuple(line.strip() for line in lines)


def card_to_yaml(card: ModelCard) -> str:
    """The card as ``model.yaml``, fields in the card's order."""
    data = card.model_dump(mode="json", exclude_defaults=True)
    # Always written, though they may have their default values: they are what a reader looks for.
    for field in ("task", "labels", "iou", "confidence", "fit", "fill", "color", "mean", "std"):
        data[field] = card.model_dump(mode="json")[field]
    ordered = {field: data[field] for field in ModelCard.model_fields if field in data}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _default_size(model: onnx.ModelProto, head: str | None) -> Size | None:
    """The family's input size for a file that leaves it open; None where the file or nobody says it."""
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if head is not None and len(dims) == 4 and not all(dim.HasField("dim_value") for dim in list(dims)[2:]):
            return find_head(head).DEFAULTS.input_size
    return None


def _make_card(network: RawNetwork, name: str, head: str, given: dict[str, Any]) -> ModelCard:
    defaults = find_head(head).DEFAULTS
    values = {
        "name": name,
        "head": head,
        "input": InputSize(width=network.size.width, height=network.size.height),
        "color": defaults.color,
        "mean": defaults.mean,
        "std": defaults.std,
        "fit": defaults.fit,
        "fill": defaults.fill,
        "confidence": defaults.confidence,
        "iou": defaults.iou,
    }
    return parse_card(values | given, network.where)


def _join(network: RawNetwork, card: ModelCard, candidates: int) -> onnx.ModelProto:
    """Pre-processing + network + head, as one checked graph."""
    if candidates < 1:
        raise ModelError(f"{network.where}: cannot give {candidates} candidates", "ask for at least 1")
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    builder = GraphBuilder(opset_of(model))
    tensor = normalise_images(builder, "images", card, network.image.dtype)
    builder.rename(tensor, network.image.inside)
    before = builder.take_nodes()
    decoded = find_head(card.head).append(builder, network, card, candidates)
    for old, new in ((decoded.boxes, "boxes"), (decoded.scores, "scores"), (decoded.class_ids, "class_ids")):
        builder.rename(old, new)
    nodes = [*before, *model.graph.node, *builder.take_nodes()]
    graph = model.graph
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:], model.metadata_props[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.initializers)
    graph.input.append(tensor_info("images", TensorProto.UINT8, BATCH, network.size.height, network.size.width, 3))
    graph.output.append(tensor_info("boxes", TensorProto.FLOAT, BATCH, "K", 4))
    graph.output.append(tensor_info("scores", TensorProto.FLOAT, BATCH, "K"))
    graph.output.append(tensor_info("class_ids", TensorProto.INT32, BATCH, "K"))
    model.producer_name, graph.name = "vision-infer", card.name
    return finish(model, card, network.where)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _swap(made: Path, folder: Path, old: Path) -> None:
    """Put a folder in its place; what was there comes back if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _write_folder(folder: Path, model: onnx.ModelProto, card: ModelCard) -> None:
    """Write a model so that it is there as a whole or not at all."""
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a rename within one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".importing-", dir=folder.parent))
        made = temporary / folder.name
        made.mkdir()
        onnx.save(model, made / GRAPH_FILE)
        (made / CARD_FILE).write_text(card_to_yaml(card), encoding="utf-8")
        _swap(made, folder, temporary / "old")
    except (OSError, ValueError) as error:  # ValueError: protobuf holds at most 2 GiB
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise ModelError(f"model '{card.name}' cannot be written to {folder.parent}: {reason}", "check the folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
