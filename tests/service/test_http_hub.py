"""Results for many clients: filters, skipped rows, and independence of clients."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import LONG_S, WALL_NS, frame, result
from tests.service.reading import drain, rows_of, run, write
from tests.support.hand_clock import HandClock
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.events import EngineEvent
from vision_infer.service.results.hub import ResultHub, TooManyReadersError
from vision_infer.service.results.row import ResultFilter
from vision_infer.service.results.subscription import DEPTH, EVENTS, STATES, HubClosedError


def test_a_fast_client_gets_every_row_in_order() -> None:
    async def work() -> None:
        hub = ResultHub()
        with hub.subscribe() as reader:
            for index in range(5 * DEPTH):
                write(hub, result(index=index))
                message = await reader.next(LONG_S)
                assert message is not None
                row = json.loads(message.text)
                assert (row["frame"], message.number) == (index, index + 1)
                assert "skipped" not in row
            assert reader.skipped == 0

    run(work())


def test_a_slow_client_gets_the_newest_row_and_the_number_of_skipped_ones() -> None:
    async def work() -> None:
        hub = ResultHub()
        with hub.subscribe() as reader:
            write(hub, *(result(index=index) for index in range(DEPTH + 3)))
            write(hub, result("gate"))
            got = rows_of(await drain(reader))
            assert [(row["stream"], row["frame"]) for row in got] == [
                ("door", DEPTH),
                ("gate", 0),
                ("door", DEPTH + 1),
                ("door", DEPTH + 2),
            ]
            assert [row.get("skipped") for row in got] == [DEPTH, None, None, None]
            assert reader.skipped == hub.skipped == DEPTH
        assert hub.skipped == DEPTH
        assert hub.readers == 0

    run(work())


def test_events_of_skipped_rows_are_reported() -> None:
    def crossing(index: int) -> tuple[SceneEvent, ...]:
        return (SceneEvent("cross", "gate", index + 1, 2, "car" if index % 2 else "person", direction="in", counts=(index, 0)),)

    async def work() -> None:
        hub = ResultHub()
        with hub.subscribe() as reader, hub.subscribe(ResultFilter(classes=frozenset({"car"}))) as cars:
            for index in range(20 * DEPTH + 1):
                write(hub, result(index=index, events=crossing(index)))
            (row,) = rows_of(await drain(reader))
            assert [one["counts"]["in"] for one in row["skipped_events"]] == list(range(20 * DEPTH - EVENTS, 20 * DEPTH))
            assert row["events"][0]["counts"]["in"] == row["skipped"] == 20 * DEPTH
            (row,) = rows_of(await drain(cars))
            assert {one["label"] for one in row["skipped_events"]} == {"car"}
            write(hub, result())
            (row,) = rows_of(await drain(reader))
            assert row.keys().isdisjoint({"skipped", "skipped_events"})

    run(work())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), max_size=200))
def test_every_skipped_row_is_counted(steps: list[tuple[str, int]]) -> None:
    async def work() -> None:
        hub = ResultHub()
        written = dict.fromkeys("abc", 0)
        seen = dict.fromkeys("abc", 0)
        with hub.subscribe() as reader:

            async def read(count: int) -> None:
                for _ in range(count):
                    message = await reader.next(0.0)
                    if message is not None:
                        row = json.loads(message.text)
                        seen[row["stream"]] += row.get("skipped", 0)
                        assert row["frame"] == seen[row["stream"]]
                        seen[row["stream"]] += 1

            for stream, reads in steps:
                write(hub, result(stream, written[stream]))
                written[stream] += 1
                await read(reads)
            await read(len(steps))
            assert seen == written
            assert hub.skipped == reader.skipped

    run(work())


def test_a_stuck_client_does_not_affect_another() -> None:
    async def work() -> None:
        hub = ResultHub()
        with hub.subscribe(), hub.subscribe() as reader:
            for index in range(10 * DEPTH):
                write(hub, result(index=index))
                assert len(await drain(reader)) == 1
            assert reader.skipped == 0

    run(work())


def test_the_buffer_is_bounded_while_streams_are_added_and_removed() -> None:
    async def work() -> None:
        hub = ResultHub(max_streams=4)
        with hub.subscribe() as reader:
            write(hub, *(result(f"s{number}") for number in range(10)))
            assert [row["stream"] for row in rows_of(await drain(reader))] == ["s6", "s7", "s8", "s9"]
            assert reader.skipped == 6

    run(work())


def test_clients_are_woken_from_another_thread_once_for_many_rows() -> None:
    async def work() -> None:
        hub = ResultHub()
        loop = asyncio.get_running_loop()
        woken: list[object] = []
        original = loop.call_soon_threadsafe

        def counted(callback: Any, *arguments: Any, **more: Any) -> asyncio.Handle:
            woken.append(callback)
            return original(callback, *arguments, **more)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        with hub.subscribe() as one, hub.subscribe() as other:
            waiting = [asyncio.ensure_future(reader.next(LONG_S)) for reader in (one, other)]
            await asyncio.sleep(0)
            thread = threading.Thread(target=lambda: write(hub, *(result(index=index) for index in range(5))))
            thread.start()
            thread.join(LONG_S)  # the event loop is blocked meanwhile
            assert len(woken) == 1
            first = await asyncio.gather(*waiting)
            assert [json.loads(message.text)["frame"] for message in first if message is not None] == [0, 0]
            assert len(await drain(one)) == len(await drain(other)) == 4

    run(work())


def test_changes_of_state_are_sent_to_subscribed_clients() -> None:
    async def work() -> None:
        clock = HandClock()
        hub = ResultHub(clock=clock)
        event = StreamEvent("door", StreamState.STALLED, clock.now - 10**9, "no frame for 5 s")
        with hub.subscribe() as plain, hub.subscribe(ResultFilter(streams=frozenset({"gate"})), states=True) as other:
            with hub.subscribe(states=True) as reader:
                for _ in range(STATES + 5):
                    hub.publish(event)
                hub.publish(StreamEvent("door", StreamState.LIVE, clock.now))
                got = await drain(reader)
                assert len(got) == STATES
                assert {message.kind for message in got} == {"state"}
                assert json.loads(got[0].text) == {
                    "type": "state",
                    "stream": "door",
                    "state": "stalled",
                    "at": "2023-11-14T22:29:59.000Z",
                    "reason": "no frame for 5 s",
                }
                assert json.loads(got[-1].text)["state"] == "live"
            assert await drain(plain) == await drain(other) == []

            hub.publish(EngineEvent("tiny", "swapped", "openvino-cpu-fp32", clock.now, "replaces null-cpu-none"))
            (message,) = await drain(other)  # an engine does not belong to one stream
            assert (message.kind, json.loads(message.text)["engine"]) == ("engine", "openvino-cpu-fp32")
            assert await drain(plain) == []

    assert WALL_NS == 1_700_000_000 * 10**9
    run(work())


def test_the_number_of_subscriptions_is_limited() -> None:
    async def work() -> None:
        hub = ResultHub(max_readers=2)
        with hub.subscribe(), hub.subscribe():
            with pytest.raises(TooManyReadersError, match="2 clients already read results"):
                hub.subscribe()
            assert hub.readers == 2
        with hub.subscribe():
            assert hub.readers == 1

    run(work())


def test_buffered_rows_are_sent_before_the_end() -> None:
    async def work() -> None:
        hub = ResultHub()
        with hub.subscribe() as reader, hub.subscribe() as idle:
            sleeping = asyncio.ensure_future(idle.next(LONG_S))
            await asyncio.sleep(0)
            write(hub, result())
            assert (await sleeping) is not None
            sleeping = asyncio.ensure_future(idle.next(LONG_S))
            await asyncio.sleep(0)
            hub.close(True)
            hub.close(True)
            with pytest.raises(HubClosedError):
                await sleeping
            assert await reader.next(0) is not None
            with pytest.raises(HubClosedError):
                await reader.next(0)
            with pytest.raises(HubClosedError):
                hub.subscribe()
        assert hub.one_shot("door").cancelled()

    run(work())


def test_a_hub_survives_the_end_of_its_event_loop() -> None:
    hub = ResultHub()

    async def leave_without_a_word() -> None:
        reader = hub.subscribe()
        assert await reader.next(0) is None

    run(leave_without_a_word())
    write(hub, result(), result(index=1))
    assert hub.readers == 0


def test_one_shot_returns_the_next_result_with_its_frame() -> None:
    hub = ResultHub()
    first, second, other = hub.one_shot("door"), hub.one_shot("door"), hub.one_shot("gate")
    assert second.cancel()
    hub.write(frame("door", 3), None)
    assert not first.done()
    write(hub, result(index=4))
    taken, found = first.result(0)
    assert (taken.index, found.frame) == (4, 4)
    hub.close(True)
    with pytest.raises(CancelledError):
        other.result(0)


def test_writing_is_cheap() -> None:
    """The control is the time to make a row: it varies with the machine as the measured times do."""
    hub = ResultHub()
    one, row = frame(), result()

    def cost(work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(20):
            begin = time.perf_counter_ns()
            for _ in range(200):
                work()
            best = min(best, time.perf_counter_ns() - begin)
        return best

    control = cost(row.to_json)
    assert cost(lambda: hub.write(one, row)) < 0.2 * control, "expected: a hundredth"

    async def with_readers() -> float:
        readers = [hub.subscribe() for _ in range(10)]
        spent = cost(lambda: hub.write(one, row))
        for reader in readers:
            hub.leave(reader)
        return spent

    assert run(with_readers()) < 5 * control, "expected: half; all readers share the row"
