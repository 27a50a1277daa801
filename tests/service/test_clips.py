"""Clips of events without a camera: their limits, and the state after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.service.fakes import frame, result
from tests.support.cameras import Encoded
from tests.support.hand_clock import HandClock
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.config.clips import ClipSettings, ClipStoreSettings
from vision_infer.config.serve import StreamSettings
from vision_infer.config.zones import ZoneSettings
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.core.result import Result
from vision_infer.core.scene_event import SceneEvent, with_id
from vision_infer.service.clips.clip_folder import MARKER, ClipFolder
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.clips.clip_tap import LATE_S
from vision_infer.service.clips.event_log import EventLog, EventRecord

SECOND = 1_000_000_000
FPS = 15
VIDEO = Encoded(width=320, height=180, fps=FPS, kbit_s=300, frames=60, key_interval=FPS)
LONG_S = 20.0


class Source:
    """A camera in memory that repeats the encoded video of a clip, with a clock that the test moves."""

    def __init__(self, clips: Clips, clock: HandClock, stream: str = "door") -> None:
        data = VIDEO.file().read_bytes()
        self.units, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            self.units.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        self.clips, self.clock, self.stream = clips, clock, stream
        self.tap = clips.tap(stream)
        self.number = 0
        self.tap.opened(VideoFormat("h264", b"", Size(320, 180)))

    def send(self, seconds: float, jump_ns: int = 0) -> None:
        for _ in range(round(seconds * FPS)):
            self.clock.move(1 / FPS)
            pts = self.number * SECOND // FPS + jump_ns
            data = memoryview(self.units[self.number % len(self.units)])
            self.tap.packet(EncodedPacket(data, pts, self.number % FPS == 0, self.clock.now, pts))
            self.number += 1

    def event(self, place: str = "yard", ago_s: float = 0.1) -> EventRecord:
        at_ns = self.clock.now - round(ago_s * SECOND)
        wall_ns = self.clock.wall_ns() - round(ago_s * SECOND)
        happened = with_id(SceneEvent("enter", place, 1, 0, "person"), self.stream, wall_ns)
        seen = result(self.stream, 1)
        assert seen.live is not None
        with_event: Result = replace(seen, events=(happened,), live=replace(seen.live, captured_wall_ns=wall_ns))
        shown = frame(self.stream, 1)
        shown.trace.captured_ns = at_ns
        self.clips.write(shown, with_event)
        record = self.clips.events.get(happened.id)
        assert record is not None
        return record

    def clip(self, pre_s: float = 1.0, post_s: float = 1.0) -> EventRecord:
        """Return an event with all fields of its clip."""
        self.clips.configure(self.stream, ClipSettings(pre_s=pre_s, post_s=post_s))
        self.send(pre_s + 1.1)
        record = self.event()
        self.send(post_s + 0.2)
        wait_until(lambda: record.state != "recording")
        return record


def make(folder: Path, clock: HandClock, **store: float) -> Clips:
    return Clips(ClipStoreSettings(**{"dir": folder, "keep_free_mb": 0.0, **store}), folder, clock)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARKER)


def test_only_selected_events_have_clips(tmp_path: Path) -> None:
    clock = HandClock()
    clips = make(tmp_path / "clips", clock)
    source = Source(clips, clock)
    source.send(3)
    assert source.event().state == "none"
    assert clips.counts().memory_bytes == 0, "nothing is kept where nothing is wanted"
    clips.configure("door", ClipSettings(events=("gate",), pre_s=1, post_s=1))
    assert source.event("gate", 0.2).state == "missing", "it was not kept yet"
    source.send(3)
    assert source.event("yard").state == "none"
    assert source.event("gate", 0.3).state == "recording"
    assert clips.counts().drops["missing"] == 1
    clips.close(True)


def test_the_buffer_is_limited_by_time_and_bytes(tmp_path: Path) -> None:
    clock = HandClock()
    clips = make(tmp_path / "clips", clock)
    source = Source(clips, clock)
    clips.configure("door", ClipSettings(pre_s=2, post_s=1))
    source.send(60)
    most = sum(len(unit) for unit in source.units) * (2 + LATE_S + 1.1) / 4
    assert 0 < clips.counts().memory_bytes <= 1.5 * most
    small = make(tmp_path / "clips", clock, buffer_mb=1.0)
    big = Source(small, clock)
    big.units = [bytes(unit) + bytes(300_000) for unit in big.units]
    small.configure("door", ClipSettings(pre_s=2, post_s=1))
    for _ in range(20):
        big.send(0.5)
        assert small.counts().memory_bytes <= 1_000_000
    assert small.counts().drops["too_large"] > 0
    clips.close(True)
    small.close(True)


def test_disk_usage_is_limited_and_the_oldest_clips_are_removed_first(tmp_path: Path) -> None:
    clock, folder = HandClock(), tmp_path / "clips"
    clips = make(folder, clock, max_mb=1.0)
    source = Source(clips, clock)
    source.units = [unit + b"\0\0\1\x0c" + b"\xff" * 12_000 for unit in source.units]  # fillers make it large
    records = [source.clip() for _ in range(5)]
    wait_until(lambda: len(files(folder)) == 2 * sum(one.state == "ready" for one in records))
    wait_until(lambda: clips.counts().clips["removed"] == sum(one.state == "removed" for one in records) > 0)
    counts = clips.counts()
    kept = [record for record in records if record.state == "ready"]
    assert [record.state for record in records] == ["removed"] * (5 - len(kept)) + ["ready"] * len(kept)
    assert 0 < len(kept) < 5
    assert counts.disk_bytes == sum(path.stat().st_size for path in folder.glob("*.mp4")) <= 1_000_000
    assert counts.clips == {"written": 5, "failed": 0, "removed": 5 - len(kept)}
    assert len(files(folder)) == 2 * len(kept)
    clips.close(True)
    clock.move(15 * 86_400)
    old = make(folder, clock)
    for path in folder.glob("*.mp4"):
        os.utime(path, (0, clock.wall_ns() / 1e9 - 20 * 86_400))
    old.close(True)
    again = make(folder, clock)
    wait_until(lambda: not files(folder))
    again.close(True)


def test_no_clip_is_written_to_a_disk_with_too_little_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    clips = make(tmp_path / "clips", clock, keep_free_mb=90_000_000.0)
    source = Source(clips, clock)
    records = [source.clip() for _ in range(3)]
    assert {record.state for record in records} == {"failed"}
    assert "clips.keep_free_mb requires" in records[0].reason
    assert files(tmp_path / "clips") == []
    assert clips.counts().clips == {"written": 0, "failed": 3, "removed": 0}
    assert len([one for one in caplog.records if "cannot be written" in one.message]) <= 3
    clips.close(True)


def test_a_folder_that_cannot_be_created_affects_clips_only(tmp_path: Path) -> None:
    clock = HandClock()
    (tmp_path / "file").write_text("in the way")
    clips = make(tmp_path / "file" / "clips", clock)
    record = Source(clips, clock).clip()
    assert record.state == "failed"
    assert str(tmp_path / "file") in record.reason
    clips.close(True)


def test_a_time_jump_and_changed_settings_end_a_clip(tmp_path: Path) -> None:
    clock = HandClock()
    clips = make(tmp_path / "clips", clock)
    source = Source(clips, clock)
    clips.configure("door", ClipSettings(pre_s=1, post_s=5))
    source.send(3)
    jumped = source.event()
    source.send(1, jump_ns=3600 * SECOND)
    wait_until(lambda: jumped.state == "ready")
    assert jumped.reason == "the camera's timestamps jumped"
    source.send(3, jump_ns=3600 * SECOND)
    changed = source.event()
    source.send(1, jump_ns=3600 * SECOND)
    clips.forget("door")
    wait_until(lambda: changed.state == "ready")
    assert "stopped" in changed.reason
    drops = clips.counts().drops
    assert (drops["time_jumped"], drops["stopped"]) == (1, 1)
    clips.close(True)


_KILLED = """
import os, signal, sys
from collections.abc import Callable
from pathlib import Path
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.sink.clip_file import ClipFile
data, folder = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
at, file = 0, None
for number in range(30):
    size = int.from_bytes(data[at : at + 4], "big")
    packet = EncodedPacket(memoryview(data[at + 4 : at + 4 + size]), number * 66_000_000, number % 15 == 0, 0)
    name = "20261124T180000.000Z-door-0123456789abcdef.mp4"
    file = file or ClipFile(folder / name, VideoFormat("h264", b"", Size(320, 180)), packet)
    file.add(packet)
    at += 4 + size
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_no_incomplete_clip(tmp_path: Path) -> None:
    clock, folder = HandClock(), tmp_path / "clips"
    before = make(folder, clock)
    record = Source(before, clock).clip()
    before.close(True)
    whole = files(folder)
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(VIDEO.file()), str(folder)], cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert ".20261124T180000.000Z-door-0123456789abcdef.mp4.partial" in files(folder)
    assert "20261124T180000.000Z-door-0123456789abcdef.mp4" not in files(folder)
    (folder / "20261124T190000.000Z-door-0123456789abcdef.json").write_text("{}")
    (folder / "strange.mp4").write_bytes(b"not ours, and no events beside it")
    clips = make(folder, clock)
    assert files(folder) == sorted([*whole, "strange.mp4"])
    assert [one.id for one in clips.events.last(None, 0, 1 << 63, 10)] == [record.id]
    clips.close(True)


