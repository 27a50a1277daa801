"""The hooks on the page of examples, run as the page says."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import media
from vision_infer.config.run import run_settings
from vision_infer.pipeline.runs import offline

PAGE = media.ROOT / "docs" / "how-to" / "hook-examples.md"
EXAMPLES = {
    text.split("\n", 1)[0].removeprefix("# ").removesuffix(".py"): text
    for text in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a video of people on bicycles."""
    shutil.copy(media.excerpt(100, 12, 640, 272), tmp_path / "street.mp4")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def run(name: str, hook: str, *changes: tuple[str, str], **options: Any) -> None:
    """Write an example, with other constants, and run it; no call must fail."""
    text = EXAMPLES[name]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    settings = run_settings(sources=("street.mp4",), device="cpu", hook=(f"{name}:{hook}",), overwrite=True, **options)
    summary = offline.run(settings, threading.Event())
    assert [source["hook_errors"] for source in summary.sources] == [0]
    assert summary.frames > 0


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]


def images(path: str) -> list[np.ndarray[Any, Any]]:
    return [frame.to_ndarray(format="rgb24").astype(int) for frame in media.decoded(Path(path))]


def test_there_are_five_examples() -> None:
    assert list(EXAMPLES) == ["blur", "hourly", "plates", "relay", "hard"]


def test_people_are_blurred_in_the_video() -> None:
    run("blur", "people,on_error=drop", confidence=0.2, out=("blurred.mp4", "rows.jsonl"), draw_labels="none")
    plain, blurred = images("street.mp4"), images("blurred.mp4")
    assert len(plain) == len(blurred) == 12
    boxes = [one["box"] for one in rows()[5]["detections"] if one["label"] == "person"]
    assert boxes
    x1, y1, x2, y2 = (int(edge) for edge in boxes[0])
    inside = slice(y1 + 8, y2 - 8), slice(x1 + 8, x2 - 8)
    detail = [np.abs(np.diff(image[5][inside], axis=1)).mean() for image in (plain, blurred)]
    assert detail[1] < detail[0] / 2, "fine detail is gone"


def test_objects_are_counted_once_in_their_hour() -> None:
    run("hourly", "count", track=True, out=("rows.jsonl",))
    tracks = {(one["track_id"], one["label"]) for row in rows() for one in row["detections"] if "track_id" in one}
    with sqlite3.connect("counts.db") as database:
        counted = database.execute("SELECT stream, label, sum(count) FROM counts GROUP BY stream, label").fetchall()
    database.close()
    assert tracks
    assert sum(count for _, _, count in counted) == len({track for track, _ in tracks})
    assert {stream for stream, _, _ in counted} == {"street"}
    assert {label for _, label, _ in counted} <= {label for _, label in tracks}


def write_reader(path: Path, classes: list[int]) -> None:
    """Write a model that reads the same text on each plate."""
    scores = np.zeros((1, len(classes), 37), np.float32)
    scores[0, range(len(classes)), classes] = 1
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["bright"], keepdims=0),
        helper.make_node("Mul", ["scores", "bright"], ["text"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 32, 128])]
    outputs = [helper.make_tensor_value_info("text", TensorProto.FLOAT, [1, len(classes), 37])]
    graph = helper.make_graph(nodes, "reader", inputs, outputs, [numpy_helper.from_array(scores, "scores")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_plates_are_read_in_a_process(here: Path) -> None:
    write_reader(here / "plate-reader.onnx", [11, 11, 0, 0, 11, 2, 2, 0])  # AA1 with repetitions and blanks
    run("plates", "read,process=true,timeout_s=60", ('{"plate"}', '{"person"}'), out=("rows.jsonl",))
    texts = [plate for row in rows() for plate in row.get("extra", {}).get("plates", [])]
    assert texts
    assert {plate["text"] for plate in texts} == {"AA1"}
    people = [one["label"] for row in rows() for one in row["detections"]].count("person")
    assert len(texts) == people


def test_a_relay_is_switched_once(here: Path) -> None:
    asked: list[str] = []

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            pass

    zone = "zones:\n  door: {polygon: [[0, 0], [1, 0], [1, 1], [0, 1]], units: relative}\n"
    (here / "zones.yaml").write_text(zone)
    with HTTPServer(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        change = ("192.0.2.20", f"127.0.0.1:{server.server_port}")
        run("relay", "switch,timeout_s=30", change, zones=here / "zones.yaml", out=("rows.jsonl",))
        server.shutdown()
    entered = [event for row in rows() for event in row.get("events", []) if event["kind"] == "enter"]
    assert entered
    assert asked == ["/relay/0?turn=on&timer=10"]


def test_hard_frames_become_tasks_with_boxes(here: Path) -> None:
    run("hard", "store", out=("rows.jsonl",), confidence=0.3)
    (task,) = (here / "hard").glob("*.json")
    read = json.loads(task.read_text())
    assert read["data"]["image"] == f"/data/local-files/?d=hard/{task.stem}.jpg"
    index = int(task.stem.rpartition("-")[2])
    (row,) = (row for row in rows() if row["frame"] == index)
    regions = read["predictions"][0]["result"]
    assert [region["value"]["rectanglelabels"] for region in regions] == [[one["label"]] for one in row["detections"]]
    assert any(0.3 < one["score"] < 0.5 for one in row["detections"])
    for region, one in zip(regions, row["detections"], strict=True):
        value = region["value"]
        edges = np.array([value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]])
        np.testing.assert_allclose(edges * [6.4, 2.72, 6.4, 2.72], one["box"], atol=0.02)
    assert task.with_suffix(".jpg").stat().st_size > 1000
