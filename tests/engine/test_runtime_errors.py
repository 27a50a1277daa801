"""Errors of runtimes are summarized in one line."""

from __future__ import annotations

import pytest

from vision_infer.engine.runtime_errors import summarize_error

ORT, LOAD = "[ONNXRuntimeError] : 1 : FAIL : ", "Load model from /some/where.onnx failed:"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "RuntimeError"),
        ("plain", "plain"),
        ("\n\n  first \nsecond", "first"),
        (f"{ORT}{LOAD}Protobuf parsing failed.", "Protobuf parsing failed."),
        (
            f"{ORT}{LOAD}/a/b/model.cc:256 onnxruntime::Model::Model(int&&, bool) Unsupported model IR version: 99",
            "Unsupported model IR version: 99",
        ),
        (f"{ORT}Non-zero status code returned while running Add node.", "Non-zero status code returned while running Add node."),
        (
            f'{ORT}{LOAD}In Node, ("", X) , Error No Op registered for X with domain_version of 17',
            "the runtime does not support the operator X",
        ),
        ("Exception from a.cpp:1:\nCheck 'false' failed at b.cpp:2:\nWhat it is.\n", "What it is."),
        ("Caught exception: Exception from a.cpp:1:\nWhat it is.", "What it is."),
        ("Exception from a.cpp:1:\n", "Exception from a.cpp:1:"),
    ],
)
def test_the_summary_of_an_error(text: str, line: str) -> None:
    assert summarize_error(RuntimeError(text)) == line


def test_an_error_whose_text_fails() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert summarize_error(OddError()) == "OddError"
