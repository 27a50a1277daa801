"""Clips of events, cut from the video of real cameras without re-encoding."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.fakes import SIDE, EchoEngine
from tests.service.fakes import OPEN, Api
from tests.support.cameras import ClockMount, Codec, RtspServer
from tests.support.disks import small_disk
from tests.support.live_service import Running, camera
from tests.support.tones import sound_of
from vision_infer.config.clips import ClipSettings, ClipStoreSettings
from vision_infer.config.zones import ZoneSettings
from vision_infer.core import time_code
from vision_infer.core.card import parse_card
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, Taps, VideoFormat
from vision_infer.service.clips.clip_folder import MARKER
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.service.http.app import make_app
from vision_infer.service.streams import lanes
from vision_infer.sink.clip_ring import _units as units_of
from vision_infer.stream.find import open_source
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.stream.time_code_reader import read

FPS = 15
DOOR = ZoneSettings(units="relative", polygon=((0.5, 0), (1, 0), (1, 1), (0.5, 1)), min_s=0)
OUTSIDE, INSIDE = (20, 60, 90, 200), (150, 60, 220, 200)


class Puppet(EchoEngine):
    """An engine that detects one person at the position that the test sets."""

    def __init__(self) -> None:
        super().__init__(2, (1,), outputs=self._place)
        self.card = parse_card(
            {"name": "puppet", "input": {"width": SIDE, "height": SIDE}, "fit": "stretch", "iou": None, "labels": ["person"]},
            "puppet",
        )
        self.box = OUTSIDE

    def _place(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {**outputs, "boxes": np.full_like(outputs["boxes"], 0) + np.array(self.box, np.float32)}


class Recorder:
    """A second tap, next to that of the service, that records the packets."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def opened(self, video: VideoFormat) -> None:
        del video

    def packet(self, packet: EncodedPacket) -> None:
        self.packets.append(bytes(packet.data))

    def frame(self, frame: object) -> None:
        pass

    def sound(self, packet: object) -> None:
        pass

    def wants_sound(self) -> bool:
        return False

    def closed(self) -> None:
        pass


class Scene:
    """A service with one camera, and the person that its engine detects."""

    def __init__(self, running: Running, puppet: Puppet, recorder: Recorder) -> None:
        self.running = running
        self.puppet = puppet
        self.recorder = recorder
        self.clips = running.service.clips

    def events(self) -> list[EventRecord]:
        return self.clips.events.last(None, 0, 1 << 63, 1000)

    def run_for(self, seconds: float) -> None:
        """Wait for the results of a number of seconds of video."""
        count = len(self.running.seen("door"))
        self.running.wait(lambda: len(self.running.seen("door")) >= count + round(seconds * FPS), "results")

    def walk(self, inside: bool = True) -> EventRecord:
        """Move the person through the door; return the event when it is reported."""
        before = len(self.events())
        x1, y1, x2, y2 = OUTSIDE if inside else INSIDE
        for step in range(0, 131, 26):
            shift = step if inside else -step
            self.puppet.box = (x1 + shift, y1, x2 + shift, y2)
            self.run_for(1 / FPS)
        self.running.wait(lambda: len(self.events()) > before, "an event")
        return self.events()[-1]

    def ready(self, record: EventRecord) -> EventRecord:
        self.running.wait(lambda: record.state not in ("recording", "none"), f"a clip, the event is {record}")
        return record


