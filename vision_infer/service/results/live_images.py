"""The current images of streams, one after the other, for clients without WebRTC."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

import anyio
from anyio import to_thread

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results import snapshot
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.views import Snapshot

SILENT_S = 10.0
"""The maximum time without an image, in seconds."""
ENCODERS = 2
"""The maximum number of images that are encoded at the same time, over all streams."""


class LiveImages:
    """The viewers of all streams, within the limits of the preview. Only the event loop may use it.

    Viewers of a stream that wait at the same time get the same image, which is drawn and encoded once.
    """

    def __init__(self, hub: ResultHub, settings: PreviewSettings, clock: Clock) -> None:
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._viewers: Counter[str] = Counter()
        self._next: dict[tuple[str, bool], asyncio.Task[Snapshot]] = {}
        self._encoders = anyio.CapacityLimiter(ENCODERS)

    def watch(self, stream: str, annotated: bool, fps: float) -> Watcher:
        """Return a new viewer.

        Raises:
            UnavailableError: The preview is disabled, or a limit of viewers is reached.
        """
        settings = self._settings
        if not settings.enabled:
            raise UnavailableError("live video is disabled", "See preview.enabled.")
        if self._viewers.total() >= settings.max_viewers:
            raise UnavailableError(f"the limit of {settings.max_viewers} viewers is reached", "See preview.max_viewers.")
        if self._viewers[stream] >= settings.max_viewers_per_stream:
            limit = settings.max_viewers_per_stream
            raise UnavailableError(f"{stream}: the limit of {limit} viewers is reached", "See preview.max_viewers_per_stream.")
        self._viewers[stream] += 1
        return Watcher(self, stream, annotated, fps)

    def leave(self, stream: str) -> None:
        """Stop counting a viewer."""
        self._viewers[stream] -= 1

    async def next(self, stream: str, annotated: bool) -> Snapshot:
        """Return the next image of a stream.

        Raises:
            UnavailableError: No image arrived in time, or the service is stopping.
        """
        task = self._next.get((stream, annotated))
        if task is None:
            task = self._next[stream, annotated] = asyncio.create_task(self._make(stream, annotated))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # there may be no viewer left
        return await asyncio.shield(task)

    async def _make(self, stream: str, annotated: bool) -> Snapshot:
        try:
            found = asyncio.wrap_future(self._hub.one_shot(stream))
            await asyncio.wait((found,), timeout=SILENT_S)
            if not found.done() or found.cancelled():
                found.cancel()
                raise UnavailableError(f"{stream}: no frame within {SILENT_S:g} s", "Check the state of the stream.")
            frame, result = found.result()
        finally:
            del self._next[stream, annotated]  # what comes from here on is older than the next request
        return await to_thread.run_sync(snapshot.of_result, frame, result, annotated, self._clock, limiter=self._encoders)


class Watcher:
    """One viewer; a context manager.

    Args:
        fps: The maximum rate of images, images per second.
    """

    def __init__(self, images: LiveImages, stream: str, annotated: bool, fps: float) -> None:
        self._images = images
        self._stream = stream
        self._annotated = annotated
        self._interval_s = 1 / fps
        self._due_s = 0.0

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._images.leave(self._stream)

    async def next(self) -> Snapshot:
        """Return the next image, when it is due.

        Raises:
            UnavailableError: No image arrived in time, or the service is stopping.
        """
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s) + self._interval_s  # late images do not cause a burst
        return await self._images.next(self._stream, self._annotated)
