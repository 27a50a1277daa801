"""A raw network becomes a model: recognised, given card and head, proved, and written to ``NAME/``: graphs and ``model.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from vision_infer.core.card import InputSize, ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.building import CANDIDATES, join
from vision_infer.model.catalogue import GRAPH_FILE, graph_file
from vision_infer.model.graph import check_contract, read_card, write_card
from vision_infer.model.heads import find_head
from vision_infer.model.labels import labels_of_file, read_labels
from vision_infer.model.model_folder import new_folder, refuse_taken, save_graph, write_card_file
from vision_infer.model.network import RawNetwork, ScoreKind, find_image, fixed_size, prepare_network
from vision_infer.model.reading import read_onnx
from vision_infer.model.recognise import recognise_head

_Three = tuple[float, float, float]
OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model that is made, but not yet in its place: what a proof has to look at."""

    where: str
    """the file, for messages"""
    card: ModelCard
    """of the first graph"""
    graphs: dict[Size, Path]
    """deployment graphs by input size"""
    raws: dict[Size, Path]
    """raw networks by input size: the file as it came, or as it was rewritten for another size; empty for a deployment graph"""
    scores: ScoreKind | None
    """what the class scores are, where a person said so"""
    half: bool
    """whether the network computes in float16"""


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
    inputs: tuple[Size, ...] = (),
    scores: ScoreKind | None = None,
    model_dir: Path,
    candidates: int | None = None,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
    others: Mapping[Size, Path] | None = None,
    on_message: OnMessage = lambda _: None,
    prove: Callable[[Proposal], None] | None = None,
) -> Path:
    """Import a raw network, or a deployment graph as it is.

    Args:
        file: the .onnx file.
        name: of the model, and so of its folder.
        head: its family; None: recognised.
        labels: ``"coco"``, a text file with one label a line, or None: those that the file names, else class numbers.
        fit: how a picture is fitted; None: as usual in the family. So are the next four.
        fill: RGB around the picture.
        color: colour order that the network wants.
        mean: subtracted, in colour order.
        std: divided by, in colour order.
        inputs: the input sizes, a graph for each, the first one the model's own; empty: the file's, or the family's.
        scores: what its class scores are, where its graph does not tell.
        model_dir: where models are kept.
        candidates: K, the number of boxes for each picture; None: 300.
        overwrite: replace a model of that name.
        about: further fields of its card: licence, accuracy, origin of the weights.
        others: files of the same network for other input sizes; for those without one the file is rewritten.
        say: is told what was recognised, and why.
        prove: looks at the graphs before they are put in their place, and raises where they are not right.

    Returns:
        The new model's graph, ``MODEL_DIR/NAME/model.onnx``.

    Raises:
        ModelError: the name is taken or not allowed, or the file is refused; nothing is left behind.
    """
    parse_card({"name": name, "input": {"width": 1, "height": 1}}, f"model name '{name}'")
    folder = model_dir / name
    if not overwrite:
        refuse_taken(folder)
    options = {"fit": fit, "fill": fill, "color": color, "mean": mean, "std": std}
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    model = read_onnx(file)
    card = read_card(model, file.name)
    if card is not None:
        if given or head or labels or inputs or scores or candidates is not None:
            raise _fixed_already(file)
        card = _renamed(model, card, name, file)
        _put(folder, file, card, {card.input_size: model}, {}, (card.input_size,), None, overwrite, prove)
        return folder / GRAPH_FILE
    files = dict(others or {})
    networks, own = _prepare_all(model, file, head, inputs, scores, files)
    sizes = tuple(dict.fromkeys(inputs)) or tuple(networks)[:1]
    card = _card_of(networks[sizes[0]], file, name, head, labels, given, on_message).model_copy(update=dict(about or {}))
    graphs = _join_all(networks, card, CANDIDATES if candidates is None else candidates, on_message)
    sources = {size: files.get(size, file if own in (None, size) else network.model) for size, network in networks.items()}
    _put(folder, file, card, graphs, sources, sizes, scores, overwrite, prove)
    return folder / GRAPH_FILE


def _fixed_already(file: Path) -> ModelError:
    message = f"{file.name}: is a deployment graph already, so that its head, labels and normalisation are fixed"
    return ModelError(message, "leave these options out, or import the raw network")


def _renamed(model: onnx.ModelProto, card: ModelCard, name: str, file: Path) -> ModelCard:
    """Give a deployment graph another name; its new card."""
    check_contract(model, card, file.name)
    renamed = card.model_copy(update={"name": name})
    write_card(model, renamed)
    return renamed


