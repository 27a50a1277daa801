"""Labels by class number: from COCO, from a person's file, or from the network's own file."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from vision_infer.core.errors import ModelError

COCO_FILE = Path(__file__).with_name("coco.txt")
_LONGEST = 1_000_000
"""characters of labels in a file's metadata; longer ones are not read"""


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


def labels_of_file(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The labels that an exporter wrote into a file under ``names``, a list or a mapping from the class number; else None."""
    written = metadata.get("names", "")
    if not written or len(written) > _LONGEST:
        return None
    try:
        names = ast.literal_eval(written)  # values only; nothing is run
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(names, dict):
        names = [names[number] for number in range(len(names))] if set(names) == set(range(len(names))) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(" ".join(name.split()) for name in names)
