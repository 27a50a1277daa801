"""Where a converted graph goes: beside its model, as ``model.int8.onnx`` with its passports, or into a model of its own.

All files are made in a hidden folder beside their place and moved from there: what was not moved is no model, and goes with a
later attempt.
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
from vision_infer.model.catalogue import CARD_FILE, GRAPH_FILE, bundled_dir

_HIDDEN = ".quantizing-"
_COPIED = frozenset({CARD_FILE, "LICENSE"})
_GRAPH = re.compile(r"model(-\d+x\d+)?\.onnx")
"""in FP32, of each input size"""
_ABANDONED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Target:
    """The place of a converted graph."""

    folder: Path
    """of the model"""
    graph: str
    """name of the file"""
    model: str
    """name on the card"""
    copied: tuple[Path, ...] = ()
    """files that a new folder gets too"""

    @property
    def path(self) -> Path:
        """Where the graph will be."""
        return self.folder / self.graph


@contextmanager
def converting(source: Path) -> Iterator[None]:
    """Let no other process convert the same graph meanwhile.

    It is the kernel's lock (flock) on the graph's own file: it ends with its process, however that ends, and leaves nothing.

    Raises:
        ModelError: another process is at work on it, or the graph cannot be read.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}", "give a model, or a deployment graph (.onnx)") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"{source}: another process is converting it", "wait until that is done, or end it") from error
        except OSError:  # a file system without locks
            pass
        yield


def choose_target(source: Path, model: str, what: str, name: str | None, model_dir: Path, overwrite: bool) -> Target:
    """Decide where a graph goes.

    Args:
        source: the FP32 graph.
        model: the name on its card.
        what: precision and form, such as ``int8``.
        name: of a model of its own; None: beside its source. What belongs to the package is not changed: a bundled model is then
            copied into the user's folder, where it hides the bundled one.
        model_dir: the user's models.
        overwrite: whether one that exists is replaced.

    Raises:
        ModelError: the name is not allowed, or there is such a graph already.
    """
    if name is not None:
        parse_card({"name": name, "input": {"width": 1, "height": 1}}, f"model name '{name}'")
        target = Target(model_dir / name, GRAPH_FILE, name)
        taken = target.folder.exists()
    elif source.resolve().is_relative_to(bundled_dir().resolve()):
        target = Target(model_dir / source.parent.name, f"{source.stem}.{what}.onnx", model)
        if not target.folder.exists():
            beside = sorted(source.parent.iterdir())
            copied = tuple(path for path in beside if path.name in _COPIED or _GRAPH.fullmatch(path.name))
            target = Target(target.folder, target.graph, target.model, copied)
        taken = target.path.exists()
    else:
        target = Target(source.parent, f"{source.stem}.{what}.onnx", model)
        taken = target.path.exists()
    if taken and not overwrite:
        hint = "replace it with --overwrite, or choose another --name"
        raise ModelError(f"there is {target.folder if name else target.path} already", hint)
    return target


def write_target(target: Target, files: Mapping[str, bytes | str]) -> None:
    """Write a graph and what belongs to it, as a whole or not at all.

    Args:
        target: where.
        files: content by name; the graph among them.

    Raises:
        ModelError: they cannot be written; what was there before is still there.
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
        raise ModelError(f"{target.path} cannot be written: {reason}", "make room, or choose another --model-dir") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _move_into(inside: Path, target: Target) -> None:
    """Passports first: without its graph a passport counts for nothing, and a graph without one is not chosen."""
    made = {path.name for path in inside.iterdir()}
    for path in sorted(inside.iterdir(), key=lambda path: path.name == target.graph):
        path.replace(target.folder / path.name)
    for path in target.folder.glob(f"{target.path.stem}.*{SUFFIX}"):
        if path.name not in made:  # of a graph that was replaced
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what was left by attempts that were killed."""
    for path in folder.glob(f"{_HIDDEN}*"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
