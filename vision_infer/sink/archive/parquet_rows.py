"""The rows of a Parquet file that wait to become a row group, and the columns that they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.errors import OutputError
from vision_infer.core.result import Result

EMBEDDING_BYTES = 16 * 1024 * 1024
"""of embeddings that are held in memory: with them a row group may have fewer rows"""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns a file has, besides those that all have."""

    whole: bool = False
    """rows stand for whole pictures: their boxes are null, and their classes may be"""
    secondary: bool = False
    """the best class that a second network tells of each detection"""
    embedding: int | None = None
    """how many values an embedding has; None: there is no such column"""
    live: bool = False
    """when the picture was taken"""

    def schema(self) -> Any:
        """The schema of Arrow."""
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        box = [pa.field(edge, pa.float32(), nullable=self.whole) for edge in ("x1", "y1", "x2", "y2")]
        secondary = [
            pa.field("secondary_class_id", pa.int32()),
            pa.field("secondary_label", text),
            pa.field("secondary_score", pa.float32()),
        ]
        embedding = [] if self.embedding is None else [pa.field("embedding", pa.list_(pa.float32(), self.embedding))]
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
                *(secondary if self.secondary else []),
                *embedding,
            ]
        )


class Rows:
    """The rows of a group in columns of a fixed length: what is held does not depend on how many frames they come from.

    Args:
        room: most rows.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.count = 0
        self._boxes = np.empty((room, 4), np.float32)  # NaN: there is none
        self._scores, self._secondary_scores = np.empty(room, np.float32), np.empty(room, np.float32)
        self._class_ids, self._secondary_ids = np.empty(room, np.int32), np.empty(room, np.int32)  # -1: there is none
        self._tracks = np.empty(room, np.int32)
        self._frames = np.empty(room, np.int64)
        self._gated = np.empty(room, np.bool_)
        self._captured = np.empty(room, np.int64)  # milliseconds; -1: not known
        self._pts = np.empty(room, np.float64)  # NaN: there is none
        self._texts = {name: np.empty(room, np.int32) for name in ("stream", "file", "label", "secondary_label")}  # -1: none
        self._known: dict[str, dict[str, int]] = {name: {} for name in self._texts}
        self._embeddings: dict[int, NDArray[np.float32]] = {}
        """by row"""
        self._held = 0
        """bytes of them"""
        self._whole = self._described = self._classes = self._live = False

    @property
    def full(self) -> bool:
        """Whether they must become a group before more are added."""
        return self.count == self.room or self._held >= EMBEDDING_BYTES

    @property
    def columns(self) -> Columns:
        """The columns that are needed for what was seen so far."""
        embedding = next((len(one) for one in self._embeddings.values()), None)
        return Columns(self._whole, self._described and (self._classes or embedding is None), embedding, self._live)

    def add(self, result: Result, first: int) -> int:
        """Add the rows of a result from its ``first`` on, as many as there is room for; returns how many that are."""
        found = result.detections
        self._described |= found.descriptions is not None
        if result.description is not None:
            self._whole = True
            return self._add_whole(result, result.description)
        taken = min(len(found) - first, self.room - self.count)
        rows, of = slice(self.count, self.count + taken), slice(first, first + taken)
        self._boxes[rows] = found.boxes[of]
        self._scores[rows] = found.scores[of]
        self._class_ids[rows] = found.class_ids[of]
        self._tracks[rows] = 0 if found.track_ids is None else found.track_ids[of]
        self._add_image(result, rows)
        labels = [self._number("label", found.label_of(class_id)) for class_id in found.class_ids[of].tolist()]
        self._texts["label"][rows] = labels
        self._secondary_ids[rows] = self._texts["secondary_label"][rows] = -1
        for done, told in enumerate((found.descriptions or ())[of]):
            if told is not None:
                self._add_told(self.count + done, told)
            if self._held >= EMBEDDING_BYTES:
                taken = done + 1
                break
        self.count += taken
        return taken

    def _add_whole(self, result: Result, description: Description) -> int:
        row, best = self.count, description.best
        self._add_image(result, slice(row, row + 1))
        self._boxes[row] = np.nan
        self._tracks[row] = 0
        self._secondary_ids[row] = self._texts["secondary_label"][row] = -1
        self._class_ids[row] = -1 if best is None else best.class_id
        self._texts["label"][row] = -1 if best is None else self._number("label", best.label)
        self._scores[row] = 0 if best is None else best.score
        self._add_embedding(row, description)
        self.count += 1
        return 1

    def _add_image(self, result: Result, rows: slice) -> None:
        self._frames[rows] = result.frame
        self._gated[rows] = result.gated
        self._live |= result.live is not None
        self._captured[rows] = -1 if result.live is None else result.live.captured_wall_ns // 1_000_000
        self._pts[rows] = np.nan if result.pts_s is None else result.pts_s
        self._texts["stream"][rows] = self._number("stream", result.stream)
        self._texts["file"][rows] = -1 if result.file is None else self._number("file", result.file)

    def _add_told(self, row: int, told: Description) -> None:
        best = told.best
        if best is not None:
            self._classes = True
            self._secondary_ids[row], self._secondary_scores[row] = best.class_id, best.score
            self._texts["secondary_label"][row] = self._number("secondary_label", best.label)
        self._add_embedding(row, told)

    def _add_embedding(self, row: int, told: Description) -> None:
        if told.embedding is not None:
            self._embeddings[row] = told.embedding
            self._held += told.embedding.nbytes

    def take(self, columns: Columns) -> Any:
        """All rows as a table of Arrow, which is good until more are added; none are left here.

        Raises:
            OutputError: an embedding has another number of values than the column.
        """
        import pyarrow as pa

        table = pa.Table.from_arrays(list(self._arrays(columns)), schema=columns.schema())
        self.count = self._held = 0
        self._embeddings.clear()
        for known in self._known.values():
            known.clear()
        return table

    def _arrays(self, columns: Columns) -> Iterator[Any]:
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
        if columns.secondary:
            yield pa.array(secondary, mask=secondary < 0)
            yield self._text("secondary_label")
            yield pa.array(self._secondary_scores[rows], mask=secondary < 0)
        if columns.embedding is not None:
            yield self._embedding(columns.embedding)

    def _embedding(self, size: int) -> Any:
        import pyarrow as pa

        values = np.zeros((self.count, size), np.float32)
        missing = np.ones(self.count, np.bool_)
        for row, embedding in self._embeddings.items():
            if len(embedding) != size:
                raise OutputError(f"an embedding has {len(embedding)} values, those before it {size}", "check the hook")
            values[row], missing[row] = embedding, False
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size, mask=pa.array(missing))

    def _number(self, column: str, text: str) -> int:
        return self._known[column].setdefault(text, len(self._known[column]))

    def _text(self, column: str) -> Any:
        import pyarrow as pa

        numbers = self._texts[column][: self.count]
        # A file's name may hold bytes that are no text: they are written as escapes.
        texts = [text.encode(errors="backslashreplace").decode() for text in self._known[column]]
        return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), pa.array(texts, pa.string()))
