"""The place of a converted graph: next to its model, as ``model.int8.onnx`` with its passports, or in a new model.

All files are written to a hidden folder next to their place and moved from there; later attempts remove abandoned folders.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.card import parse_card
from vision_infer.core.errors import ModelError
from vision_infer.engine.store.passport import SUFFIX
from vision_infer.model.catalog import CARD_FILE, GRAPH_FILE, bundled_dir

_HIDDEN = ".quantizing-"
_COPIED = frozenset({CARD_FILE, "LICENSE"})
_GRAPH = re.compile(r"model(-\d+x\d+)?\.onnx")
"""The names of FP32 graphs, of each input size."""
_ABANDONED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ConversionTarget:
    """The place of a converted graph."""

    folder: Path
    """The folder of the model."""
    graph: str
    """The name of the file."""
    model: str
    """The name on the card."""
    copied: tuple[Path, ...] = ()
    """The files to copy into a new folder."""

    @property
    def path(self) -> Path:
        """The path of the graph."""
        return self.folder / self.graph


@contextmanager
def converting(source: Path) -> Iterator[None]:
    """Lock a graph (flock) against conversions by other processes; the lock ends with the process.

    Raises:
        ModelError: Another process is converting it, or the graph cannot be read.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}", "Use a model, or a deployment graph (.onnx).") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"{source}: another process is converting it", "Wait until it ends, or stop it.") from error
        except OSError:  # a file system without locks
            pass
        yield


def choose_target(source: Path, model: str, what: str, name: str | None, model_dir: Path, overwrite: bool) -> ConversionTarget:
    """Choose the place of a converted graph.

    Args:
        source: The FP32 graph.
        model: The name on its card.
        what: The precision and form, such as ``int8``.
        name: The name of a new model; None: next to its source. A bundled model is copied into the user's folder, where it hides
            the bundled one.
        model_dir: The folder of the user's models.
        overwrite: Whether to replace an existing graph.

    Raises:
        ModelError: The name is not allowed, or the graph exists.
    """
    if name is not None:
        parse_card({"name": name, "input": {"width": 1, "height": 1}}, f"model name '{name}'")
        target = ConversionTarget(model_dir / name, GRAPH_FILE, name)
        taken = target.folder.exists()
    elif source.resolve().is_relative_to(bundled_dir().resolve()):
        target = ConversionTarget(model_dir / source.parent.name, f"{source.stem}.{what}.onnx", model)
        if not target.folder.exists():
            siblings = sorted(source.parent.iterdir())
            copied = tuple(path for path in siblings if path.name in _COPIED or _GRAPH.fullmatch(path.name))
            target = ConversionTarget(target.folder, target.graph, target.model, copied)
        taken = target.path.exists()
    else:
        target = ConversionTarget(source.parent, f"{source.stem}.{what}.onnx", model)
        taken = target.path.exists()
    if taken and not overwrite:
        hint = "Add --overwrite to replace it, or choose another --name."
        raise ModelError(f"{target.folder if name else target.path} already exists", hint)
    return target


def write_target(target: ConversionTarget, files: Mapping[str, bytes | str]) -> None:
    """Write a graph and its files, as a whole or not at all.

    Args:
        target: The place.
        files: The contents by name, including the graph.

    Raises:
        ModelError: They cannot be written; existing files are unchanged.
    """
    parent = target.folder if target.folder.is_dir() else target.folder.parent
    made: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
        inside = made / target.folder.name
        inside.mkdir()
        for path in target.copied:
            shutil.copyfile(path, inside / path.name)
        for name, content in files.items():
            (inside / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if parent == target.folder:
            _move_into(inside, target)
        else:
            inside.rename(target.folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(f"{target.path} cannot be written: {reason}", "Free disk space, or change --model-dir.") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _move_into(inside: Path, target: ConversionTarget) -> None:
    """Move the passports first: a passport without its graph has no effect, and a graph without a passport is not used."""
    made = {path.name for path in inside.iterdir()}
    for path in sorted(inside.iterdir(), key=lambda path: path.name == target.graph):
        path.replace(target.folder / path.name)
    for path in target.folder.glob(f"{target.path.stem}.*{SUFFIX}"):
        if path.name not in made:  # of the replaced graph
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove the folders of killed attempts."""
    for path in folder.glob(f"{_HIDDEN}*"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
