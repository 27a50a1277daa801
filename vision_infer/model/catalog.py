"""Search for models: the user's folder first, then the bundled models.

A model is a folder with ``model.yaml`` (its card) and ``model.onnx`` (its deployment graph); the folder's name is the model's.
It may have more graphs for other input sizes, ``model-HEIGHTxWIDTH.onnx``. Listing models does not read the graphs.
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
AVAILABLE_FOLDER = "catalog"
"""The folder among the bundled models with a card for each model that can be downloaded."""
HOME_VARIABLE = "VISION_INFER_HOME"
_OTHER_GRAPH = re.compile(r"model-([1-9][0-9]{0,4})x([1-9][0-9]{0,4})\.onnx")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in a folder."""

    name: str
    card: ModelCard | None
    """The card; None if it is invalid."""
    path: Path
    """The .onnx file, which may be missing."""
    origin: Literal["bundled", "user"]
    error: str = ""
    """The reason why the model cannot be used; empty if it can."""
    other_sizes: tuple[Size, ...] = ()
    """The input sizes of additional graphs."""


def model_dir(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the folder of the user's models, which may not exist.

    Args:
        explicit: The folder from the command line or a configuration, which takes precedence.
        environ: The environment.
    """
    return home_dir(environ) / "models" if explicit is None else explicit


def home_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's folder for this program, which may not exist: ``VISION_INFER_HOME``, or the default."""
    home = environ.get(HOME_VARIABLE, "")
    return (Path(home) if home else Path("~/.local/share/vision-infer")).expanduser()


def bundled_dir() -> Path:
    """Return the folder of the bundled models: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "bundled"
    return inside if inside.is_dir() else package.parent / "models"


def list_models(
    explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> list[ModelEntry]:
    """Return all models, sorted by name; a user's model hides a bundled one of the same name.

    Args:
        explicit: The user's folder, as for :func:`model_dir`.
        environ: The environment; None: that of this process.
        bundled: The folder of the bundled models; None: :func:`bundled_dir`.
    """
    user = model_dir(explicit, os.environ if environ is None else environ)
    found: dict[str, ModelEntry] = {}
    for entry in (*_scan(bundled or bundled_dir(), "bundled"), *_scan(user, "user")):
        found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def resolve_model(
    name_or_file: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> Path:
    """Return the .onnx file of a model.

    ``name_or_file`` is the name of a model, or the path of a file that ends in ``.onnx``.
    The other arguments are as for :func:`list_models`.

    Raises:
        ModelError: The file or model does not exist, or the model cannot be used.
    """
    name = str(name_or_file)
    path = Path(name_or_file)
    if name.endswith(".onnx"):
        if not path.is_file():
            raise ModelError(f"{name}: no such file", "Check the path, or use the name of a model.")
        return path
    entries = {entry.name: entry for entry in list_models(explicit, environ, bundled)}
    if name in entries:
        entry = entries[name]
        if entry.error:
            raise ModelError(
                f"model '{name}' cannot be used: {entry.error}", f"Repair {entry.path.parent}, or import the model again."
            )
        return entry.path
    near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
    if ((bundled or bundled_dir()) / AVAILABLE_FOLDER / f"{name}.yaml").is_file():
        hint = f"Download it with 'vision-infer model pull {name}'."
    elif near:
        hint = (
            f"Did you mean {' or '.join(repr(other) for other in near)}? 'vision-infer model list' shows all models, "
            "with --available those to download."
        )
    else:
        hint = (
            f"Installed models: {', '.join(entries) or 'none'}. 'vision-infer model list --available' lists those that "
            "'vision-infer model pull' downloads; 'vision-infer model import' adds your own."
        )
    raise ModelError(f"unknown model '{name}'", hint)


def model_inputs(
    name: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> dict[Size, Path]:
    """Return the .onnx files of a model by input size, the file of :func:`resolve_model` first.

    ``name`` is the name of a model, or the path of a file that ends in ``.onnx``, which has one size. The other arguments are as
    for :func:`list_models`.

    Raises:
        ModelError: As for :func:`resolve_model`.
    """
    path = resolve_model(name, explicit, environ, bundled)
    card = _read_card(name, path)
    return {card.input_size: path} if str(name).endswith(".onnx") else _graphs(card, path)


def model_card(
    name: str | Path, explicit: Path | None = None, environ: Mapping[str, str] | None = None, bundled: Path | None = None
) -> ModelCard:
    """Return the card of a model or a deployment graph; the arguments are those of :func:`model_inputs`.

    Raises:
        ModelError: As for :func:`resolve_model`, or the graph has no card.
    """
    return _read_card(name, resolve_model(name, explicit, environ, bundled))


def _read_card(name: str | Path, path: Path) -> ModelCard:
    if str(name).endswith(".onnx"):
        from vision_infer.model.reading import read_deployment_card

        return read_deployment_card(path)
    return read_card_file(path.with_name(CARD_FILE))


def graph_file(size: Size, first: Size) -> str:
    """Return the file name of a model's graph for an input size; ``first`` is the model's own size."""
    return GRAPH_FILE if size == first else f"model-{size.height}x{size.width}.onnx"


def _graphs(card: ModelCard, path: Path) -> dict[Size, Path]:
    """Return the graphs in a model's folder by input size, that of the card first."""
    found = {card.input_size: path}
    for other in sorted(path.parent.glob("model-*.onnx")):
        match = _OTHER_GRAPH.fullmatch(other.name)
        if match is not None:
            found.setdefault(Size(int(match[2]), int(match[1])), other)
    return found


def _scan(folder: Path, origin: Literal["bundled", "user"]) -> list[ModelEntry]:
    try:
        cards = sorted(folder.glob(f"*/{CARD_FILE}"))
    except OSError:  # pragma: no cover - the folder has vanished or cannot be read
        return []
    # A hidden folder is an unfinished import.
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
        ModelError: The file cannot be read, or is not a valid card.
    """
    import yaml

    where = f"{path.parent.name}/{path.name}"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: cannot be read", "Check the file.") from error
    except yaml.YAMLError as error:
        raise ModelError(f"{where}: not valid YAML", "See docs/reference/results.md for the fields of the card.") from error
    return parse_card(data, where)
