"""What there is to run on, and how it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vision_infer.core.errors import UsageError
from vision_infer.engine.device import available_cpus, missing_runtime, parse_device


@pytest.mark.parametrize(
    ("device", "parsed"), [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:0", ("cuda", 0)), ("cuda:12", ("cuda", 12))]
)
def test_devices(device: str, parsed: tuple[str, int]) -> None:
    assert parse_device(device) == parsed


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:0", "cuda:1234", "cuda:0 "])
def test_what_is_no_device(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_device(device)
    assert repr(device) in caught.value.message
    assert "cuda:N" in caught.value.hint


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("content", "cpus"),
    [
        ("max 100000\n", 16),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("9900000 100000\n", 16),
        ("", 16),
        ("nonsense\n", 16),
        ("a b\n", 16),
        ("100000 0\n", 16),
    ],
)
def test_the_quota_of_the_control_group(tmp_path: Path, sixteen: None, content: str, cpus: int) -> None:
    cgroup = tmp_path / "cpu.max"
    cgroup.write_text(content)
    assert available_cpus(cgroup) == cpus


def test_no_control_group(tmp_path: Path, sixteen: None) -> None:
    assert available_cpus(tmp_path / "none") == 16


def test_this_machine_has_a_cpu() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_without_a_runtime_the_hint_says_what_to_install() -> None:
    assert "vision-infer[cpu]" in missing_runtime().hint
