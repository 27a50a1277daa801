"""``vision-infer engine`` with plans of TensorRT-RTX, as a user types it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Command
from tests.engine.tensorrt.networks import api, graph
from vision_infer.cli.engines.build_progress import LINE_INTERVAL_S, BuildLines
from vision_infer.engine.tensorrt.build_progress import BuildProgress
from vision_infer.engine.tensorrt.compile import BUILD_VERSION

WORDS = ("--runtime", "tensorrt-rtx", "--for", "sm_89")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with graphs in three precisions."""
    api()
    for precision, name in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx"), ("int8", "model.int8-tensorrt.onnx")):
        shutil.copyfile(graph("embedder", precision), tmp_path / name)
    return tmp_path / "model.onnx"


def test_build_list_show_and_prune(command: Command, in_process: Command, model: Path) -> None:
    built = command("engine", "build", model, *WORDS, "--precision", "int8", "--batch", "3", "--json")
    assert built.returncode == 0, built.stderr
    assert built.stderr == "building tensorrt-rtx-cuda-int8 for smallest-embedder (not cached yet)\n"
    (passport,) = json.loads(built.stdout)
    jsonschema.validate(passport, json.loads(in_process("schema", "passport").stdout))
    assert (passport["device"]["compute_capabilities"], passport["device"]["mig"]) == (["sm_89"], "")
    assert (passport["device"]["kind"], passport["precision"]["convolutions"]) == ("cuda", "3 int8")
    again = command("engine", "build", model, "--engine", "tensorrt-rtx-cuda-int8", "--for", "sm_89", "--batch", "3")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("tensorrt-rtx-cuda-int8: for sm_89, built in ")
    assert "convolutions: 3 int8" in again.stdout

    listed = in_process("engine", "list", model)
    assert listed.returncode == 0, listed.stderr
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("  tensorrt")]
    assert line.split()[:2] == ["tensorrt-rtx-cuda-int8", "model.int8-tensorrt.onnx"]
    assert "for sm_89, batches 1 2 3, " in line
    (row,) = json.loads(in_process("engine", "list", model, "--json").stdout)["plans"]
    assert (row["for"], row["runtime_version"], row["passport"]["engine"]) == ("sm_89", api().version, "tensorrt-rtx-cuda-int8")
    shown = in_process("engine", "show", model, "tensorrt-rtx-cuda-int8")
    assert "device     sm_89\n" in shown.stdout
    pruned = in_process("engine", "prune", "--max-mb", "0")
    assert "removed tensorrt-rtx-cuda-int8 of smallest-embedder" in pruned.stdout


def test_each_input_size_of_a_model_gets_its_plan(command: Command, in_process: Command, tmp_path: Path) -> None:
    built = command("engine", "build", "nanodet-416", *WORDS, "--batch", "1")
    assert built.returncode == 0, built.stderr
    assert [line.split(", ")[2] for line in built.stdout.splitlines()] == ["input 416x416", "input 416x256"]
    listed = json.loads(in_process("engine", "list", "nanodet-416", "--json").stdout)["plans"]
    assert {row["graph"] for row in listed} == {"model.onnx", "model-256x416.onnx"}
    assert not [row for row in listed if "has changed" in row["not_here"]]


def test_tf32(in_process: Command, model: Path) -> None:
    for words in (("--tf32",), ("--engine", "tensorrt-rtx-cuda-tf32")):
        built = in_process("engine", "build", model, *WORDS, "--batch", "1", *words)
        assert built.returncode == 0, built.stderr
        assert built.stdout.startswith("tensorrt-rtx-cuda-tf32: for sm_89, built in ")
    wrong = in_process("engine", "build", model, *WORDS, "--tf32", "--precision", "fp16")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --tf32 is not valid for fp16. It applies to plans in fp32.\n")


def test_a_recipe(command: Command, in_process: Command, model: Path) -> None:
    recipe = model.with_name("mine.yaml")
    text = f"model: {model.name}\nruntime: tensorrt-rtx\nprecision: fp16\nbatch_sizes: [4, 1, 4]\nworkspace_mb: 256\n"
    recipe.write_text(f"{text}gpus: [sm_120, sm_86]\n")
    built = command("engine", "build", recipe)
    assert built.returncode == 0, built.stderr
    assert built.stdout.startswith("tensorrt-rtx-cuda-fp16: for sm_86 sm_120, built in ")
    (row,) = json.loads(in_process("engine", "list", model, "--json").stdout)["plans"]
    assert row["options"] == f"batches 1 4, workspace 256 MB, build version {BUILD_VERSION}"
    recipe.write_text(f"{text}workers: 2\n")
    wrong = command("engine", "build", recipe)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (4, 1)
    assert "field 'workers' is not valid for tensorrt-rtx" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--runtime", "tensorrt-rtx", "--for", "sm_90"), 2, "TensorRT-RTX does not support it. Use sm_75, "),
        (("--runtime", "tensorrt-rtx", "--for", "4090"), 2, "--for 4090: not a compute capability"),
        (("--for", "sm_89"), 2, "--for is valid for plans only. Add --runtime tensorrt-rtx"),
        (("--device", "cuda:1"), 2, "--device is valid for plans only. Add --runtime tensorrt-rtx"),
        ((*WORDS, "--device", "cpu"), 2, "--device cpu: plans are for NVIDIA GPUs. Use --device cuda:N"),
        ((*WORDS, "--workers", "2"), 2, "--workers is not valid for plans"),
        ((*WORDS, "--precision", "bf16"), 4, "has no graph in bf16. Create one with: vision-infer model quantize"),
        (
            (*WORDS, "--version-compatible"),
            2,
            "--version-compatible is not valid for TensorRT-RTX: a plan fits the version that built it",
        ),
        (("--runtime", "tensorflow"), 2, "--runtime tensorflow: is unknown. Use onnxruntime, openvino, tensorrt, tensorrt-rtx"),
        (("--engine", "tensorrt-rtx-cuda-fp16", "--precision", "int8"), 2, "contradicts --runtime or --precision"),
    ],
)
def test_errors_are_one_line(in_process: Command, model: Path, words: tuple[str, ...], status: int, message: str) -> None:
    done = in_process("engine", "build", model, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_bar_on_a_terminal(model: Path, tmp_path: Path) -> None:
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "vision_infer", "engine", "build", str(model), *WORDS]
    environment = {**os.environ, "VISION_INFER_HOME": str(tmp_path / "home"), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stderr=terminal, stdout=subprocess.PIPE, env=environment) as process:
        os.close(terminal)
        seen = b""
        while True:
            try:
                part = os.read(control, 65_536)
            except OSError:  # the other end of the terminal is closed
                break
            if not part:
                break
            seen += part
    os.close(control)
    assert process.returncode == 0, seen
    assert b"tensorrt-rtx-cuda-fp32" in seen


def test_plain_lines_without_a_terminal() -> None:
    lines: list[str] = []
    report = BuildLines("it", lines.append)
    for elapsed_s, left_s in ((1.0, None), (LINE_INTERVAL_S, 104.4), (LINE_INTERVAL_S + 1, 100.0), (4 * LINE_INTERVAL_S, None)):
        report(BuildProgress("Timing graph nodes", 0.426, elapsed_s, left_s))
    report(BuildProgress("done", 1.0, 5 * LINE_INTERVAL_S, 0.0))
    assert lines == ["it: 43 %, 5 s, 104 s left: Timing graph nodes\n", "it: 43 %, 20 s: Timing graph nodes\n"]
