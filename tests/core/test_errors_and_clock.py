"""Errors are one line with an exit status; the clock never goes back; drop reasons have names."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.core import errors
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError

STATUS = {"StreamError": 1, "UsageError": 2, "ModelError": 3, "EngineError": 4, "OutputError": 5}


def test_every_error_has_its_exit_status() -> None:
    kinds = {kind.__name__: kind.exit_status for kind in VisionInferError.__subclasses__() if kind.__module__ == errors.__name__}
    assert kinds == STATUS
    assert VisionInferError("x").exit_status == 1


@given(st.text(), st.text())
def test_an_error_is_one_line(message: str, hint: str) -> None:
    error = VisionInferError(message, hint)
    assert len(str(error).splitlines()) <= 1
    assert error.message.split() == message.split()
    assert error.hint.split() == hint.split()


def test_the_text_of_an_error() -> None:
    assert str(VisionInferError("a.mp4: no\n  video", "give  another\tfile")) == "a.mp4: no video: give another file"
    assert str(VisionInferError("a.mp4: no video")) == "a.mp4: no video"


@pytest.mark.parametrize("name", STATUS)
def test_an_error_can_go_to_another_process(name: str) -> None:
    kind: type[VisionInferError] = getattr(errors, name)
    error = pickle.loads(pickle.dumps(kind("what failed", "what to do")))
    assert type(error) is kind
    assert (error.message, error.hint) == ("what failed", "what to do")


def test_the_system_clock() -> None:
    clock: Clock = SYSTEM_CLOCK
    times = [clock.monotonic_ns() for _ in range(1000)]
    assert times == sorted(times)
    before = time.time_ns()
    assert before - 10**9 <= clock.wall_ns() <= time.time_ns() + 10**9


def test_drop_reasons_are_words() -> None:
    assert {reason.value for reason in DropReason} >= {"superseded", "paced", "stopped", "failed"}
    assert all(reason.value == reason.name.lower() for reason in DropReason)
