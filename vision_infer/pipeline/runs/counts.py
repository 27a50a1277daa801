"""The counts of a run: crossings of lines, and visits of zones."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from vision_infer.core.result import utc
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.sink.files.output_file import OutputFile, output_error

COLUMNS = ("stream", "start", "seconds", "place", "label", "in", "out")


def counts_of(record: StreamRecord) -> dict[str, dict[str, dict[str, int]]]:
    """Return the counts of a stream by line or zone and label: ``{"gate": {"car": {"in": 7, "out": 4}}}``."""
    if record.zones is None:
        return {}
    found: dict[str, dict[str, dict[str, int]]] = {place: {} for place in record.zones.places}
    for (place, label), (went_in, went_out) in record.zones.history.totals().items():
        found[place][label] = {"in": went_in, "out": went_out}
    return found


def write_counts(path: Path, overwrite: bool, records: Sequence[StreamRecord]) -> None:
    """Write a CSV file with a row for each stream, interval, place and label.

    ``start`` is the time in the video, seconds, or the time of day (UTC) for a camera. ``in`` and ``out`` are the crossings of a
    line, or the objects that entered and left a zone. A place without events in an interval has a row with an empty label.

    Args:
        path: The file.
        overwrite: Whether to replace an existing file.
        records: The records of the streams.

    Raises:
        OutputError: The file cannot be written.
    """
    file = OutputFile(str(path), overwrite)
    try:
        with file.partial.open("w", encoding="utf-8", newline="") as text:
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(COLUMNS)
            rows.writerows(row for record in records for row in _rows(record))
    except OSError as error:
        file.discard()
        raise output_error(path, error) from error
    file.commit()


def _rows(record: StreamRecord) -> Iterator[tuple[object, ...]]:
    if record.zones is None:
        return
    length_s = record.zones.history.interval_s
    for start_s, counts in record.zones.history.intervals():
        start = f"{start_s:.12g}" if record.live is None else utc(round(start_s * 1e9))
        for place in record.zones.places:
            here = {label: count for (name, label), count in counts.items() if name == place} or {"": (0, 0)}
            for label, count in here.items():
                yield (record.name, start, f"{length_s:g}", place, label, *count)
