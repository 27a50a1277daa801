"""Frames in which nothing moves are not inferred: their rows, and tracks, zones and counts meanwhile."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.fakes import FakeImage, box_of
from tests.pipeline.live_fakes import Camera, Connection, Rig
from tests.support.cameras import ClockMount, RtspServer
from tests.support.hand_clock import HandClock
from tests.support.live_service import Running, camera
from tests.support.media import made
from vision_infer.config.region import Region
from vision_infer.config.run import run_settings
from vision_infer.config.zones import ZoneSettings
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import RESULT_SCHEMA, Result
from vision_infer.core.trace import Trace
from vision_infer.pipeline.hooks.frame import HookFrame
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.workers.gating import StreamGate, counted_blocks

YARD = ZoneSettings(polygon=((0, 0), (256, 0), (256, 256), (0, 256)), min_s=0, dwell_s=4)
FPS = 5


@dataclass
class Scene:
    """The scene of a camera."""

    luma: NDArray[np.uint8] = field(default_factory=lambda: np.full((90, 160), 100, np.uint8))


class SceneImage(FakeImage):
    def __init__(self, scene: Scene, number: int, index: int) -> None:
        super().__init__(number, index)
        self._luma = scene.luma.copy()

    def luma(self, max_width: int) -> NDArray[np.uint8]:
        assert max_width >= self._luma.shape[1]
        return self._luma


class SceneConnection(Connection):
    def frame(self) -> Iterator[Frame]:
        index, self.given = self.given, self.given + 1
        seen = self.camera
        assert isinstance(seen, SceneCamera)
        now = seen.clock.monotonic_ns()
        trace = Trace(decode_start_ns=now, captured_ns=now, clock="arrival")
        yield Frame(seen.name, index, index / FPS, SceneImage(seen.scene, seen.number, index), trace)


class SceneCamera(Camera):
    def __init__(self, clock: HandClock) -> None:
        super().__init__(0, clock=clock)
        self.scene = Scene()

    def open(self, stopping: threading.Event) -> Connection:
        connection = SceneConnection(self, stopping)
        self.opened.append(connection)
        return connection


class Watch:
    """A camera with a motion gate, and a clock that advances by a frame interval with each frame."""

    def __init__(self, **options: Any) -> None:
        self.clock = HandClock()
        self.camera = SceneCamera(self.clock)
        self.rig = Rig(clock=self.clock)
        self.command = self.rig.add(self.camera, **{"gate": "motion", "gate_heartbeat_s": 100.0, **options})

    def see(self, seconds: float) -> list[Result]:
        before = len(self.results())
        for _ in range(round(seconds * FPS)):
            self.clock.move(1 / FPS)
            self.rig.give(self.camera)
        return self.results()[before:]

    def results(self) -> list[Result]:
        return [result for _, _, result in self.rig.sink.written if result is not None]

    def __enter__(self) -> Watch:
        self.rig.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.rig.__exit__(*error)


def test_a_gated_row_repeats_the_last_result_and_is_marked() -> None:
    with Watch(track=0.3) as watch:
        first = watch.see(2)
        still = watch.see(3)
        status = watch.rig.status()
        flight = watch.rig.supervisor.flight("s0")
        assert flight is not None
        outcomes = [frame.outcome for frame in flight.frames.frames(0, 1 << 62)]
        watch.camera.scene.luma[40:60, 60:80] = 200
        moving = watch.see(1)
    assert not any(result.gated for result in first)
    assert all(result.gated for result in still)
    assert not any(result.gated for result in moving)
    last = first[-1]
    for result in still:
        assert result.frame > last.frame
        assert result.detections.boxes.tolist() == [box_of(0, last.frame)]
        assert result.detections.track_ids is not None
        assert result.detections.track_ids.tolist() == [1]
        assert (result.model, result.engine) == (last.model, last.engine)
        assert result.live is not None
        assert "gated" not in result.live.dropped_before
        row = json.loads(result.to_json())
        jsonschema.validate(row, RESULT_SCHEMA)
        assert row["gated"] is True
        assert row["latency_ms"]["inference"] == 0
    assert "gated" not in json.loads(last.to_json())
    assert (status.results, status.dropped["gated"]) == (len(first), len(still))
    assert outcomes == ["result"] * len(first) + ["gated"] * len(still)
    assert [result.frame for result in watch.results()] == list(range(6 * FPS))


def test_an_object_that_does_not_move_stays_and_dwells() -> None:
    with Watch(track=0.3, zones={"yard": YARD}) as watch:
        watch.see(10)
        events = [(event.kind, result.gated, event.seconds) for result in watch.results() for event in result.events]
        assert watch.rig.status().occupancy == {"yard": 1}
        watch.camera.scene.luma[40:60, 60:80] = 200
        after = watch.see(1)
    assert [(kind, gated) for kind, gated, _ in events] == [("enter", False), ("dwell", True)]
    assert events[1][2] == pytest.approx(4, abs=0.4)
    assert {tuple(result.detections.track_ids.tolist()) for result in after if result.detections.track_ids is not None} == {(1,)}


def test_changed_settings_discard_the_last_result() -> None:
    with Watch(track=0.3) as watch:
        watch.see(4)
        assert watch.results()[-1].gated
        watch.rig.change(watch.command, track=None, gate_heartbeat_s=50.0)
        assert not any(result.gated for result in watch.see(1.5))
        assert watch.see(3)[-1].gated
        assert watch.results()[-1].detections.track_ids is None
        watch.rig.change(watch.command, track=None, gate=None)
        assert not any(result.gated for result in watch.see(4))


def test_a_heartbeat_is_inferred() -> None:
    with Watch(gate_heartbeat_s=1.0) as watch:
        watch.see(2)
        gated = [result.gated for result in watch.see(10)]
    assert gated.count(False) == 10


def test_a_hook_can_drop_a_repeated_result() -> None:
    with Watch(hook=f"{__name__}:only_inferred") as watch:
        watch.see(5)
        status = watch.rig.status()
    assert not any(result.gated for result in watch.results())
    assert status.dropped["hook"] == 5 * FPS - status.results
    assert "gated" not in status.dropped


def only_inferred(frame: HookFrame, result: Result) -> Result | None:
    return None if result.gated else result


def test_images_of_another_size_or_without_luma_are_inferred() -> None:
    gate = StreamGate(100.0, None)
    scene, seconds = Scene(), iter(range(1000))

    def wants(side: int | None = None) -> bool:
        image: FakeImage = FakeImage(0, 0) if side is None else SceneImage(scene, 0, 0)
        if side is not None:
            image.size = Size(side, side)
        return gate.wants(image, next(seconds) * 1_000_000_000)

    assert [wants(256) for _ in range(5)] == [True, True, False, False, False]
    assert wants()
    assert [wants(512) for _ in range(4)] == [True, True, False, False]


def test_a_frame_between_two_comparisons_costs_two_calls() -> None:
    gate, image, calls = StreamGate(100.0, None), SceneImage(Scene(), 0, 0), []
    gate.wants(image, 0)
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        gate.wants(image, 1)
    finally:
        sys.setprofile(None)
    assert calls == ["wants", "__eq__"], "of the size; isinstance() with a Protocol makes many"


def test_a_change_outside_the_region_does_not_count() -> None:
    size = Size(1600, 900)
    look = Region(units="relative", look=[[(0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)]])
    counted = counted_blocks(look, size, 90, 160)
    assert counted.shape == (22, 40)
    assert not counted[:10].any()
    assert counted[10:, 19:].all()  # and a block around it
    assert not counted[:, :18].any()
    keyhole = Region(look=[[(703, 403), (707, 403), (705, 407)]])
    assert counted_blocks(keyhole, size, 90, 160).sum() == 9
    ignored = Region(units="relative", ignore=[[(0, 0), (1, 0), (1, 0.51), (0, 0.51)]])
    counted = counted_blocks(ignored, size, 90, 160)
    assert not counted[:11].any()
    assert counted[11:].all()


def _visitor(path: Path) -> None:
    """Four seconds of a noisy still scene, an object that moves through it, and four more seconds; H.264."""
    import av

    random = np.random.default_rng(1)
    ground = np.clip(110 + 40 * np.sin(np.arange(320) / 20)[None, :] + np.zeros((180, 1)), 0, 255)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "23", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(250):
            gray = ground + random.normal(0, 3, ground.shape)
            if 100 <= number < 150:
                left = (number - 100) * 5
                gray[80:120, left : left + 25] = 220
            frame = av.VideoFrame.from_ndarray(np.clip(gray, 0, 255).astype(np.uint8), "gray").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_run_infers_moving_frames_and_has_a_row_for_every_frame(tmp_path: Path) -> None:
    clip = made("a visitor in a still scene", ".mp4", _visitor)
    out = tmp_path / "rows.jsonl"
    settings = run_settings(sources=(str(clip),), engine="null", out=(str(out),), gate="motion", workers=1, track=True)
    summary = run(settings, threading.Event())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(250))
    gated = [row["frame"] for row in rows if row.get("gated")]
    assert summary.frames == 250 - len(gated)
    assert summary.sources[0]["dropped"] == {"gated": len(gated)}
    assert set(range(52, 100)) <= set(gated), "nothing moves there"
    assert not set(range(102, 150)) & set(gated), "the visitor is there"
    assert len(set(gated) & set(range(200, 250))) >= 20


@pytest.mark.slow  # 6 s
def test_movement_in_an_ignored_area_is_gated_until_the_area_is_removed() -> None:
    code = Region(units="relative", ignore=[[(0, 0), (1, 0), (1, 1), (0, 1)]])
    with RtspServer(ClockMount("/clock", width=320, height=180, fps=15, key_interval=15)) as server:
        url = server.url("/clock")
        with Running({"still": camera(url, gate="motion", gate_heartbeat_s=1.0, region=code)}) as running:
            running.wait(lambda: running.status("still").dropped.get("gated", 0) > 30, "frames to be gated")
            seen = running.seen("still")
            status = running.status("still")
            moving = camera(url, gate="motion", gate_heartbeat_s=1.0)
            running.service.reload(running.service.settings.model_copy(update={"streams": {"still": moving}}))
            results = running.wait_for_results("still", 20)
    assert sum(one.result.gated for one in seen) >= 30
    inferred = [one.result for one in seen if not one.result.gated]
    assert len(inferred) == pytest.approx(status.results, abs=2)
    beats = [one.result.pts_s for one in seen if not one.result.gated and one.result.frame > 40]
    assert beats, "the heart beats"
    assert sum(one.result.gated for one in results[5:]) == 0
    assert all(one.true_age_ms is not None for one in results[5:])
