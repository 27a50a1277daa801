"""Rows of results and changes between a worker and a gateway: which node and epoch they come from, and which are outdated.

The worker inserts ``"node"`` and ``"epoch"`` at the beginning of each row. The epoch of a camera increases each time that another
process runs the camera. A gateway discards rows of older epochs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

MAX_BATCH = 256 * 1024
"""The size of a batch above which it does not wait for further rows, bytes."""
_STREAM = re.compile(r'"stream": "([^"\\]+)"')
_STAMP = re.compile(r'\{"node": "[^"\\]+", "epoch": (\d+), ')
_DATA = b"data: {"


def stamp_of(node: str, epoch: int) -> str:
    """Return the members with which a row begins."""
    return f'"node": "{node}", "epoch": {epoch}, '


def stamped(block: bytes, node: str, epochs: Mapping[str, int]) -> bytes:
    """Return a server-sent event with node and epoch.

    Args:
        block: The event, without the empty line at its end.
        node: The name of the node.
        epochs: The epoch of each camera that the node runs.

    Returns:
        The event; empty if it belongs to a camera that the node does not run.
    """
    head, data, row = block.partition(_DATA)
    if not data:
        return block
    found = _STREAM.search(row[:512].decode("utf-8", "replace"))
    if found is None:  # a change of an engine
        return b'%b%b"node": "%b", %b' % (head, data, node.encode(), row)
    epoch = epochs.get(found[1])
    return b"" if epoch is None else b"%b%b%b%b" % (head, data, stamp_of(node, epoch).encode(), row)


class NewestEpochs:
    """Discards rows of older epochs. One thread uses it."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self.discarded = 0
        """The number of discarded rows."""

    def know(self, epochs: Mapping[str, int]) -> None:
        """Take over the epochs of all cameras; others are forgotten."""
        self._newest = {name: max(epoch, self._newest.get(name, 0)) for name, epoch in epochs.items()}

    def accepts(self, row: str) -> bool:
        """Return whether a row is not older than another one of its camera."""
        stamp = _STAMP.match(row)
        stream = _STREAM.search(row, 0, 512)
        if stamp is None or stream is None:
            return True
        epoch = int(stamp[1])
        newest = self._newest.get(stream[1])
        if newest is not None and epoch < newest:
            self.discarded += 1
            return False
        if newest is not None:
            self._newest[stream[1]] = epoch
        return True


class Batches:
    """Joins the pieces of a response: what arrives within an interval is one batch.

    A piece after a quiet interval is returned at once. One task uses it.

    Args:
        pieces: The pieces of the response.
        interval_s: The minimum time between two batches, seconds; 0: do not wait.
    """

    def __init__(self, pieces: AsyncIterator[bytes], interval_s: float) -> None:
        self._pieces = pieces
        self._interval_s = interval_s
        self._next: asyncio.Future[bytes] | None = None
        self._due = 0.0

    async def read(self) -> bytes:
        """Return the next batch; empty at the end of the response.

        Raises:
            httpx.HTTPError: The worker has ended.
        """
        loop = asyncio.get_running_loop()
        batch = await self._piece(None)
        while batch and len(batch) < MAX_BATCH:
            wait_s = self._due - loop.time()
            piece = await self._piece(wait_s) if wait_s > 0 else None
            if not piece:
                break
            batch += piece
        self._due = loop.time() + self._interval_s
        return batch or b""

    async def _piece(self, timeout_s: float | None) -> bytes | None:
        """Return the next piece, empty at the end, or None after a timeout."""
        if self._next is None:
            self._next = asyncio.ensure_future(_next_of(self._pieces))
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        if not done:
            return None
        piece = self._next.result()
        if piece:  # the end is returned again
            self._next = None
        return piece

    def cancel(self) -> None:
        """Stop to read."""
        if self._next is not None:
            self._next.cancel()


async def _next_of(pieces: AsyncIterator[bytes]) -> bytes:
    async for piece in pieces:
        if piece:
            return piece
    return b""


async def stamped_events(chunks: AsyncIterator[bytes], node: str, epochs: Mapping[str, int]) -> AsyncIterator[bytes]:
    """Return the server-sent events of a worker with node and epoch; see :func:`stamped`."""
    rest = b""
    async for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        events = [event for event in (stamped(block, node, epochs) for block in blocks) if event]
        if events:
            yield b"\n\n".join(events) + b"\n\n"
