"""The driver calls of a batch: those of the null device are those of CUDA's driver."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.device_cost import BATCH, calls_of_a_batch
from tests.benchmarks.cuda_calls import FEW, MANY
from tests.support.fake_cuda import FakeCuda

pytest.importorskip("cuda.bindings.driver")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "on_device"), [("device", BATCH), ("host", 0)])
def test_the_null_device_makes_the_calls_of_the_driver(where: str, on_device: int, tmp_path: Path) -> None:
    fake = FakeCuda(tmp_path)
    found = [fake.run(f"tests.benchmarks.cuda_calls:{count}_from_{where}") for count in ("few", "many")]
    assert [(done.status, done.err) for done in found] == [(0, "")] * 2
    few, many = (Counter(done.calls) for done in found)
    calls = {name: (many[name] - few[name]) / (MANY - FEW) for name in many if many[name] != few[name]}
    assert sum(calls.values()) == calls_of_a_batch(on_device)["all"], calls


def test_the_driver_calls_of_a_batch_do_not_grow_with_it() -> None:
    """With separate calls for each frame and each output, there were 46 calls for eight decoded frames, and 15 for images."""
    assert calls_of_a_batch(BATCH)["all"] <= 12
    assert calls_of_a_batch(1, 1)["all"] <= 12
    assert calls_of_a_batch(0)["all"] <= 10
