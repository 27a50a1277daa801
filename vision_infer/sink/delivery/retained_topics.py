"""What a broker retains of ours: remembered on the disk, so that what is of a stream that is gone can be taken away later."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

MOST = 100_000

_log = logging.getLogger("vision_infer.sinks")


class RetainedTopics:
    """Topics of retained messages.

    Args:
        path: the file that remembers them; need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._topics: dict[str, None] = {}
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = []
        if isinstance(kept, list):
            self._topics = {topic: None for topic in kept[:MOST] if isinstance(topic, str) and topic}

    @property
    def topics(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._topics)

    def add(self, topics: Iterable[str]) -> None:
        """Remember more."""
        new = [topic for topic in topics if topic not in self._topics]
        if new:
            self._topics |= dict.fromkeys(new)
            self._write()

    def remove(self, topics: Iterable[str]) -> None:
        """Forget some."""
        old = [topic for topic in topics if topic in self._topics]
        if old:
            for topic in old:
                del self._topics[topic]
            self._write()

    def _write(self) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(list(self._topics)), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            _log.debug("%s: %s", self._path, error)
