"""Frames in tiles, from the settings to the results: what is found, the batches, the shares, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.pipeline.fakes import SIDE, EchoEngine, FakeSink, FakeSource, add, box_of, finish, make_supervisor
from tests.pipeline.live_fakes import Camera, Rig
from tests.support import media
from tests.support.small_objects import scene, score
from vision_infer import Detector, Pipeline
from vision_infer.config.region import Region
from vision_infer.config.run import run_settings
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.config.stream_policy import StreamPolicy, TileSettings
from vision_infer.core.errors import StreamError, UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.status import StreamState
from vision_infer.stream.image import TensorImage


def tiled(command: Any, tiles: Any, **fields: Any) -> Any:
    return replace(command, policy=StreamPolicy(tiles=TileSettings.model_validate(tiles)), **fields)


def test_tiles_find_small_objects_of_a_4k_image_and_none_twice() -> None:
    pytest.importorskip("onnxruntime")
    image = scene(height=96)
    whole, tiles = (score(image, Detector(device="cpu", tiles=kind)(image.rgb)) for kind in (None, 640))
    assert whole.found <= 0.1 * whole.objects
    assert tiles.found >= 0.85 * tiles.objects
    assert tiles.doubles == 0


def test_a_run_and_the_detector_find_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image = scene(height=96, seed=1)
    cv2.imwrite(str(tmp_path / "large.png"), image.rgb[..., ::-1])
    detector = Detector(device="cpu", tiles="2x3,overlap=0.1,whole")
    (result,) = Pipeline(detector).run(tmp_path / "large.png")
    alone = detector(image.rgb)
    assert len(alone) > 0
    assert result.detections.labels == alone.labels
    assert np.abs(result.detections.boxes - alone.boxes).max() < 1.0


def test_a_frame_with_tiles_is_tracked_and_drawn_as_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows, drawn = tmp_path / "rows.jsonl", tmp_path / "drawn.mp4"
    policy: dict[str, Any] = {"tiles": "1x2", "track": True, "tracker": "bytetrack-cmc", "confidence": 0.4}
    settings = run_settings(sources=(str(media.bikes()),), out=(str(rows), str(drawn)), end=0.8, device="cpu", **policy)
    summary = run(settings, threading.Event())
    assert not summary.failed
    with av.open(str(drawn)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (640, 272)
    text = rows.read_text()
    assert '"track_id": 1' in text
    assert len(text.splitlines()) == 20


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [((1,), [1] * 6), ((1, 2, 4), [4, 2]), ((4,), [4, 4]), ((1, 8), [8])],
)
def test_more_tiles_than_the_largest_batch_run_in_several(sizes: tuple[int, ...], batches: list[int]) -> None:
    engine, sink, source = EchoEngine(batch_sizes=sizes), FakeSink(), FakeSource(0, 3)
    supervisor = make_supervisor(engine, [source], shared=[sink])
    supervisor.add(tiled(add(source), "2x3"))
    finish(supervisor)
    assert [len(batch) for batch in engine.batches] == batches * 3
    assert sink.indices() == [0, 1, 2]
    for _, _, result in sink.written:
        assert result is not None
        assert result.latency.queue_ns >= 0
        assert 1 <= len(result.detections) <= 6
        assert (result.detections.boxes <= SIDE).all()
    (lane,) = supervisor.lane_statuses()
    assert lane.frames == 3
    assert lane.padded == 3 * (sum(batches) - 6)
    assert supervisor.statuses()[0].tiles == 6


def test_frames_with_and_without_tiles_share_batches() -> None:
    engine, sink = EchoEngine(batch_sizes=(1, 2, 4, 8)), FakeSink()
    sources = [FakeSource(number, 12) for number in range(3)]
    supervisor = make_supervisor(engine, sources, shared=[sink])
    supervisor.add(tiled(add(sources[0]), "1x3"))
    for source in sources[1:]:
        supervisor.add(add(source))
    finish(supervisor)
    for source in sources:
        assert sink.indices(source.name) == list(range(12))
    assert sink.results("s1") == sink.results("s2") == list(range(12)), "each row belongs to its frame"
    slots = sum(len(batch) for batch in engine.batches) - supervisor.lane_statuses()[0].padded
    assert slots == 12 * 3 + 12 * 2


class TensorSource(FakeSource):
    """Frames whose sender wants the outputs of the engine."""

    images: list[TensorImage]

    def frames(self) -> Iterator[Frame]:
        self.images = [TensorImage(np.full((SIDE, SIDE, 3), (index, self.number, 0), np.uint8)) for index in range(self.count)]
        for index, image in enumerate(self.images):
            yield Frame(self.name, index, None, image, Trace())


def test_outputs_of_tensors_are_those_of_their_slot() -> None:
    engine, tensors, other = EchoEngine(batch_sizes=(1, 2, 4, 8)), TensorSource(1, 12), FakeSource(0, 12)
    supervisor = make_supervisor(engine, [tensors, other], shared=[FakeSink()])
    supervisor.add(add(other, tiles=TileSettings(rows=1, columns=3)))
    supervisor.add(add(tensors))
    finish(supervisor)
    for index, image in enumerate(tensors.images):
        assert image.outputs["boxes"].tolist() == [box_of(1, index)]


def test_a_tile_that_cannot_be_written_loses_its_frame_only() -> None:
    engine, sink, source = EchoEngine(batch_sizes=(1, 4)), FakeSink(), FakeSource(0, 4, broken=frozenset({2}))
    supervisor = make_supervisor(engine, [source], shared=[sink])
    one_tile = Region(units="relative", look=(((0.2, 0.2), (0.4, 0.2), (0.4, 0.4)),))
    supervisor.add(replace(add(source), policy=StreamPolicy(crop_region=True), region=one_tile))
    finish(supervisor)
    assert sink.indices() == [0, 1, 2, 3]


def test_a_tile_larger_than_the_video_ends_the_stream_with_the_figures() -> None:
    engine, sink, source = EchoEngine(), FakeSink(), FakeSource(0, 3)
    supervisor = make_supervisor(engine, [source], shared=[sink])
    supervisor.add(tiled(add(source), 640))
    finish(supervisor)
    (status,) = supervisor.statuses()
    assert status.state is StreamState.FAILED
    assert (
        status.error == f"s0: tiles of 640 pixels are larger than the image, {SIDE}x{SIDE}. Use smaller tiles, or leave them out."
    )
    assert engine.batches == []


def test_a_camera_whose_image_is_smaller_than_a_tile_is_refused_until_its_settings_change() -> None:
    camera = Camera(0)
    with Rig(camera, engine=EchoEngine(batch_sizes=(1, 2, 4))) as rig:
        command = rig.add(camera)
        rig.give(camera)
        command = rig.change(command, tiles=TileSettings(size=640))
        camera.give()
        status = rig.wait_state(StreamState.REFUSED)
        assert f"tiles of 640 pixels are larger than the image, {SIDE}x{SIDE}" in status.reason
        command = rig.change(command, tiles=TileSettings(rows=2, columns=2), reconnect=Reconnect(min_s=0.001))
        rig.give(camera, 2)
        assert rig.status().tiles == 4
        assert [len(batch) for batch in rig.engine.batches] == [1, 4, 4]
        rig.change(command, tiles=None)
        rig.give(camera)
        assert rig.status().tiles == 1


def test_tiles_of_images_without_detections_are_refused() -> None:
    with pytest.raises(UsageError, match="larger than the image"):
        Detector(device="cpu", tiles=640)(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(StreamError, match="larger than the image"):
        list(Pipeline(Detector(device="cpu", tiles=1000)).run(media.bikes()))


def test_a_region_is_cropped_in_the_detector_and_detections_keep_their_place(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image = scene(height=150)
    x1, y1, x2, y2 = image.boxes[image.labels.index("cat")].tolist()
    region = tmp_path / "region.yaml"
    region.write_text(f"look: [[[{x1}, {y1}], [{x2}, {y1}], [{x2}, {y2 + 20}], [{x1}, {y2 + 20}]]]\n")
    assert len(Detector(device="cpu", region=region)(image.rgb)) == 0
    found = Detector(device="cpu", region=region, crop_region=True)(image.rgb)
    assert np.abs(found.boxes[0] - [x1, y1, x2, y2]).max() < 20
    with pytest.raises(UsageError, match="crop_region: needs region"):
        Detector(crop_region=True)