FOREIGN = (
    "family-wedding.mp4",
    "package.json",
    ".download.partial",
    "20261124T180000Z-door-0123456789abcdef.mp4",
    ".20261124T180000.000Z-door-0123456789abcdef.mp4.partial~",
    "20261124T180000.000Z-door-0123456789abcdef.mp4",
)
"""The last one is a clip that was copied there, as to an archive."""


def test_files_of_others_survive_a_wrong_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in FOREIGN:
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (0, 0))
    clock = HandClock()
    clips = make(tmp_path, clock, max_mb=1.0)
    record = Source(clips, clock).clip()
    assert (record.state, files(tmp_path)) == ("failed", sorted(FOREIGN))
    assert "contains other files" in record.reason
    assert f"{tmp_path}: contains other files, so no clips are stored there. Set clips.dir to an empty folder." in caplog.text
    clips.close(True)


def test_a_folder_with_clips_only_becomes_a_clip_folder(tmp_path: Path) -> None:
    clip = tmp_path / FOREIGN[-1]
    for path in (clip, tmp_path / f".{clip.name}.partial"):
        path.touch()
    clock = HandClock()
    clips = make(tmp_path, clock)
    assert Source(clips, clock).clip().state == "ready"
    clips.close(True)
    assert (tmp_path / MARKER).exists()
    assert clip.exists()


