"""``vision-infer model import``: sizes, verification and rejected options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support import raw_networks as raw
from tests.support.assets import photographs


def test_sizes_are_height_first_and_each_is_verified(command: Command, tmp_path: Path) -> None:
    raw.yolox(tmp_path / "mine.onnx")
    done = command("model", "import", "mine.onnx", "--name", "mine", "--input", "192x320,160x96", "--model-dir", "models")
    assert (done.returncode, done.stderr) == (0, "")
    verified = [line for line in done.stdout.splitlines() if ": verified at " in line]
    assert [line.split(", in batches of 1, 2 and 5")[0] for line in verified] == [
        "mine.onnx: verified at 320x192 (width x height)",
        "mine.onnx: verified at 96x160 (width x height)",
        "mine.onnx: verified at 160x96 (width x height)",
    ]
    assert sorted(path.name for path in (tmp_path / "models" / "mine").iterdir()) == [
        "model-160x96.onnx",
        "model.onnx",
        "model.yaml",
    ]


def test_the_verification_uses_the_given_images(in_process: Command, tmp_path: Path) -> None:
    raw.yolov5(tmp_path / "mine.onnx")
    pictures = photographs()
    done = in_process("model", "import", "mine.onnx", "--name", "mine", "--images", pictures)
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 5 images, against the raw model: boxes within " in done.stdout


def test_classifiers_and_embedders_are_imported(in_process: Command, tmp_path: Path) -> None:
    raw.vector(tmp_path / "classes.onnx", name="logits")
    raw.vector(tmp_path / "vectors.onnx", name="embedding")
    for name, task, values in (("classes", "classify", "scores"), ("vectors", "embed", "values")):
        done = in_process("model", "import", f"{name}.onnx", "--name", name, "--model-dir", "models")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"head '{task}'" in done.stdout
        assert f"against the raw model: {values} within " in done.stdout
        assert f"task: {task}" in in_process("model", "show", name, "--model-dir", "models").stdout
    assert (
        "class scores: logits, because they end in MatMul, so a softmax is added"
        in in_process("model", "import", "classes.onnx", "--name", "again", "--model-dir", "models").stdout
    )


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--input", "640"], 2, ("is not a valid size", "height and width", "384x640,640x640")),
        (["--input", "64x64,"], 2, ("is not a valid size",)),
        (["--input", "0x64"], 2, ("is not a valid size",)),
        (["--scores", "logits"], 2, ("sigmoid or softmax",)),
        (["--images", "nowhere"], 2, ("nowhere",)),
        (["--head", "yolov5"], 3, ("does not fit head 'yolov5'",)),
        (["--input", "320x320"], 3, ("cannot be rewritten for 320x320", "Sub", "dynamic height and width")),
        (["--labels", "coco"], 3, ("has 7 classes, but there are 80 labels",)),
    ],
)
def test_a_rejected_import_leaves_no_files(
    in_process: Command, tmp_path: Path, options: list[str], status: int, words: tuple[str, ...]
) -> None:
    raw.yolov8(tmp_path / "mine.onnx")
    done = in_process("model", "import", "mine.onnx", "--name", "mine", "--model-dir", "models", *options)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "models").exists()


def test_a_failed_verification_leaves_no_files(in_process: Command, tmp_path: Path) -> None:
    raw.vector(tmp_path / "mine.onnx", name="logits")
    options = ["--scores", "probabilities", "--model-dir", "models"]
    done = in_process("model", "import", "mine.onnx", "--name", "mine", *options)
    assert done.returncode == 3
    assert "so they are not probabilities. Add --scores sigmoid or --scores softmax" in done.stderr
    assert not (tmp_path / "models").exists()
