"""What readers of results choose, and how often a row is written for them."""

from __future__ import annotations

import pytest

from tests.service.fakes import result
from tests.service.reading import drain, rows_of, run, write
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent
from vision_infer.service.hub import ResultHub
from vision_infer.service.row import ResultFilter


def test_filters() -> None:
    crossing = SceneEvent("cross", "gate", 1, 2, "car", direction="in", counts=(1, 0))

    async def work() -> None:
        hub = ResultHub()
        wanted = [
            ResultFilter(streams=frozenset({"gate"})),
            ResultFilter(classes=frozenset({"car"})),
            ResultFilter(min_score=0.5),
            ResultFilter(classes=frozenset({"car"}), min_score=0.5, only_with_detections=True),
            ResultFilter(only_with_detections=True),
        ]
        readers = [hub.subscribe(one) for one in wanted]
        write(hub, result("door"), result("gate", found={"bicycle": 0.3}), result("yard", found={}, events=(crossing,)))
        got = [rows_of(await drain(reader)) for reader in readers]
        for reader in readers:
            hub.leave(reader)
        assert [row["stream"] for row in got[0]] == ["gate"]
        assert [[one["label"] for one in row["detections"]] for row in got[1]] == [["car"], [], []]
        assert [[one["label"] for one in row["detections"]] for row in got[2]] == [["person"], [], []]
        assert [row["stream"] for row in got[3]] == ["yard"]
        assert [row["stream"] for row in got[4]] == ["door", "gate", "yard"]
        assert [row.get("events", []) != [] for row in got[1]] == [False, False, True]

    run(work())


def test_a_row_is_written_once_however_many_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = Result.to_json

    def counted(self: Result) -> str:
        calls.append(self.frame)
        return original(self)

    monkeypatch.setattr(Result, "to_json", counted)

    async def work() -> None:
        hub = ResultHub()
        cars = ResultFilter(classes=frozenset({"car"}))
        readers = [hub.subscribe() for _ in range(20)] + [hub.subscribe(cars) for _ in range(20)]
        write(hub, result(index=7))
        assert calls == [], "the pipeline's thread writes no JSON"
        for reader in readers:
            assert len(await drain(reader)) == 1
            hub.leave(reader)
        assert calls == [7, 7]

    run(work())