def test_files_of_others_survive_in_a_folder_of_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = HandClock()
    (tmp_path / "lost+found").mkdir()
    first = make(tmp_path, clock)
    assert Source(first, clock).clip().state == "ready"
    first.close(True)
    (own,) = tmp_path.glob("*.mp4")
    for path in (own, *(tmp_path / name for name in FOREIGN[:-1])):
        path.touch()
        os.utime(path, (0, 0))
    again = make(tmp_path, clock)
    wait_until(lambda: not own.exists() and not own.with_suffix(".json").exists())
    again.close(True)
    assert files(tmp_path) == sorted(("lost+found", *FOREIGN[:-1]))
    assert f"removed because it was older than clips.keep_days: {own.name}" in caplog.text


def test_removed_clips_are_logged_in_one_bounded_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (tmp_path / MARKER).touch()
    names = [f".20261124T180000.000Z-a-{number:016x}.mp4.partial" for number in range(500)]
    for name in names:
        (tmp_path / name).touch()
    ClipFolder(tmp_path, 10**9, 1e4, 0).read()
    assert files(tmp_path) == []
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: removed because a killed process left it: {names[0]}, ")
    assert line.endswith(" and 490 more")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"events": [1]}', '{"events": [{"event": {}}], "reason": ""}', "\0"])
def test_a_damaged_sidecar_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).touch()
    (tmp_path / "20261124T180000.000Z-a-0123456789abcdef.mp4").write_bytes(b"clip")
    (tmp_path / "20261124T180000.000Z-a-0123456789abcdef.json").write_text(text)
    folder = ClipFolder(tmp_path, 10**9, 1e4, 0)
    assert folder.read() == []
    assert folder.count == 1


def test_the_event_log_is_bounded() -> None:
    log = EventLog(3)
    for number in range(5):
        log.add(EventRecord(f"{number:016x}", "a" if number % 2 else "b", number, {}))
    assert [record.at_wall_ns for record in log.last(None, 0, 10, 10)] == [2, 3, 4]
    assert [record.at_wall_ns for record in log.last("b", 0, 10, 1)] == [4]
    assert [record.at_wall_ns for record in log.last(None, 3, 4, 10)] == [3]
    assert log.get(f"{0:016x}") is None


def test_event_ids_are_unique_and_the_same_in_every_output() -> None:
    event = SceneEvent("enter", "yard", 1, 0, "person")
    names = {
        with_id(one, stream, moment).id
        for one in (event, replace(event, track_id=2), replace(event, place="gate"), replace(event, kind="leave"))
        for stream in ("a", "b")
        for moment in (0, 1)
    }
    assert len(names) == 16
    assert with_id(event, "a", 0).to_dict()["id"] == with_id(event, "a", 0).id
    assert "id" not in event.to_dict()


def test_clip_settings_with_an_unknown_zone_are_rejected() -> None:
    yard = ZoneSettings(polygon=((0, 0), (9, 0), (9, 9)))
    StreamSettings(detect="rtsp://10.0.0.5/x", zones={"yard": yard}, clips=ClipSettings(events=("yard",)))
    with pytest.raises(ValueError, match="no zone or line named gate"):
        StreamSettings(detect="rtsp://10.0.0.5/x", zones={"yard": yard}, clips=ClipSettings(events=("gate",)))
    with pytest.raises(ValueError, match="max_s"):
        ClipSettings(pre_s=30, post_s=40, max_s=60)
