"""A model's folder: written beside its place, proved there, and put in its place as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import yaml

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.catalogue import CARD_FILE


def card_to_yaml(card: ModelCard) -> str:
    """The card as ``model.yaml``, fields in the card's order."""
    data = card.model_dump(mode="json", exclude_defaults=True)
    # Always written, though they may have their default values: they are what a reader looks for.
    for field in ("task", "labels", "iou", "confidence", "fit", "fill", "color", "mean", "std"):
        data[field] = card.model_dump(mode="json")[field]
    ordered = {field: data[field] for field in ModelCard.model_fields if field in data}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def write_card_file(folder: Path, card: ModelCard) -> None:
    """Write ``model.yaml``."""
    (folder / CARD_FILE).write_text(card_to_yaml(card), encoding="utf-8")


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph.

    Raises:
        ModelError: it is larger than one file can hold.
        OSError: the file cannot be written.
    """
    try:
        onnx.save(model, path)
    except ValueError as error:  # protobuf holds at most 2 GiB
        raise ModelError(
            f"{path.name}: the graph cannot be written: {error}", "2 GiB are the most that one file holds"
        ) from error


def refuse_taken(folder: Path) -> None:
    """Refuse a name that a model has already.

    Raises:
        ModelError: says how to replace it.
    """
    if folder.exists():
        message = f"there is a model '{folder.name}' in {folder.parent} already"
        raise ModelError(message, "replace it with --overwrite, or choose another name")


@contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Two temporary folders, of which the first takes the place of ``folder`` if all goes well; else nothing is left behind.

    Args:
        folder: where the model will be.
        overwrite: replace what is there.

    Yields:
        The folder of the model, and one for what is needed on the way and goes away.

    Raises:
        ModelError: the folder cannot be written, or a model has appeared there meanwhile.
    """
    temporary: Path | None = None
    absent = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    done = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a rename within one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".importing-", dir=folder.parent))
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
        raise ModelError(message, "check the folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for path in () if done else absent:
            with suppress(OSError):
                path.rmdir()


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
