"""A model's folder: written to a temporary folder, verified there, and moved to its place as a whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import yaml

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError

_TEMPORARY = ".importing-"
"""The prefix of temporary folders."""


def card_to_yaml(card: ModelCard) -> str:
    """Return the card as text for ``model.yaml``, with the fields in the card's order."""
    data = card.model_dump(mode="json", exclude_defaults=True)
    # Always written, because readers look for them, even if they have their default values.
    for field in ("task", "labels", "iou", "confidence", "fit", "fill", "color", "mean", "std"):
        data[field] = card.model_dump(mode="json")[field]
    ordered = {field: data[field] for field in ModelCard.model_fields if field in data}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph.

    Raises:
        ModelError: The graph is larger than one file can hold.
        OSError: The file cannot be written.
    """
    try:
        onnx.save(model, path)
    except ValueError as error:  # protobuf holds at most 2 GiB
        raise ModelError(f"{path.name}: the graph cannot be written: {error}", "One file can hold at most 2 GiB.") from error


def refuse_taken(folder: Path) -> None:
    """Refuse a name that is taken.

    Raises:
        ModelError: A model of this name exists.
    """
    if folder.exists():
        message = f"model '{folder.name}' already exists in {folder.parent}"
        raise ModelError(message, "Add --overwrite to replace it, or choose another name.")


@contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Create two temporary folders, and move the first to ``folder`` at the end; after an error no files are left.

    Args:
        folder: The place of the model.
        overwrite: Whether to replace an existing model.

    Yields:
        The new folder of the model, and a folder for temporary files.

    Raises:
        ModelError: The folder cannot be written, or another process has created it in the meantime.
    """
    temporary: Path | None = None
    lock: int | None = None
    absent = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    done = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In the same parent, so that the last step is a rename within one file system.
        _clear_abandoned(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        lock = _lock(temporary)
        made, scratch = temporary / "made" / folder.name, temporary / "scratch"
        made.mkdir(parents=True)
        scratch.mkdir()
        yield made, scratch
        if not overwrite:
            refuse_taken(folder)
        _swap(made, folder, temporary / "old")
        done = True
    except OSError as error:
        message = f"model '{folder.name}' cannot be written to {folder.parent}: {error.strerror or error}"
        raise ModelError(message, "Check the folder and its permissions.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        for path in () if done else absent:
            with suppress(OSError):
                path.rmdir()


def _lock(folder: Path) -> int | None:
    """Lock a folder until its descriptor is closed or the process ends; None if another process has locked it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _clear_abandoned(parent: Path) -> None:
    """Remove the temporary folders of imports that were killed."""
    for folder in parent.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _swap(made: Path, folder: Path, old: Path) -> None:
    """Move a folder to its place, and restore the old one if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
