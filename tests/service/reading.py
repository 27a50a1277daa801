"""Helpers to read from a hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.service.fakes import LONG_S, frame
from tests.support.result_schema import validate_row
from vision_infer.core.result import Result
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.subscription import Message, Subscription

Value = TypeVar("Value")


def run(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine on an event loop with a time limit."""

    async def limited() -> Value:
        async with asyncio.timeout(LONG_S):
            return await work

    return asyncio.run(limited())


def write(hub: ResultHub, *rows: Result) -> None:
    for row in rows:
        hub.write(frame(row.stream, row.frame), row)


async def drain(reader: Subscription) -> list[Message]:
    """Return all buffered messages."""
    messages: list[Message] = []
    while True:
        message = await reader.next(0.0)
        if message is None:
            return messages
        messages.append(message)


def rows_of(messages: list[Message]) -> list[dict[str, Any]]:
    rows = [json.loads(message.text) for message in messages]
    for row, message in zip(rows, messages, strict=True):
        if message.kind == "result":
            validate_row(row)
    return rows
