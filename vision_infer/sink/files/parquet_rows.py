"""The rows of a Parquet file that wait to become a row group, and their columns."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.result import Result

NESTED_BYTES = 16 * 1024 * 1024
"""The maximum size of embeddings and details in memory; with them a row group may have fewer rows."""
MAX_EVENTS = 16_384
"""The maximum number of events in memory."""
_CHANGE_TEXTS = ("state", "lane", "change", "engine", "step", "before", "reason")
_EVENT_TEXTS = ("type", "event", "stream", "kind", "place", "label", "direction", *_CHANGE_TEXTS)


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The optional columns of a file."""

    whole: bool = False
    """Whether rows are about whole images: their boxes are null, and their classes may be."""
    secondary: bool = False
    """Whether there are columns for the best class of the secondary model."""
    embedding: int | None = None
    """The number of values of an embedding; None: there is no such column."""
    live: bool = False
    """Whether there is a column for the capture time."""
    details: frozenset[str] = frozenset()
    """The columns for details of detections, and the extra fields of hooks: fields of rows."""
    identity: bool = False
    """Whether there is a column for the identity."""

    def schema(self) -> Any:
        """Return the Arrow schema."""
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        box = [pa.field(edge, pa.float32(), nullable=self.whole) for edge in ("x1", "y1", "x2", "y2")]
        secondary = [
            pa.field("secondary_class_id", pa.int32()),
            pa.field("secondary_label", text),
            pa.field("secondary_score", pa.float32()),
        ]
        embedding = [] if self.embedding is None else [pa.field("embedding", pa.list_(pa.float32(), self.embedding))]
        types = {
            "keypoints": pa.list_(pa.list_(pa.float32(), 3)),
            "mask": pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())]),
            "box_rotated": pa.list_(pa.float32(), 5),
            "extra": pa.string(),
        }
        return pa.schema(
            [
                pa.field("stream", text, nullable=False),
                pa.field("frame", pa.int64(), nullable=False),
                pa.field("pts_s", pa.float64()),
                pa.field("file", text),
                pa.field("class_id", pa.int32(), nullable=self.whole),
                pa.field("label", text, nullable=self.whole),
                pa.field("score", pa.float32(), nullable=self.whole),
                *box,
                pa.field("track_id", pa.int32()),
                pa.field("gated", pa.bool_(), nullable=False),
                *([pa.field("captured_at", pa.timestamp("ms", "UTC"))] if self.live else []),
                *([pa.field("identity", pa.int32())] if self.identity else []),
                *(secondary if self.secondary else []),
                *embedding,
                *(pa.field(name, types[name]) for name in sorted(self.details)),
            ]
        )


