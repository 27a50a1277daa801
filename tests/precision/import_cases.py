"""Imports of models with their verification, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vision_infer.core.errors import ModelError
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision.verification.comparison import GraphVerification, read_images
from vision_infer.precision.verification.import_check import verify_import

pytest.importorskip("onnxruntime")


def verified(
    file: Path, models: Path, head: str | None = None, pictures: Path | None = None, **options: Any
) -> list[GraphVerification]:
    """Import a model as the command does, and return the verifications."""
    found: list[GraphVerification] = []
    shown = None if pictures is None else read_images(pictures)
    import_model(
        ImportRequest(file, "mine", head=head, model_dir=models, **options),
        verify=lambda one: found.extend(verify_import(one, shown)),
    )
    return found


def labels(folder: Path, count: int) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(f"thing {number}" for number in range(count)))
    return path


def refused(file: Path, folder: Path, head: str | None, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        verified(file, folder / "models", head, **options)
    assert "\n" not in str(caught.value)
    assert not (folder / "models").exists(), "files are left"
