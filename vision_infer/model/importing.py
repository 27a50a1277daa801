"""Import of models: recognize a raw model, add its card and head, verify it, and write the folder ``NAME/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from vision_infer.core.card import InputSize, ModelCard, parse_card
from vision_infer.core.errors import FixedBatchError, ModelError
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.building import CANDIDATES, join
from vision_infer.model.catalog import CARD_FILE, GRAPH_FILE, graph_file
from vision_infer.model.graph import check_contract, read_card, write_card
from vision_infer.model.heads import find_head
from vision_infer.model.labels import labels_of_file, read_keypoints, read_labels
from vision_infer.model.model_folder import card_to_yaml, new_folder, refuse_taken, save_graph
from vision_infer.model.network import RawNetwork, ScoreKind, channels_first, find_image, fixed_size, prepare_network
from vision_infer.model.pull.checksum import hash_file
from vision_infer.model.reading import read_onnx
from vision_infer.model.recognize import recognize_head

_Three = tuple[float, float, float]
OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A model to import. Options that are None are detected, or are the defaults of the model's family."""

    file: Path
    """The .onnx file: a raw model, or a deployment graph, which takes no options."""
    name: str
    """The name of the model, and of its folder."""
    model_dir: Path
    """The folder of the user's models."""
    head: str | None = None
    """The model family."""
    labels: str | Path | None = None
    """``"coco"``, or a text file with one label per line; None: the labels in the file, or else class numbers."""
    keypoints: Path | None = None
    """A YAML file with ``names`` and ``skeleton`` of the model's keypoints; None: COCO's 17 for a model with keypoints."""
    fit: Fit | None = None
    """How images are fitted into the input."""
    fill: tuple[int, int, int] | None = None
    """The color of the padding, RGB, 0–255."""
    color: Literal["rgb", "bgr"] | None = None
    """The color order of the model's input."""
    mean: _Three | None = None
    """The value to subtract from each channel, 0–255, in color order."""
    std: _Three | None = None
    """The value to divide each channel by, in color order."""
    inputs: tuple[Size, ...] = ()
    """The input sizes, with a graph for each, the model's own first; empty: the file's size, or the family's."""
    scores: ScoreKind | None = None
    """The kind of the class scores, where the graph does not show it."""
    candidates: int | None = None
    """K, the maximum number of boxes per image; None: 300."""
    overwrite: bool = False
    """Whether to replace a model of the same name."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Additional fields of the card: license, accuracy, origin of the weights."""
    others: Mapping[Size, Path] = field(default_factory=dict)
    """Files of the same model for other input sizes; for sizes without one, the file is rewritten."""

    @property
    def card_options(self) -> dict[str, Any]:
        """The options that are fields of the card."""
        names = ("fit", "fill", "color", "mean", "std")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def has_options(self) -> bool:
        """Whether an option is set that a deployment graph cannot take."""
        return (
            bool(self.card_options or self.head or self.labels or self.inputs or self.scores or self.keypoints)
            or self.candidates is not None
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model that is built but not yet in its place, for verification."""

    where: str
    """The name of the file, for messages."""
    card: ModelCard
    """The card of the first graph."""
    graphs: dict[Size, Path]
    """The deployment graphs by input size."""
    raws: dict[Size, Path]
    """The raw models by input size, original or rewritten for another size; empty for a deployment graph."""
    scores: ScoreKind | None
    """The kind of the class scores where the user specified it."""
    half: bool
    """Whether the model computes in float16."""


Verify = Callable[[Proposal], None]
"""Checks the graphs of a proposed model, and raises ModelError if one of them is wrong."""


def import_model(request: ImportRequest, on_message: OnMessage = lambda _: None, verify: Verify | None = None) -> Path:
    """Import a raw model, or a deployment graph without changes.

    Args:
        request: The file, its name and its options.
        on_message: Receives what was detected, and why, one line at a time.
        verify: Checks the graphs before they are moved to their place.

    Returns:
        The graph of the new model, ``MODEL_DIR/NAME/model.onnx``.

    Raises:
        ModelError: The name is taken or not allowed, or the file is refused. No files are left.
    """
    parse_card({"name": request.name, "input": {"width": 1, "height": 1}}, f"model name '{request.name}'")
    folder, file = request.model_dir / request.name, request.file
    if not request.overwrite:
        refuse_taken(folder)
    model = read_onnx(file)
    card = read_card(model, file.name)
    if card is not None:
        if request.has_options:
            message = f"{file.name}: the file is already a deployment graph, so its head, labels and normalization are fixed"
            raise ModelError(message, "Remove these options, or import the raw model.")
        check_contract(model, card, file.name)
        card = card.model_copy(update={"name": request.name})
        write_card(model, card)
        return _write(request, card, {card.input_size: model}, {}, (card.input_size,), verify)
    try:
        return _import_raw(model, request, on_message, verify, single=False)
    except FixedBatchError as error:
        on_message(f"{error.message}; trying one image at a time")
        path = _import_raw(model, request, on_message, verify, single=True)
    on_message(f"{file.name}: the model runs one image at a time. For larger batches, export it with a dynamic batch.")
    return path


def _import_raw(
    model: onnx.ModelProto, request: ImportRequest, on_message: OnMessage, verify: Verify | None, single: bool
) -> Path:
    file = request.file
    networks, own = _prepare_all(model, request, single)
    sizes = tuple(dict.fromkeys(request.inputs)) or tuple(networks)[:1]
    limit = {"max_batch": 1} if single else {}
    card = _build_card(networks[sizes[0]], request, on_message).model_copy(update={**request.about, **limit})
    graphs = _join_all(networks, card, CANDIDATES if request.candidates is None else request.candidates, on_message)
    sources = {
        size: request.others.get(size, file if own in (None, size) else network.model) for size, network in networks.items()
    }
    return _write(request, card, graphs, sources, sizes, verify)


def _prepare_all(model: onnx.ModelProto, request: ImportRequest, single: bool) -> tuple[dict[Size, RawNetwork], Size | None]:
    """Prepare the model for each requested size, or for its own or its family's; also return the size it is written for."""
    where, files, scores = request.file.name, request.others, request.scores
    model = channels_first(model)
    own = fixed_size(find_image(model, where))
    sizes = tuple(dict.fromkeys(request.inputs)) or _default_sizes(model, request.head) or (() if own is None else (own,))
    networks = {
        size: prepare_network(read_onnx(files[size]) if size in files else model, where, size, scores, single) for size in sizes
    }
    if not networks:
        prepare_network(model, where)  # raises the error that says what is missing
    # A model that is rewritten for other sizes is verified at its own size too, where the original file can run.
    if own is not None and own not in networks:
        networks[own] = prepare_network(model, where, own, scores, single)
    return networks, own


def _build_card(network: RawNetwork, request: ImportRequest, on_message: OnMessage) -> ModelCard:
    """Build the card of a model; its head is recognized if the request does not name it."""
    file, head = request.file, request.head
    if head is None:
        known = request.labels is not None or labels_of_file(network.metadata) is not None
        head, reason = recognize_head(network, known)
        on_message(f"{file.name}: head '{head}', because it has {reason}")
    defaults = find_head(head).DEFAULTS
    values = {
        "name": request.name,
        "head": head,
        "input": InputSize(width=network.size.width, height=network.size.height),
        "labels": read_labels(request.labels) or defaults.labels,
        "weights": {"source": file.name, "sha256": hash_file(file)},
    }
    for name in ("task", "detail", "keypoints", "color", "mean", "std", "fit", "fill", "confidence", "unclip", "iou"):
        values[name] = getattr(defaults, name)
    if defaults.find_detail is not None:
        values["detail"] = defaults.find_detail(network)
    if "keypoints" not in (values["task"], values["detail"]):
        values["keypoints"] = None
    if request.keypoints is not None:
        if values["keypoints"] is None:
            raise ModelError(f"{network.where}: head '{head}' has no keypoints", "Remove --keypoints, or choose another --head.")
        values["keypoints"] = read_keypoints(request.keypoints)
    card = parse_card(values | request.card_options, network.where)
    if request.labels is None and (named := labels_of_file(network.metadata)) is not None:
        card = card.model_copy(update={"labels": named})
        on_message(f"{file.name}: {len(named)} labels from the file")
    if card.labels is None and "labels" not in request.about and card.task not in ("embed", "keypoints"):
        on_message(f"{file.name}: no labels, so results have class numbers; add --labels FILE (one per line) or --labels coco")
    return card


def _join_all(
    networks: dict[Size, RawNetwork], card: ModelCard, candidates: int, on_message: OnMessage
) -> dict[Size, onnx.ModelProto]:
    graphs: dict[Size, onnx.ModelProto] = {}
    for size, network in networks.items():
        sized = card.model_copy(update={"input": InputSize(width=size.width, height=size.height)})
        graphs[size], notes = join(network, sized, candidates)
        if len(graphs) == 1:
            for note in notes:
                on_message(f"{network.where}: {note}")
    return graphs


def _default_sizes(model: onnx.ModelProto, head: str | None) -> tuple[Size, ...]:
    """Return the size for a file that leaves it open: from the exporter's metadata or the family; empty if unknown."""
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


def _write(
    request: ImportRequest,
    card: ModelCard,
    graphs: dict[Size, onnx.ModelProto],
    sources: dict[Size, Path | onnx.ModelProto],
    sizes: tuple[Size, ...],
    verify: Verify | None,
) -> Path:
    """Write a model to a temporary folder, verify it there, and move it to its place; return its graph."""
    folder = request.model_dir / request.name
    with new_folder(folder, request.overwrite) as (made, scratch):
        paths, raws = {}, {}
        for size, graph in graphs.items():
            paths[size] = (made if size in sizes else scratch) / graph_file(size, sizes[0])
            save_graph(graph, paths[size])
        for size, source in sources.items():
            raws[size] = source if isinstance(source, Path) else scratch / f"raw-{size}.onnx"
            if not isinstance(source, Path):
                save_graph(source, raws[size])
        (made / CARD_FILE).write_text(card_to_yaml(card), encoding="utf-8")
        if verify is not None:
            half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in next(iter(graphs.values())).graph.initializer)
            verify(Proposal(request.file.name, card, paths, raws, request.scores, half))
    return folder / GRAPH_FILE
