"""The history of benchmarks is stored, bounded and compared, and noise is not reported as a change."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tests.capacity.benches import MACHINE, SETTINGS, about, bench, engine_row
from vision_infer.capacity import history
from vision_infer.capacity.history import add_to_history, changes, like, read_history
from vision_infer.capacity.report import BenchReport
from vision_infer.core.errors import OutputError, UsageError


def with_engine(ms: float, noise: float = 0.01) -> BenchReport:
    row = engine_row().model_copy(update={"cpu_ms": about(ms, noise)})
    return bench(engines=(row,))


def test_a_history_skips_invalid_lines_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    path = tmp_path / "below" / "bench.jsonl"
    assert read_history(path) == []
    for day in range(1, 6):
        add_to_history(path, bench(date=datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)))
    assert [one.date.day for one in read_history(path)] == [3, 4, 5]
    with path.open("a", encoding="utf-8") as file:
        file.write('{"format": 2}\nnot JSON at all\n')
        file.write(bench().model_dump_json()[:200])
    assert len(read_history(path)) == 3
    assert [item.name for item in path.parent.iterdir()] == ["bench.jsonl"]


def test_an_unreadable_or_read_only_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory. Use another file for --history."):
        read_history(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot be written: .*. Use another file for --history."):
        add_to_history(tmp_path / "file" / "bench.jsonl", bench())


def test_a_slowdown_larger_than_the_noise_is_reported() -> None:
    (line,) = changes([with_engine(10.0)], with_engine(12.0))
    assert line.startswith("onnxruntime-cpu-fp32 at batch 1 is slower: 10.00 → 12.00 ms of CPU (+20%;")
    (line,) = changes([with_engine(10.0)], with_engine(8.0))
    assert "is faster" in line


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ([with_engine(10.0, 0.1)], with_engine(11.0, 0.1)),
        ([with_engine(10.0, 0.001)], with_engine(10.4, 0.001)),
        ([with_engine(10.0), with_engine(13.0), with_engine(9.0)], with_engine(12.0)),
        ([], with_engine(12.0)),
    ],
    ids=["intervals overlap", "two benches differ by so little", "an earlier one was so too", "nothing to compare with"],
)
def test_noise_is_not_reported(earlier: list[BenchReport], now: BenchReport) -> None:
    assert changes(earlier, now) == []


def test_only_undisturbed_benchmarks_of_the_same_machine_and_settings_are_compared() -> None:
    same = bench()
    others = [
        bench(interrupted=True),
        bench(other_cores=1.0),
        bench(machine=MACHINE.model_copy(update={"cores": 8})),
        bench(machine=MACHINE.model_copy(update={"cpu_limit": 1.5})),
        bench(settings=SETTINGS.model_copy(update={"quick": False})),
    ]
    assert like([same, *others], bench()) == [same]
    assert not others[0].comparable
    assert not others[1].comparable
