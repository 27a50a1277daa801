"""Where models are found: the user's own folder first, then the bundled ones.

A model is a folder with ``model.yaml`` (its card) and ``model.onnx`` (its deployment graph); the folder's name is the model's.
It may hold further graphs for other input sizes, ``model-HEIGHTxWIDTH.onnx``. Nothing here reads a graph, so that listing
is quick.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size

CARD_FILE = "model.yaml"
GRAPH_FILE = "model.onnx"
AVAILABLE_FOLDER = "catalogue"
"""among the bundled models: a card for each network that can be pulled"""
HOME_VARIABLE = "VISION_INFER_HOME"
_OTHER_GRAPH = re.compile(r"model-([1-9][0-9]{0,4})x([1-9][0-9]{0,4})\.onnx")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that was found."""

    name: str
    card: ModelCard | None
    """None where it is broken"""
    path: Path
    """the .onnx file, there or not"""
    origin: Literal["bundled", "user"]
    error: str = ""
    """why the model cannot be used; empty if it can"""
    other_sizes: tuple[Size, ...] = ()
    """further input sizes that there are graphs for, beside the card's"""


def model_dir(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of the user's own models, which need not exist.

    Args:
        explicit: as given on the command line or in a configuration; goes before all else.
        environ: the environment; ``VISION_INFER_HOME``/models where that is set.
    """
    return home_dir(environ) / "models" if explicit is None else explicit


def home_dir(environ: Mapping[str, str]) -> Path:
    """The user's own folder of this program, which need not exist: ``VISION_INFER_HOME``, or a usual place."""
    home = environ.get(HOME_VARIABLE, "")
    return (Path(home) if home else Path("~/.local/share/vision-infer")).expanduser()


def bundled_dir() -> Path:
    """The folder of the models that come with the package: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "bundled"
    return inside if inside.is_dir() else package.parent / "models"


def list_models(
    explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> list[ModelEntry]:
    """All models, sorted by name; a user's model hides a bundled one of the same name, and a broken one hides no other.

    Args:
        explicit: the user's folder, as for :func:`model_dir`.
        environ: the environment; None: that of this process.
        bundled: the folder of the bundled models; None: as :func:`bundled_dir` says.
    """
    user = model_dir(explicit, os.environ if environ is None else environ)
    found: dict[str, ModelEntry] = {}
    for entry in (*_scan(bundled or bundled_dir(), "bundled"), *_scan(user, "user")):
        found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def resolve_model(
    name_or_file: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> Path:
    """The .onnx file of a model.

    Args:
        name_or_file: a model's name, or the path of a file that ends in ``.onnx``.
        explicit: the user's folder, as for :func:`model_dir`. The others are as for :func:`list_models`.
        environ: the environment.
        bundled: the folder of the bundled models.

    Raises:
        ModelError: there is no such file or model (names the nearest ones), or the model is broken.
    """
    name = str(name_or_file)
    path = Path(name_or_file)
    if name.endswith(".onnx"):
        if not path.is_file():
            raise ModelError(f"{name}: no such file", "check the path, or give a model's name")
        return path
    entries = {entry.name: entry for entry in list_models(explicit, environ, bundled)}
    if name in entries:
        entry = entries[name]
        if entry.error:
            raise ModelError(f"model '{name}' cannot be used: {entry.error}", f"repair {entry.path.parent}, or import it again")
        return entry.path
    near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
    if ((bundled or bundled_dir()) / AVAILABLE_FOLDER / f"{name}.yaml").is_file():
        hint = f"'vision-infer model pull {name}' fetches it"
    elif near:
        hint = f"did you mean {' or '.join(repr(other) for other in near)}? 'vision-infer model list' shows all"
    else:
        hint = f"there are {', '.join(entries) or 'no models'}; 'vision-infer model import' adds one"
    raise ModelError(f"unknown model '{name}'", hint)


def model_inputs(
    name: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> dict[Size, Path]:
    """The .onnx files of a model by input size; the first is the one that :func:`resolve_model` gives.

    Args:
        name: of a model, or the path of a file that ends in ``.onnx``, which has the one size that its card says.
        explicit: the user's folder, as for :func:`model_dir`. The others are as for :func:`list_models`.
        environ: the environment.
        bundled: the folder of the bundled models.

    Raises:
        ModelError: as :func:`resolve_model`.
    """
    path = resolve_model(name, explicit, environ, bundled)
    if str(name).endswith(".onnx"):
        from vision_infer.model.reading import read_deployment_card

        return {read_deployment_card(path).input_size: path}
    return _graphs(read_card_file(path.with_name(CARD_FILE)), path)


def model_card(
    name: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> ModelCard:
    """The card of a model, or that inside a deployment graph; the arguments are as for :func:`model_inputs`.

    Raises:
        ModelError: as :func:`resolve_model`, or the graph has no card.
    """
    path = resolve_model(name, explicit, environ, bundled)
    if str(name).endswith(".onnx"):
        from vision_infer.model.reading import read_deployment_card

        return read_deployment_card(path)
    return read_card_file(path.with_name(CARD_FILE))


def graph_file(size: Size, first: Size) -> str:
    """The name of a model's graph for an input size, where ``first`` is the model's own."""
    return GRAPH_FILE if size == first else f"model-{size.height}x{size.width}.onnx"


def _graphs(card: ModelCard, path: Path) -> dict[Size, Path]:
    """The graphs in a model's folder by input size, that of its card first."""
    found = {card.input_size: path}
    for other in sorted(path.parent.glob("model-*.onnx")):
        match = _OTHER_GRAPH.fullmatch(other.name)
        if match is not None:
            found.setdefault(Size(int(match[2]), int(match[1])), other)
    return found


def _scan(folder: Path, origin: Literal["bundled", "user"]) -> list[ModelEntry]:
    try:
        cards = sorted(folder.glob(f"*/{CARD_FILE}"))
    except OSError:  # pragma: no cover - a folder that vanishes or may not be read holds no models for us
        return []
    # A hidden folder is an import that has not ended.
    return [_read_entry(path, origin) for path in cards if not path.parent.name.startswith(".")]


def _read_entry(card_file: Path, origin: Literal["bundled", "user"]) -> ModelEntry:
    name, graph = card_file.parent.name, card_file.with_name(GRAPH_FILE)
    try:
        card = read_card_file(card_file)
    except ModelError as error:
        return ModelEntry(name, None, graph, origin, error.message)
    missing = "" if graph.is_file() else f"{name}/{GRAPH_FILE} is missing"
    return ModelEntry(name, card, graph, origin, missing, tuple(_graphs(card, graph))[1:])


def read_card_file(path: Path) -> ModelCard:
    """Read a ``model.yaml``.

    Raises:
        ModelError: it cannot be read, is no YAML, or is no card.
    """
    import yaml

    where = f"{path.parent.name}/{path.name}"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: cannot be read", "check the file") from error
    except yaml.YAMLError as error:
        raise ModelError(f"{where}: is not YAML", "see docs/reference/results.md for the card's fields") from error
    return parse_card(data, where)