@contextmanager
def scene(
    monkeypatch: pytest.MonkeyPatch, server: RtspServer, folder: Path, clips: ClipSettings, **store: Any
) -> Iterator[Scene]:
    puppet, recorder = Puppet(), Recorder()
    monkeypatch.setattr(lanes, "resolve_model", lambda model, folder: Path(model))
    monkeypatch.setattr(lanes, "model_inputs", lambda model, folder: {Size(SIDE, SIDE): Path(model)})
    monkeypatch.setattr(lanes, "open_quickly", lambda *given: (puppet, None))

    def open_both(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Source:
        source: Any = open_source(spec, decode_threads, stopping)
        show = source.show
        source.show = lambda tap: show(Taps(tap, recorder))
        return source  # type: ignore[no-any-return]

    door = camera(server.url("/clock"), zones={"door": DOOR}, clips=clips)
    settings = ClipStoreSettings(**{"dir": folder, "keep_free_mb": 0, **store})
    with Running({"door": door}, open_both, model="puppet", clips=settings) as running:
        running.wait_for_results("door", 2 * FPS)
        yield Scene(running, puppet, recorder)


def moments(clip: Path) -> list[int]:
    """Return the time codes in the frames of a clip, milliseconds."""
    found = []
    with av.open(str(clip)) as container:
        for image in container.decode(video=0):
            moment = read(np.asarray(image.to_ndarray(format="rgb24"), np.uint8))
            assert moment is not None
            found.append(moment)
    return found


def coded(clip: Path) -> list[list[bytes]]:
    with av.open(str(clip)) as container:
        return [list(units_of(bytes(packet), 4)) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("codec", ["h264", pytest.param("h265", marks=pytest.mark.slow)])
def test_a_clip_contains_the_unmodified_packets_around_the_event(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codec: Codec
) -> None:
    mount = ClockMount("/clock", width=320, height=180, fps=FPS, key_interval=FPS, codec=codec, sound="aac", tone_hz=700)
    with RtspServer(mount) as server, scene(monkeypatch, server, tmp_path / "clips", ClipSettings(pre_s=1.5, post_s=1)) as door:
        door.run_for(2)
        record = door.walk()
        at_ns = record.at_wall_ns - time.time_ns() + time.monotonic_ns()
        states = [record.state]
        door.ready(record)
        with_events = [row.result for row in door.running.seen("door") if row.result.events]
        packets = [list(units_of(packet, 0)) for packet in door.recorder.packets]
        api = Api(app=make_app(door.running.service, OPEN))
        url = f"/api/v1/events/{record.id}/clip.mp4"
        whole = api.get(url)
        part = api.get(url, headers={"Range": "bytes=100-299"})
        listed = api.get("/api/v1/events?type=scene&stream=door").json()
    assert [*states, record.state] == ["recording", "ready"], record
    assert record.reason == ""
    assert record.clip is not None
    assert [event.id for result in with_events for event in result.events] == [record.id]
    event_ms = at_ns // 1_000_000
    ages = [time_code.since_ms(moment, event_ms * 1_000_000) for moment in moments(record.clip)]
    before, after = max(ages), min(ages if min(ages) < 0 else [age - time_code.MODULUS if age > 1 << 23 else age for age in ages])
    assert before >= 1400, "the clip starts with the previous key frame"
    assert before <= 1500 + 1000 * (1 + 4 / FPS)
    assert -1100 - 4000 / FPS <= after <= -800
    inside = coded(record.clip)
    first = packets.index(inside[0])
    assert inside == packets[first : first + len(inside)], "all packets are unmodified"
    begins_s, ends_s, heard_hz = sound_of(record.clip)
    assert begins_s < 0.1
    assert ends_s == pytest.approx(len(inside) / FPS, abs=0.2)
    assert heard_hz == pytest.approx(700, abs=10)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.content == record.clip.read_bytes()
    assert (part.status_code, part.content) == (206, whole.content[100:300])
    assert [(event["id"], event["kind"], event["place"], event["clip"]["state"]) for event in listed] == [
        (record.id, "enter", "door", "ready")
    ]
    assert listed[0]["clip"]["url"] == f"/api/v1/events/{record.id}/clip.mp4"
    assert whole.content[4:8] == b"ftyp"
    assert whole.content.index(b"moov") < whole.content.index(b"mdat"), "a player can start before the file is complete"


@pytest.mark.slow
def test_events_share_a_clip_up_to_its_maximum_length_and_are_found_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mount = ClockMount("/clock", width=320, height=180, fps=FPS, key_interval=FPS)
    wanted = ClipSettings(pre_s=0.5, post_s=1, max_s=2.5)
    with RtspServer(mount) as server:
        with scene(monkeypatch, server, tmp_path / "clips", wanted) as door:
            records = [door.walk(inside=number % 2 == 0) for number in range(2)]
            door.ready(records[-1])
            longer = [door.walk(inside=number % 2 == 0) for number in range(11)]
            for record in (*records, *longer):
                door.ready(record)
        assert len({record.clip for record in records}) == 1
        assert len({record.clip for record in longer}) > 1, "a clip is not longer than max_s"
        lengths = {record.clip: record.seconds for record in longer}
        assert all(seconds is not None and seconds <= 2.5 + 1 + 2 / FPS for seconds in lengths.values())
        names = sorted(path.name for path in (tmp_path / "clips").iterdir())
        assert not [name for name in names if name.endswith(".partial")]
        with scene(monkeypatch, server, tmp_path / "clips", wanted) as door:
            again = {record.id: record for record in door.events()}
    for record in (*records, *longer):
        assert again[record.id].state == "ready"
        assert again[record.id].clip == record.clip
        assert again[record.id].event == json.loads(json.dumps(record.event))


@pytest.mark.slow  # 5 s
def test_a_change_of_the_frame_size_and_a_lost_connection_end_a_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mount = ClockMount("/clock", width=320, height=180, fps=FPS, key_interval=FPS, next_size=(480, 270), frames_per_size=4 * FPS)
    with (
        RtspServer(mount) as server,
        scene(monkeypatch, server, tmp_path / "clips", ClipSettings(pre_s=0.5, post_s=10)) as door,
    ):
        first = door.ready(door.walk())
        second = door.walk(inside=False)
        door.run_for(0.5)
        server.kill()
        door.ready(second)
        counts = door.clips.counts()
    assert (first.state, first.reason) == ("ready", "the camera changed the frame size or the codec parameters")
    assert second.state == "ready"
    assert counts.drops["picture_changed"] >= 1
    assert counts.drops["picture_changed"] + counts.drops["connection_ended"] == 2
    for record in (first, second):
        assert record.clip is not None
        with av.open(str(record.clip)) as container:
            sizes = {(image.width, image.height) for image in container.decode(video=0)}
        assert len(sizes) == 1


def test_a_full_disk_loses_clips_only_and_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mount = ClockMount("/clock", width=320, height=180, fps=FPS, key_interval=FPS)
    with (
        small_disk(200_000) as disk,
        RtspServer(mount) as server,
        scene(monkeypatch, server, disk / "clips", ClipSettings(pre_s=0.5, post_s=0.5)) as door,
    ):
        full = disk / "full"
        full.write_bytes(bytes(190_000))
        lost = door.ready(door.walk())
        remaining = sorted(path.name for path in (disk / "clips").iterdir() if path.name != MARKER)
        full.unlink()
        kept = door.ready(door.walk(inside=False))
        status = door.running.status("door")
        answer = Api(app=make_app(door.running.service, OPEN)).get(f"/api/v1/events/{lost.id}/clip.mp4")
    assert lost.state == "failed"
    assert "No space left" in lost.reason, lost
    assert remaining == []
    assert kept.state == "ready"
    assert status.state.value == "live"
    assert answer.status_code == 404
    assert "could not be written" in answer.json()["detail"]
    assert sum("cannot write a clip" in record.message for record in caplog.records) == 1
