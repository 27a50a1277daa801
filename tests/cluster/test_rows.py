"""Rows between worker and gateway: node and epoch, outdated rows, and batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from vision_infer.cluster.rows import Batches, NewestEpochs, stamped, stamped_events

ROW = b'id: 7\ndata: {"stream": "door", "frame": 3, "detections": []}'


def test_a_row_gets_node_and_epoch() -> None:
    head, _, row = stamped(ROW, "b", {"door": 12}).partition(b"\ndata: ")
    assert head == b"id: 7"
    assert json.loads(row) == {"node": "b", "epoch": 12, "stream": "door", "frame": 3, "detections": []}


def test_a_row_of_a_camera_that_the_node_does_not_run_is_left_out() -> None:
    assert stamped(ROW, "b", {}) == b""


def test_a_change_of_an_engine_gets_the_node_and_a_heartbeat_nothing() -> None:
    event = stamped(b'event: engine\ndata: {"type": "engine", "lane": "main"}', "b", {})
    assert event == b'event: engine\ndata: {"node": "b", "type": "engine", "lane": "main"}'
    assert stamped(b": heartbeat", "b", {}) == b": heartbeat"


def test_rows_of_an_older_epoch_are_discarded() -> None:
    def row(epoch: int, stream: str = "door") -> str:
        event = stamped(f'data: {{"stream": "{stream}", "frame": 1}}'.encode(), "b", {stream: epoch})
        return event.decode().partition("data: ")[2]

    newest = NewestEpochs()
    newest.know({"door": 5, "yard": 1})
    assert [newest.accepts(row(epoch)) for epoch in (4, 5, 6, 5, 6)] == [False, True, True, False, True]
    assert newest.accepts(row(1, "yard"))
    newest.know({"door": 5, "yard": 2})
    assert [newest.accepts(row(epoch)) for epoch in (5, 6)] == [False, True], "what was seen counts as well"
    assert not newest.accepts(row(1, "yard"))
    assert newest.discarded == 4
    assert newest.accepts('{"node": "b", "type": "engine", "lane": "main"}')


def test_events_that_arrive_in_pieces_are_stamped_once_complete() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"retry: 1000\n\n" + ROW[:20], ROW[20:] + b"\n", b"\n" + ROW + b"\n\n"):
            yield piece

    async def read() -> list[bytes]:
        return [events async for events in stamped_events(pieces(), "b", {"door": 12})]

    whole = stamped(ROW, "b", {"door": 12}) + b"\n\n"
    assert asyncio.run(read()) == [b"retry: 1000\n\n", whole + whole]


def test_what_arrives_within_the_interval_is_one_batch() -> None:
    async def read() -> tuple[list[bytes], bytes, list[bytes]]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def pieces() -> AsyncIterator[bytes]:
            while (piece := await queue.get()) is not None:
                yield piece

        batches = Batches(pieces(), 0.02)
        queue.put_nowait(b"first ")
        first = [await batches.read()]  # at once: it was quiet before
        for piece in (b"a ", b"b ", b"c "):
            queue.put_nowait(piece)
        joined = await batches.read()
        queue.put_nowait(b"last")
        queue.put_nowait(None)
        return first, joined, [await batches.read(), await batches.read(), await batches.read()]

    assert asyncio.run(read()) == ([b"first "], b"a b c ", [b"last", b"", b""])
