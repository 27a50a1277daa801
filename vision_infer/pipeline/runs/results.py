"""The results of a pipeline, to iterate over with ``for`` or ``async for``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from types import TracebackType

from vision_infer.core.result import Result
from vision_infer.pipeline.channel import ResultChannel


class Results:
    """The results of :meth:`Pipeline.run`, as an iterator and as an asynchronous iterator.

    The run begins with the first result that is taken. It ends with the last result, when :meth:`close` is called, or when
    nothing refers to this object any longer. As a context manager, ``with pipeline.run(…) as results:``, it closes itself.

    Args:
        run: Yields the results, and ends everything when it is closed.
        channel: The channel from which it reads.
    """

    def __init__(self, run: Generator[Result], channel: ResultChannel) -> None:
        self._run = run
        self._channel = channel
        # Guards the generator, which one thread at a time may enter: ``async for`` waits for results on other threads.
        self._entered = threading.Lock()

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Result:
        with self._entered:
            return next(self._run)

    def __aiter__(self) -> Results:
        return self

    async def __anext__(self) -> Result:
        """Wait for the next result on another thread. When the wait is canceled, the run ends."""
        try:
            result = await asyncio.to_thread(self._next_or_none)
        except asyncio.CancelledError:
            self._channel.finish()
            raise
        if result is None:
            raise StopAsyncIteration
        return result

    def close(self) -> None:
        """End the run: all sources are closed. Further results are discarded."""
        self._channel.finish()
        with self._entered:
            self._run.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _next_or_none(self) -> Result | None:
        with self._entered:
            return next(self._run, None)
