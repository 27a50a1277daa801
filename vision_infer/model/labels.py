"""Labels by class number, from COCO, from a text file, or from the metadata of the ONNX file; and the names of keypoints."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vision_infer.core.errors import ModelError

COCO_FILE = Path(__file__).with_name("coco.txt")
_LONGEST = 1_000_000
"""The maximum length of labels in a file's metadata, in characters; longer metadata is ignored."""


def read_labels(labels: str | Path | None) -> tuple[str, ...] | None:
    """Return the labels by class number.

    Args:
        labels: ``"coco"``, a text file with one label per line, or None.

    Raises:
        ModelError: The file cannot be read as text, or is empty.
    """
    if labels is None:
        return None
    path = COCO_FILE if labels == "coco" else Path(labels)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{labels}: cannot be read as labels", "Use 'coco', or a text file with one label per line.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ModelError(f"{labels}: the file has no labels", "Write one label per line.")
    return tuple(line.strip() for line in lines)


def labels_of_file(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the labels in an exporter's metadata (``names``, a list or a mapping from class numbers), or None."""
    written = metadata.get("names", "")
    if not written or len(written) > _LONGEST:
        return None
    try:
        names = ast.literal_eval(written)  # literals only; no code runs
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(names, dict):
        names = [names[number] for number in range(len(names))] if set(names) == set(range(len(names))) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(" ".join(name.split()) for name in names)


def read_keypoints(path: Path) -> Any:
    """Return the content of a YAML file with ``names`` and ``skeleton``, which the card checks.

    Raises:
        ModelError: The file cannot be read as YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path}: cannot be read as keypoints"
        raise ModelError(message, "Write 'names: [left, right]' and 'skeleton: [[0, 1]]' into a YAML file.") from error
