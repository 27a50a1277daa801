"""Help without arguments, and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize("words", [(), ("model",), ("engine",), ("schema",), ("cameras",)])
def test_without_arguments_the_help_is_printed(in_process: Command, words: tuple[str, ...]) -> None:
    done = in_process(*words)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert lines[0].startswith(f"Usage: {' '.join(['vision-infer', *words])}")
    assert "Commands:" in lines
    assert "error:" not in done.stderr


def complete(shell: str, instruction: str, words: str, home: Path) -> str:
    environment = {
        **os.environ,
        "VISION_INFER_HOME": str(home),
        "_VISION_INFER_COMPLETE": f"{instruction}_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    return subprocess.run(
        [sys.executable, "-m", "vision_infer"], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_bash_gets_a_completion_script(tmp_path: Path) -> None:
    assert "complete -o default -F" in complete("bash", "source", "vision-infer", tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vision-infer ser", ["serve"]),
        ("vision-infer run --model nano", ["nanodet-416"]),
        ("vision-infer serve --model nano", ["nanodet-416"]),
        ("vision-infer engine list nano", ["nanodet-416"]),
        ("vision-infer model pull yolox-n", ["yolox-nano"]),
        ("vision-infer run --engine onnxruntime-cpu-i", ["onnxruntime-cpu-int8"]),
    ],
)
def test_commands_models_and_engines_are_completed(words: str, expected: list[str], tmp_path: Path) -> None:
    assert complete("bash", "complete", words, tmp_path).split() == expected


def test_a_value_with_the_name_of_another_option_is_not_written_as_an_option(in_process: Command) -> None:
    done = in_process("run", "--help")
    text = " ".join(done.stdout.split())
    assert "Which boxes NMS and tracking compare. per_class: those of one class." in text
    assert "--duration SECONDS" in text
