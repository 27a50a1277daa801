"""The comparison of two files of results: fabricated rows with known differences."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.details import KINDS, details, with_details
from tests.support.media import bikes
from vision_infer.compare.diff_images import DiffImages, side_by_side
from vision_infer.compare.row_index import RowIndex
from vision_infer.compare.runs import DiffReport, DiffSettings, diff
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace

Found = tuple[str, float, list[float]]
"""A label, a score and a box."""


def row(stream: str, frame: int, *found: Found, width: int = 640) -> str:
    detections = [{"class_id": 7, "label": label, "score": score, "box": box} for label, score, box in found]
    parts = {"stream": stream, "frame": frame, "pts_s": frame / 25, "width": width, "height": 272, "model": "m", "engine": "e"}
    return json.dumps(parts | {"detections": detections, "latency_ms": {}}, ensure_ascii=False)


def person(x: float, score: float = 0.8) -> Found:
    return "person", score, [x, 20.0, x + 40, 100.0]


def write(path: Path, rows: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in rows), encoding="utf-8")
    return str(path)


def compared(folder: Path, a: list[str], b: list[str], **settings: Any) -> DiffReport:
    return diff(write(folder / "a.jsonl", a), write(folder / "b.jsonl", b), DiffSettings(**settings))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    random.seed(3)
    rows = [
        row(f'caméra "{s}"', n, *(person(60.0 * k + s, 0.5 + n % 7 / 20) for k in range(n % 5)))
        for n in range(60)
        for s in range(4)
    ]
    mixed = random.sample(rows, len(rows))
    report = compared(tmp_path, rows, mixed)
    assert report.same
    assert report.most_different == []
    figures = report.to_dict()
    assert figures["frames"] == {"both": 240, "only_a": 0, "only_b": 0, "different": 0}
    assert set(figures["streams"]) == {f'caméra "{s}"' for s in range(4)}
    assert figures["classes"]["person"]["matched"] == sum(n % 5 for n in range(60)) * 4
    assert figures["classes"]["person"]["mean_iou"] == 1


def test_differences_are_counted_by_stream_and_class(tmp_path: Path) -> None:
    a = [row("s", 0, person(0)), row("s", 1, person(0), person(200)), row("s", 2, person(0)), row("s", 3), row("t", 0, person(0))]
    b = [
        row("s", 0, person(0, 0.9)),  # another score
        row("s", 1, person(2), ("car", 0.7, [200.0, 20.0, 240.0, 100.0])),  # moved a little; another class
        row("s", 3, person(0)),
        row("s", 4, person(0)),
    ]
    report = compared(tmp_path, a, b)
    figures = report.to_dict()
    assert figures["same"] is False
    assert figures["streams"] == {
        "s": {"both": 3, "only_a": 1, "only_b": 1, "different": 3},
        "t": {"both": 0, "only_a": 1, "only_b": 0, "different": 0},
    }
    assert figures["classes"]["person"] == {
        "matched": 2,
        "only_a": 1,
        "only_b": 1,
        "score_changed": 1,
        "mean_iou": pytest.approx((1 + 38 / 42) / 2, abs=1e-4),
        "mean_score_change": pytest.approx(0.05),
        "mean_score_difference": pytest.approx(0.05),
        "max_score_difference": pytest.approx(0.1),
        "mean_details": None,
    }
    assert figures["classes"]["car"] | {"only_b": 1, "mean_iou": None} == figures["classes"]["car"]
    assert [(one.stream, one.frame) for one in report.most_different] == [("s", 1), ("s", 3), ("s", 0)]


def test_tolerances(tmp_path: Path) -> None:
    a, b = [row("s", 0, person(0, 0.80))], [row("s", 0, person(5, 0.84))]
    assert compared(tmp_path, a, b).same
    assert not compared(tmp_path, a, b, score_tolerance=0.03).same
    assert not compared(tmp_path, a, b, iou=0.9).same
    assert not compared(tmp_path, a, [row("s", 0, person(0, 0.80), width=320)]).same
    assert compared(tmp_path, a, b, top=0).most_different == []
    assert [one.frame for one in compared(tmp_path, a, b).most_different] == [0]  # reported, although tolerated
    for wrong in ({"iou": 0}, {"iou": float("nan")}, {"score_tolerance": 2.0}, {"top": -1}):
        with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            DiffSettings(**wrong)


def test_only_the_most_different_frames_are_kept_earlier_ones_first(tmp_path: Path) -> None:
    a = [row("s", n, *(person(60.0 * k) for k in range(n % 4))) for n in range(40)]
    b = [row("s", n) for n in range(40)]
    worst = compared(tmp_path, a, b, top=4).most_different
    assert [one.frame for one in worst] == [3, 7, 11, 15]


def test_rows_of_other_programs_and_empty_lines_are_read(tmp_path: Path) -> None:
    shuffled = json.loads(row("s", 5, person(0)))
    odd = json.dumps({key: shuffled[key] for key in reversed(shuffled)}, indent=None)
    report = compared(tmp_path, [row("s", 5, person(0))], ["", odd, "  "])
    assert report.same
    assert report.frames.both == 1
    assert compared(tmp_path, [], []).same


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"stream": "s", "frame": 1, "pts', "is not JSON"),
        ("hello", "is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"frame": 1}', "missing 'stream'"),
        ('{"stream": "s", "frame": -1}', "number from 0"),
        ('{"stream": "s", "frame": true}', "number from 0"),
        ('{"stream": "s", "frame": 1}', "missing 'detections'"),
        (row("s", 1).replace("640", '"wide"'), "not a row of results"),
        (row("s", 1, ("x", 0.5, [1, 2, 3])), "not a row of results"),
        (row("s", 1, ("x", 0.5, [1, 2, 3, float("nan")])), "finite"),
        (row("s", 1, ("x", 0.5, [1, 2, 3, 4])).replace('"label"', '"name"'), "missing 'label'"),
        (row("s", 0), "duplicate frame 0 of 's'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_invalid_line_is_named(tmp_path: Path, line: str, words: str, first: bool) -> None:
    good = [row("s", 0, person(0)), "", row("s", 2)]
    bad = [*good[:2], line, good[2]]
    with pytest.raises(UsageError) as raised:
        compared(tmp_path, bad if first else good, good if first else bad)
    assert str(raised.value).startswith(f"{tmp_path / ('a' if first else 'b')}.jsonl: line 3")
    assert words in str(raised.value)


def test_inputs_that_are_not_files_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", [row("s", 0)])
    for path in (str(tmp_path), str(tmp_path / "gone.jsonl"), "a\0b"):
        with pytest.raises(UsageError):
            diff(good, path, DiffSettings())
    (tmp_path / "video.mp4").write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(UsageError, match=r"video\.mp4: line 1 is not JSON"):
        diff(good, str(tmp_path / "video.mp4"), DiffSettings())


def test_the_memory_for_a_row_is_a_few_bytes(tmp_path: Path) -> None:
    count = 20_000
    path = write(tmp_path / "a.jsonl", [row(f"s{n % 3}", n // 3, person(0), person(100)) for n in range(count)])
    tracemalloc.start()
    try:
        with RowIndex(path) as index:
            kept, peak = tracemalloc.get_traced_memory()
            assert sum(len(one.frames) for one in index.streams.values()) == count
    finally:
        tracemalloc.stop()
    assert kept < 40 * count  # 20 bytes each, and the reserve of arrays; the rows themselves have 400
    assert peak < 100 * count


def test_images_show_a_on_the_left_and_b_on_the_right(tmp_path: Path) -> None:
    a, b = [row("s", 3, person(0), person(300))], [row("s", 3, person(0), person(500))]
    report = compared(tmp_path, a, b)
    gray = np.full((272, 640, 3), 90, np.uint8)
    drawn = side_by_side(gray, report.most_different[0], report.labels.names)
    assert (gray == 90).all()
    height = drawn.shape[0] - 272
    assert drawn.shape == (272 + height, 2 * 640 + 4, 3)
    left, right = drawn[height:, :640], drawn[height:, 644:]
    changed = [(half[50:90] != 90).any(axis=(0, 2)) for half in (left, right)]
    assert [bool(one[290:350].any()) for one in changed] == [True, False]
    assert [bool(one[490:550].any()) for one in changed] == [False, True]
    for half in (left, right):  # detections of both are gray, others are not
        assert (half[50:90, :60].max(axis=2) - half[50:90, :60].min(axis=2) == 0).all()
    assert (left[50:90, 290:350].max(axis=2) != left[50:90, 290:350].min(axis=2)).any()


def test_images_are_written_for_the_most_different_frames(tmp_path: Path) -> None:
    name = "../../evil"  # a name in a file must not lead out of the folder
    a = [row(name, n, *(person(60.0 * k) for k in range(n % 4))) for n in range(0, 250, 5)] + [row(name, 999, *[person(0)] * 5)]
    b = [row(name, n) for n in range(0, 250, 5)] + [row(name, 999)]
    report = compared(tmp_path, a, b, top=3)
    assert [one.frame for one in report.most_different] == [999, 15, 35]
    drawer = DiffImages(tmp_path / "out", [str(bikes())], overwrite=False)
    paths = drawer.write(report)
    assert paths == [str(tmp_path / "out" / f"{rank:02}-_evil-{frame:06}.jpg") for rank, frame in ((2, 15), (3, 35))]
    assert all(Path(path).stat().st_size > 10_000 for path in paths)
    with pytest.raises(OutputError, match="--overwrite"):
        drawer.write(report)
    with pytest.raises(UsageError, match=r"no source for stream '\.\./\.\./evil'"):
        DiffImages(tmp_path / "out", [str(bikes()), str(bikes())], overwrite=True).write(report)
    (tmp_path / "text").write_text("no folder")
    with pytest.raises(OutputError, match="not a folder"):
        DiffImages(tmp_path / "text", [str(bikes())], overwrite=True)
    with pytest.raises(UsageError, match=r"gone\.mp4"):
        DiffImages(tmp_path / "out", [str(tmp_path / "gone.mp4")], overwrite=True).write(report)


def classed(line: str, *labels: str, score: float = 0.75, embedding: str = "AAAA") -> str:
    """A row of a classifier, or of a detector with a secondary classifier."""
    parts = json.loads(line)
    found = [[{"class_id": 1, "label": label, "score": score}, {"class_id": 0, "label": "x", "score": 0.1}] for label in labels]
    if not parts["detections"]:
        return json.dumps(parts | ({"classes": found[0]} if found else {}) | {"embedding": embedding})
    reported = [one | {"classes": classes} for one, classes in zip(parts["detections"], found, strict=True)]
    return json.dumps(parts | {"detections": [one | {"embedding": embedding} for one in reported]})


def test_the_best_class_of_a_secondary_model_is_compared_and_embeddings_are_not(tmp_path: Path) -> None:
    plain = row("s", 0, person(0), person(200))
    both = [classed(plain, "red", "blue"), classed(row("s", 1, person(0)), "red")]
    assert compared(tmp_path, both, [classed(plain, "red", "blue", embedding="BBBB"), both[1]]).same
    report = compared(tmp_path, both, [classed(plain, "red", "green"), both[1]])
    assert not report.same
    assert report.to_dict()["secondary_changed"] == 1
    assert [(one.frame, one.secondary_changed) for one in report.most_different] == [(0, 1)]
    assert report.classes.keys() == {0}  # persons; the colors are not counted as classes
    assert compared(tmp_path, both, [plain, row("s", 1, person(0))]).same  # only one run had a secondary model


def test_the_best_class_of_whole_images_is_compared(tmp_path: Path) -> None:
    a = [classed(row("s", 0), "cat"), classed(row("s", 1), "cat"), classed(row("s", 2), "cat"), classed(row("s", 3))]
    b = [classed(row("s", 0), "cat", score=0.5), classed(row("s", 1), "dog"), classed(row("s", 2), "cat"), classed(row("s", 3))]
    figures = compared(tmp_path, a, b).to_dict()
    assert figures["frames"] == {"both": 4, "only_a": 0, "only_b": 0, "different": 2}
    assert (figures["classes"]["cat"]["matched"], figures["classes"]["cat"]["score_changed"]) == (2, 1)
    assert (figures["classes"]["cat"]["only_a"], figures["classes"]["dog"]["only_b"]) == (1, 1)
    assert compared(tmp_path, a, a).same


def detailed_row(found: Detections) -> str:
    return Result("s", 0, 0.0, Size(40, 30), "m", "e", found, Trace().latency()).to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_details_of_the_same_boxes_are_compared(kind: str, tmp_path: Path) -> None:
    found = with_details(details(kind, 3))
    boxes = np.array([[10 * at, 2, 10 * at + 9, 25] for at in range(3)], np.float32)
    kinds = np.zeros(3, np.int32)
    ours = Detections(boxes, found.scores, kinds, details=found.details)
    turned = Detections(boxes, found.scores, kinds, details=found[np.array([1, 0, 2])].details)
    same, other = (compared(tmp_path, [detailed_row(ours)], [detailed_row(one)]) for one in (ours, turned))
    assert same.same
    assert same.to_dict()["classes"]["0"]["mean_details"] == 1
    assert not other.same
    assert other.details_changed == other.most_different[0].details_changed == 2
    assert 0.3 < other.to_dict()["classes"]["0"]["mean_details"] < 1
    image = side_by_side(np.zeros((30, 40, 3), np.uint8), other.most_different[0], other.labels.names)
    assert image.any()


def test_details_of_different_kinds_are_not_compared(tmp_path: Path) -> None:
    a, b = (detailed_row(with_details(details(kind, 1))) for kind in ("keypoints", "rotated_boxes"))
    report = compared(tmp_path, [a], [b])
    assert report.same
    assert report.to_dict()["classes"]["0"]["mean_details"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask", {"size": [30, 40], "counts": "0"}),
        ("mask", {"size": [30, 40], "counts": "P" * 100}),
        ("mask", {"size": [10**9, 10**9], "counts": "0"}),
        ("mask", 7),
        ("keypoints", [[1, 2]]),
        ("keypoints", [[1, 2, float("nan")]]),
        ("box_rotated", [1, 2]),
    ],
)
def test_invalid_details_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    good = json.loads(row("s", 0, person(0)))
    good["detections"][0][field] = value
    with pytest.raises(UsageError, match="line 1 is not a row of results"):
        compared(tmp_path, [json.dumps(good)], [row("s", 0)])
