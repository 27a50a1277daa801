"""Events of zones and lines, and changes of streams and engines, as rows of a Parquet file."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

ROOM = 16_384
"""rows that are held in memory"""
_CHANGES = ("state", "lane", "change", "engine", "step", "before", "reason")
_TEXTS = ("type", "event", "stream", "kind", "place", "label", "direction", *_CHANGES)


class Happenings:
    """Rows that wait to be written: ``at``, ``type`` (event, state, engine or degraded), and what such a row tells."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._rows: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether they must be written before more are added."""
        return len(self._rows) >= self._room

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one, as it is told in JSON."""
        counts = row.get("counts", {})
        at = row.get("at")
        values = {name: row.get(name) for name in ("frame", "track_id", "class_id", "seconds", *_TEXTS)}
        values["at"] = None if at is None else datetime.datetime.fromisoformat(at)
        values["count_in"], values["count_out"] = counts.get("in"), counts.get("out")
        self._rows.append(values)

    def take(self) -> Any:
        """All rows as a table of Arrow; none are left here."""
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema(
            [
                pa.field("at", pa.timestamp("ms", "UTC")),
                *(pa.field(name, pa.string() if name in ("reason", "event") else text) for name in _TEXTS),
                pa.field("frame", pa.int64()),
                pa.field("track_id", pa.int32()),
                pa.field("class_id", pa.int32()),
                pa.field("seconds", pa.float64()),
                pa.field("count_in", pa.int64()),
                pa.field("count_out", pa.int64()),
            ]
        )
        rows, self._rows = self._rows, []
        return pa.Table.from_pylist(rows, schema=schema)
