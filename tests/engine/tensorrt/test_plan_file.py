"""Plan files: the round trip through bytes; foreign, truncated or damaged files never reach a runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.core.card import parse_card
from vision_infer.core.errors import EngineError
from vision_infer.engine.tensorrt.plan_file import MAGIC, PlanFile, parse_plan

PLAN = PlanFile(
    bytes(range(256)) * 8,
    parse_card({"name": "tiny", "input": {"width": 48, "height": 32}, "labels": ["person", "café"]}, "tiny"),
    "a" * 64,
    "tensorrt-rtx",
    "1.7.1.116",
    ("sm_86", "sm_89"),
    "fp16",
    (1, 2, 4),
    {"boxes": ((300, 4), np.dtype(np.float32)), "class_ids": ((300,), np.dtype(np.int32))},
)


def test_a_plan_survives_the_round_trip_through_bytes() -> None:
    assert parse_plan(PLAN.to_bytes(), "it") == PLAN
    assert PLAN.engine == "tensorrt-rtx-cuda-fp16"


@given(st.integers(0, len(PLAN.to_bytes()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_detected(place: int, change: int) -> None:
    content = bytearray(PLAN.to_bytes())
    content[place] ^= change
    with pytest.raises(EngineError, match=r"^it(: the plan| is not a plan file)"):
        parse_plan(bytes(content), "it")


@given(st.integers(0, len(PLAN.to_bytes()) - 1))
def test_a_truncated_file_is_detected(length: int) -> None:
    with pytest.raises(EngineError, match=r"is not a plan file|truncated or damaged"):
        parse_plan(PLAN.to_bytes()[:length], "it")


def test_added_bytes_are_detected() -> None:
    with pytest.raises(EngineError, match="truncated or damaged"):
        parse_plan(PLAN.to_bytes() + b"\0", "it")


@pytest.mark.parametrize("content", [b"", b"ftrt", b"\x08\x08\x12\x04onnx" * 20, b"VIPLAN\n" + bytes(60)], ids=range(4))
def test_foreign_files_are_refused(content: bytes) -> None:
    with pytest.raises(EngineError, match="is not a plan file of vision-infer"):
        parse_plan(content, "it")


def test_a_wrong_header_length_allocates_no_memory() -> None:
    content = bytearray(PLAN.to_bytes())
    content[len(MAGIC) : len(MAGIC) + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(EngineError, match="truncated or damaged"):
        parse_plan(bytes(content), "it")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"runtime": "onnxruntime"}, "runtime"),
        ({"compute_capabilities": ("89",)}, "compute_capabilities"),
        ({"compute_capabilities": ()}, "compute_capabilities"),
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"plan": b""}, "plan_bytes"),
        ({"graph_sha256": "?"}, "graph_sha256"),
        ({"runtime_version": "new"}, "runtime_version"),
    ],
)
def test_an_invalid_plan_cannot_be_written(change: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PLAN, **change).to_bytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "here", "why"),
    [
        (PLAN, ("tensorrt-rtx", "1.7.1.116", "sm_89"), ""),
        (PLAN, ("tensorrt", "1.7.1.116", "sm_89"), "built by tensorrt-rtx, not tensorrt"),
        (PLAN, ("tensorrt-rtx", "1.8.0.1", "sm_89"), "built by tensorrt-rtx 1.7.1.116, installed is 1.8.0.1"),
        (PLAN, ("tensorrt-rtx", "1.7.1.116", "sm_120"), "built for sm_86 sm_89, this GPU is sm_120"),
        (replace(PLAN, version_compatible=True), ("tensorrt-rtx", "1.8.0.1", "sm_89"), ""),
        (replace(PLAN, version_compatible=True), ("tensorrt-rtx", "1.6.9.1", "sm_89"), "installed is 1.6.9.1"),
        (replace(PLAN, version_compatible=True), ("tensorrt-rtx", "2.0", "sm_89"), "installed is 2.0"),
        (replace(PLAN, and_later=True), ("tensorrt-rtx", "1.7.1.116", "sm_120"), ""),
        (replace(PLAN, and_later=True), ("tensorrt-rtx", "1.7.1.116", "sm_75"), "this GPU is sm_75"),
        (replace(PLAN, hardware="NVIDIA L4"), ("tensorrt-rtx", "1.7.1.116", "sm_89", "NVIDIA L4"), ""),
        (replace(PLAN, hardware="NVIDIA L4"), ("tensorrt-rtx", "1.7.1.116", "sm_89", "NVIDIA L40"), "this GPU is NVIDIA L40"),
    ],
)
def test_where_a_plan_can_be_loaded(plan: PlanFile, here: tuple[str, ...], why: str) -> None:
    reason = plan.why_not(*here)  # type: ignore[arg-type]
    assert why in reason
    assert bool(why) == bool(reason)