def _prepare_all(
    model: onnx.ModelProto,
    file: Path,
    head: str | None,
    inputs: tuple[Size, ...],
    scores: ScoreKind | None,
    files: Mapping[Size, Path],
) -> tuple[dict[Size, RawNetwork], Size | None]:
    """The network at each size that is asked for, or at its own or its family's; and the size that the file is written for."""
    own = fixed_size(find_image(model, file.name))
    sizes = tuple(dict.fromkeys(inputs)) or _usual_sizes(model, head) or (() if own is None else (own,))
    networks = {
        size: prepare_network(read_onnx(files[size]) if size in files else model, file.name, size, scores) for size in sizes
    }
    if not networks:
        prepare_network(model, file.name)  # says what is missing
    # A network that is rewritten for other sizes is proved at its own as well, where the file itself can be run.
    if own is not None and own not in networks:
        networks[own] = prepare_network(model, file.name, own, scores)
    return networks, own


def _card_of(
    network: RawNetwork,
    file: Path,
    name: str,
    head: str | None,
    labels: str | Path | None,
    given: dict[str, Any],
    on_message: OnMessage,
) -> ModelCard:
    """The card of a network, whose head is recognised where it is not given."""
    if head is None:
        head, reason = recognise_head(network)
        on_message(f"{file.name}: head '{head}', for it has {reason}")
    read = {"labels": read_labels(labels), "weights": {"source": file.name, "sha256": _sha256(file)}}
    card = _make_card(network, name, head, given | read)
    if labels is None and (named := labels_of_file(network.metadata)) is not None:
        card = card.model_copy(update={"labels": named})
        on_message(f"{file.name}: {len(named)} labels, as the file names them")
    if card.labels is None and card.task != "embed":
        on_message(
            f"{file.name}: no labels, so that results tell class numbers; --labels FILE (one a line) or --labels coco names them"
        )
    return card


def read_deployment_card(file: Path) -> ModelCard:
    """The card inside a deployment graph.

    Raises:
        ModelError: the file cannot be read, or carries no card.
    """
    card = read_card(read_onnx(file), str(file))
    if card is None:
        raise ModelError(f"{file}: is no deployment graph", f"vision-infer model import {file} --name NAME makes one")
    return card


def _join_all(
    networks: dict[Size, RawNetwork], card: ModelCard, candidates: int, on_message: OnMessage
) -> dict[Size, onnx.ModelProto]:
    graphs: dict[Size, onnx.ModelProto] = {}
    for size, network in networks.items():
        own = card.model_copy(update={"input": InputSize(width=size.width, height=size.height)})
        graphs[size], notes = join(network, own, candidates)
        if len(graphs) == 1:
            for note in notes:
                on_message(f"{network.where}: {note}")
    return graphs


def _usual_sizes(model: onnx.ModelProto, head: str | None) -> tuple[Size, ...]:
    """The size for a file that leaves it open: what its exporter wrote down, or the family's; empty if nobody says."""
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if len(dims) != 4 or all(dim.HasField("dim_value") for dim in list(dims)[2:]):
            continue
        written = {entry.key: entry.value for entry in model.metadata_props}.get("imgsz", "")
        numbers = written.strip("[]() ").replace(" ", "").split(",")
        if len(numbers) == 2 and all(number.isdecimal() and 0 < int(number) <= 16384 for number in numbers):
            return (Size(int(numbers[1]), int(numbers[0])),)
        if head is not None:
            return (find_head(head).DEFAULTS.input_size,)
    return ()


def _make_card(network: RawNetwork, name: str, head: str, given: dict[str, Any]) -> ModelCard:
    defaults = find_head(head).DEFAULTS
    values = {
        "name": name,
        "task": defaults.task,
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


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _put(
    folder: Path,
    file: Path,
    card: ModelCard,
    graphs: dict[Size, onnx.ModelProto],
    sources: dict[Size, Path | onnx.ModelProto],
    sizes: tuple[Size, ...],
    scores: ScoreKind | None,
    overwrite: bool,
    prove: Callable[[Proposal], None] | None,
) -> None:
    """Write a model, let it be proved, and put it in its place."""
    with new_folder(folder, overwrite) as (made, scratch):
        paths, raws = {}, {}
        for size, graph in graphs.items():
            paths[size] = (made if size in sizes else scratch) / graph_file(size, sizes[0])
            save_graph(graph, paths[size])
        for size, source in sources.items():
            raws[size] = source if isinstance(source, Path) else scratch / f"raw-{size}.onnx"
            if not isinstance(source, Path):
                save_graph(source, raws[size])
        write_card_file(made, card)
        if prove is not None:
            half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in next(iter(graphs.values())).graph.initializer)
            prove(Proposal(file.name, card, paths, raws, scores, half))