class ParquetRows:
    """The rows of a group in columns of a fixed length, so that memory does not depend on the number of frames.

    Args:
        capacity: The maximum number of rows.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._boxes = np.empty((capacity, 4), np.float32)  # NaN: none
        self._scores, self._secondary_scores = np.empty(capacity, np.float32), np.empty(capacity, np.float32)
        self._class_ids, self._secondary_ids = np.empty(capacity, np.int32), np.empty(capacity, np.int32)  # -1: none
        self._tracks, self._identities = np.empty(capacity, np.int32), np.empty(capacity, np.int32)  # 0: none
        self._frames = np.empty(capacity, np.int64)
        self._gated = np.empty(capacity, np.bool_)
        self._captured = np.empty(capacity, np.int64)  # milliseconds; -1: unknown
        self._pts = np.empty(capacity, np.float64)  # NaN: none
        self._texts = {name: np.empty(capacity, np.int32) for name in ("stream", "file", "label", "secondary_label")}  # -1: none
        self._known: dict[str, dict[str, int]] = {name: {} for name in self._texts}
        self._embeddings: dict[int, NDArray[np.float32]] = {}
        """The embeddings by row."""
        self._details: dict[str, dict[int, Any]] = {}
        """The details by row, of each column: text for masks and extra fields, arrays for others."""
        self._nested_bytes = 0
        self._whole = self._described = self._classes = self._live = self._identified = False

    @property
    def full(self) -> bool:
        """Whether the rows must become a group before more are added."""
        return self.count == self.capacity or self._nested_bytes >= NESTED_BYTES

    @property
    def columns(self) -> ParquetColumns:
        """The columns that the rows so far need."""
        embedding = next((len(values) for values in self._embeddings.values()), None)
        secondary = self._described and (self._classes or embedding is None)
        return ParquetColumns(self._whole, secondary, embedding, self._live, frozenset(self._details), self._identified)

    def add(self, result: Result, first: int) -> int:
        """Add rows of a result from ``first`` on, up to the capacity, and return their number."""
        found = result.detections
        self._described |= found.descriptions is not None
        self._identified |= found.identities is not None
        if result.description is not None:
            self._whole = True
            return self._add_whole(result, result.description)
        taken = min(len(found) - first, self.capacity - self.count)
        rows, of = slice(self.count, self.count + taken), slice(first, first + taken)
        self._boxes[rows] = found.boxes[of]
        self._scores[rows] = found.scores[of]
        self._class_ids[rows] = found.class_ids[of]
        self._tracks[rows] = 0 if found.track_ids is None else found.track_ids[of]
        self._identities[rows] = 0 if found.identities is None else found.identities[of]
        self._add_frame(result, rows)
        labels = [self._number("label", found.label_of(class_id)) for class_id in found.class_ids[of].tolist()]
        self._texts["label"][rows] = labels
        self._secondary_ids[rows] = self._texts["secondary_label"][rows] = -1
        if found.descriptions is not None or found.details is not None:
            taken = self._add_nested(found, first, taken)
        self.count += taken
        return taken

    def _add_nested(self, found: Detections, first: int, count: int) -> int:
        """Add descriptions and details of detections until they take too much memory, and return the number of rows."""
        for row, index in enumerate(range(first, first + count), self.count):
            description = None if found.descriptions is None else found.descriptions[index]
            if description is not None:
                self._add_secondary(row, description)
            if found.details is not None:
                for name, value in found.details.row(index).items():
                    kept = value if name == "mask" else np.array(value, np.float32)
                    self._details.setdefault(name, {})[row] = kept
                    self._nested_bytes += len(value["counts"]) if name == "mask" else kept.nbytes
            if self._nested_bytes >= NESTED_BYTES:
                return index + 1 - first
        return count

    def _add_whole(self, result: Result, description: Description) -> int:
        row, best = self.count, description.best
        self._add_frame(result, slice(row, row + 1))
        self._boxes[row] = np.nan
        self._tracks[row] = self._identities[row] = 0
        self._secondary_ids[row] = self._texts["secondary_label"][row] = -1
        self._class_ids[row] = -1 if best is None else best.class_id
        self._texts["label"][row] = -1 if best is None else self._number("label", best.label)
        self._scores[row] = 0 if best is None else best.score
        self._add_embedding(row, description)
        self.count += 1
        return 1

    def _add_frame(self, result: Result, rows: slice) -> None:
        self._frames[rows] = result.frame
        self._gated[rows] = result.gated
        self._live |= result.live is not None
        self._captured[rows] = -1 if result.live is None else result.live.captured_wall_ns // 1_000_000
        self._pts[rows] = np.nan if result.pts_s is None else result.pts_s
        self._texts["stream"][rows] = self._number("stream", result.stream)
        self._texts["file"][rows] = -1 if result.file is None else self._number("file", result.file)
        if result.extra is not None:
            text = json.dumps(result.extra)
            self._details.setdefault("extra", {}).update(dict.fromkeys(range(rows.start, rows.stop), text))
            self._nested_bytes += len(text)

    def _add_secondary(self, row: int, description: Description) -> None:
        best = description.best
        if best is not None:
            self._classes = True
            self._secondary_ids[row], self._secondary_scores[row] = best.class_id, best.score
            self._texts["secondary_label"][row] = self._number("secondary_label", best.label)
        self._add_embedding(row, description)

    def _add_embedding(self, row: int, description: Description) -> None:
        if description.embedding is not None:
            self._embeddings[row] = description.embedding
            self._nested_bytes += description.embedding.nbytes

    def take(self, columns: ParquetColumns) -> Any:
        """Return all rows as an Arrow table, which is valid until more are added, and remove them here.

        Raises:
            OutputError: An embedding has another number of values than the column.
        """
        import pyarrow as pa

        table = pa.Table.from_arrays(list(self._arrays(columns)), schema=columns.schema())
        self.count = self._nested_bytes = 0
        self._embeddings.clear()
        self._details.clear()
        for known in self._known.values():
            known.clear()
        return table

    def _arrays(self, columns: ParquetColumns) -> Iterator[Any]:
        import pyarrow as pa

        rows = slice(0, self.count)
        pts, tracks, ids, secondary = self._pts[rows], self._tracks[rows], self._class_ids[rows], self._secondary_ids[rows]
        boxes = self._boxes[rows]
        yield self._text("stream")
        yield pa.array(self._frames[rows])
        yield pa.array(pts, mask=np.isnan(pts))
        yield self._text("file")
        nameless = ids < 0 if columns.whole else None
        yield pa.array(ids, mask=nameless)
        yield self._text("label")
        yield pa.array(self._scores[rows], mask=nameless)
        boxless = np.isnan(boxes[:, 0]) if columns.whole else None
        for edge in range(4):
            yield pa.array(np.ascontiguousarray(boxes[:, edge]), mask=boxless)
        yield pa.array(tracks, mask=tracks <= 0)
        yield pa.array(self._gated[rows])
        if columns.live:
            captured = self._captured[rows]
            yield pa.array(captured, pa.timestamp("ms", "UTC"), mask=captured < 0)
        if columns.identity:
            identities = self._identities[rows]
            yield pa.array(identities, mask=identities <= 0)
        if columns.secondary:
            yield pa.array(secondary, mask=secondary < 0)
            yield self._text("secondary_label")
            yield pa.array(self._secondary_scores[rows], mask=secondary < 0)
        if columns.embedding is not None:
            yield self._embedding(columns.embedding)
        for name in sorted(columns.details):
            values = self._details.get(name, {})
            rows_of = [values.get(row) for row in range(self.count)]
            kinds = columns.schema().field(name).type
            yield pa.array([one.tolist() if isinstance(one, np.ndarray) else one for one in rows_of], kinds)

    def _embedding(self, size: int) -> Any:
        import pyarrow as pa

        values = np.zeros((self.count, size), np.float32)
        missing = np.ones(self.count, np.bool_)
        for row, embedding in self._embeddings.items():
            if len(embedding) != size:
                raise OutputError(
                    f"an embedding has {len(embedding)} values, earlier ones have {size}",
                    "Return embeddings of one length from the hook.",
                )
            values[row], missing[row] = embedding, False
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size, mask=pa.array(missing))

    def _number(self, column: str, text: str) -> int:
        return self._known[column].setdefault(text, len(self._known[column]))

    def _text(self, column: str) -> Any:
        import pyarrow as pa

        numbers = self._texts[column][: self.count]
        # A file name may hold bytes that are not valid text: they are written as escapes.
        texts = [text.encode(errors="backslashreplace").decode() for text in self._known[column]]
        return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), pa.array(texts, pa.string()))


class EventRows:
    """Events of zones and lines, and changes of streams and engines, as rows.

    Args:
        capacity: The maximum number of rows.
    """

    def __init__(self, capacity: int = MAX_EVENTS) -> None:
        self._capacity = capacity
        self._rows: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        """The number of waiting rows."""
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether the rows must be written before more are added."""
        return len(self._rows) >= self._capacity

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an event or a change in its JSON form."""
        counts = row.get("counts", {})
        at = row.get("at")
        values = {name: row.get(name) for name in ("frame", "track_id", "class_id", "seconds", *_EVENT_TEXTS)}
        values["at"] = None if at is None else datetime.datetime.fromisoformat(at)
        values["count_in"], values["count_out"] = counts.get("in"), counts.get("out")
        self._rows.append(values)

    def take(self) -> Any:
        """Return all rows as an Arrow table, and remove them here."""
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema(
            [
                pa.field("at", pa.timestamp("ms", "UTC")),
                *(pa.field(name, pa.string() if name in ("reason", "event") else text) for name in _EVENT_TEXTS),
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
