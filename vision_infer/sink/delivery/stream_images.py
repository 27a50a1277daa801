"""Images of streams at intervals, for receivers that show them. Nothing waits for an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from vision_infer.core.clock import Clock


class ImageRequest(Protocol):
    """A request for the next image of a stream."""

    def jpeg(self) -> bytes | None:
        """Return the image as JPEG; None if it has not arrived yet."""

    def cancel(self) -> None:
        """Give the request up."""


def no_image(stream: str) -> ImageRequest:
    """Have no image of any stream: for a carrier that is only checked.

    Raises:
        LookupError: Always.
    """
    raise LookupError(stream)


class StreamImages:
    """Requests an image of each stream every ``interval_s`` seconds.

    Args:
        request: Requests the next image of a stream.
    """

    def __init__(self, request: Callable[[str], ImageRequest], interval_s: float, clock: Clock) -> None:
        self._request = request
        self._interval_ns = round(interval_s * 1e9)
        self._clock = clock
        self._due_ns: dict[str, int] = {}
        self._requests: dict[str, ImageRequest] = {}

    def take(self, streams: Iterable[str]) -> dict[str, bytes]:
        """Return the images that arrived since the last call, by stream, and request those that are due.

        Args:
            streams: The names of the streams that deliver frames.
        """
        now_ns = self._clock.monotonic_ns()
        names = set(streams)
        for gone in self._requests.keys() - names:
            self._requests.pop(gone).cancel()
        self._due_ns = {name: self._due_ns.get(name, now_ns) for name in names}
        arrived = {}
        for name, request in list(self._requests.items()):
            image = request.jpeg()
            if image is not None:
                arrived[name] = image
                del self._requests[name]
        for name, due_ns in self._due_ns.items():
            if due_ns <= now_ns and name not in self._requests:
                self._requests[name] = self._request(name)
                self._due_ns[name] = now_ns + self._interval_ns
        return arrived
