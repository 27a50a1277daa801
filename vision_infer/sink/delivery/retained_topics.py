"""The topics of our retained messages, stored on the disk, so that those of a removed stream can be deleted later."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

MAX_TOPICS = 100_000

_log = logging.getLogger("vision_infer.sinks")


class RetainedTopics:
    """The topics of messages that a broker retains.

    Args:
        path: The file that stores them; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._topics: dict[str, None] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = []
        if isinstance(stored, list):
            self._topics = {topic: None for topic in stored[:MAX_TOPICS] if isinstance(topic, str) and topic}

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics."""
        return tuple(self._topics)

    def add(self, topics: Iterable[str]) -> None:
        """Store more topics."""
        new = [topic for topic in topics if topic not in self._topics]
        if new:
            self._topics |= dict.fromkeys(new)
            self._write()

    def remove(self, topics: Iterable[str]) -> None:
        """Remove topics."""
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
