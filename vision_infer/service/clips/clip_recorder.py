"""Recording of event clips: cut from the camera's packets without re-encoding the video, written by one thread."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.config.clips import ClipSettings, ClipStoreSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.packet import SoundPacket
from vision_infer.core.result import Result
from vision_infer.service.clips.clip_folder import ClipFolder, log_removed
from vision_infer.service.clips.clip_tap import CUT, JUMPED, ClipTap, OpenClip
from vision_infer.service.clips.event_log import EventLog, EventRecord
from vision_infer.sink.clip_file import ClipFile, TimeJumpError
from vision_infer.sink.clip_ring import TimedPacket
from vision_infer.sink.sink import Written

_LOOK_S = 0.25
"""The interval in which waiting packets are written, in seconds."""
_EXPIRE_S = 60.0
_CLOSE_S = 4.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_log = logging.getLogger("vision_infer.service")


@dataclass(frozen=True, slots=True)
class ClipCounts:
    """The counters of clips."""

    clips: Mapping[str, int]
    """The number of clips since the start by outcome: ``written``, ``failed``, ``removed``."""
    drops: Mapping[str, int]
    """The number of lost events and video by reason. ``missing``: events whose video was no longer in memory; ``too_large``:
    groups of pictures larger than the buffer; others: clips that ended early."""
    disk_bytes: int
    memory_bytes: int


class Clips:
    """A sink that records clips of the events in results. It provides a tap for the packets of each stream.

    Args:
        settings: The settings of the clip folder.
        folder: The folder of clips if the settings have none.
        clock: The monotonic and wall clock.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, settings: ClipStoreSettings, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.events = EventLog()
        self.folder = ClipFolder(
            settings.dir or folder, round(settings.max_mb * 1e6), settings.keep_days, round(settings.keep_free_mb * 1e6)
        )
        self._buffer_bytes = round(settings.buffer_mb * 1e6)
        self._clock = clock
        # Guards _taps, _open and _stopping, and wakes the writer thread. Streams, the results thread and the API hold it for a
        # few operations; a tap's lock may be held while it is acquired, but never the other way round.
        self._changed = threading.Condition()
        self._taps: dict[str, ClipTap] = {}
        self._open: list[tuple[ClipTap, OpenClip]] = []
        self._files: dict[int, ClipFile] = {}
        """The open files by the identity of the clip; only the writer thread uses it."""
        self._counts = {"written": 0, "failed": 0, "removed": 0}
        self._missed = 0
        self._cut = dict.fromkeys(CUT, 0)
        self._last_error = ""
        self._stopping = False
        for record in self.folder.read():
            self.events.add(record)
        self._thread: threading.Thread | None = None
        """The writer thread; started with the first clip."""
        if self.folder.count:
            self._start()

    def tap(self, stream: str) -> ClipTap:
        """Return the tap that receives the packets of a stream."""
        with self._changed:
            tap = self._taps.get(stream)
            if tap is None:
                tap = self._taps[stream] = ClipTap(stream, self._buffer_bytes, self._opened, self._clock)
            return tap

    def configure(self, stream: str, settings: ClipSettings | None) -> None:
        """Set the clip settings of a stream; None disables clips."""
        self.tap(stream).configure(settings)

    def forget(self, stream: str) -> None:
        """Remove a stream; its clips remain."""
        with self._changed:
            tap = self._taps.pop(stream, None)
        if tap is not None:
            tap.configure(None)

    def counts(self) -> ClipCounts:
        """Return the counters of clips."""
        with self._changed:
            taps = list(self._taps.values())
        return ClipCounts(
            dict(self._counts),
            {"missing": self._missed, "too_large": sum(tap.too_large for tap in taps), **self._cut},
            self.folder.bytes,
            sum(tap.bytes for tap in taps),
        )

    # Sink

    def write(self, frame: Frame, result: Result | None) -> None:
        """Record the events of a result; called on the results thread."""
        if result is None or not result.events:
            return
        live = result.live
        for event in result.events:
            at_wall_ns = self._clock.wall_ns() if live is None else live.captured_wall_ns
            record = EventRecord(event.id, result.stream, at_wall_ns, event.to_dict())
            self.events.add(record)
            tap = self._taps.get(result.stream)
            if tap is not None and live is not None:
                tap.add_event(record, frame.trace.captured_ns)
                self._missed += record.state == "missing"

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Finish open clips; further calls do nothing."""
        with self._changed:
            taps = list(self._taps.values())
        for tap in taps:
            tap.configure(None)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # Internals

    def _opened(self, tap: ClipTap, clip: OpenClip) -> None:
        with self._changed:
            self._open.append((tap, clip))
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        expired = self._clock.monotonic_ns()
        self._expire()
        while True:
            with self._changed:
                if not self._open and self._stopping:
                    return
                self._changed.wait(_LOOK_S if self._open else _EXPIRE_S)
                open_now = list(self._open)
            for tap, clip in open_now:
                try:
                    done = self._work(tap, clip)
                except Exception as error:  # noqa: BLE001 - an error of one clip must not affect the others
                    done = True
                    failure = f"unexpected {type(error).__name__}: {error}"
                    self._failed(tap, clip, OutputError(f"{tap.stream}: {failure}", "Please report this."))
                if done:
                    with self._changed:
                        self._open.remove((tap, clip))
            now = self._clock.monotonic_ns()
            if now - expired >= _EXPIRE_S * 1e9:
                expired = now
                self._expire()

    def _work(self, tap: ClipTap, clip: OpenClip) -> bool:
        """Write the waiting packets of a clip; return whether the clip is complete."""
        with tap.lock:
            packets, ended = clip.take(), clip.ended
        try:
            for timed in packets:
                self._add(clip, timed)
            if ended is None:
                return False
            self._finish(tap, clip, ended)
        except TimeJumpError:
            with tap.lock:
                tap.detach(clip, JUMPED)
            self._finish(tap, clip, JUMPED)
        except OutputError as error:
            self._failed(tap, clip, error)
        return True

    def _add(self, clip: OpenClip, timed: TimedPacket) -> None:
        file = self._files.get(id(clip))
        if isinstance(timed.packet, SoundPacket):
            if file is not None:
                file.add_sound(timed.packet)
            return
        if file is None:
            self.folder.check_space()
            file = self._files[id(clip)] = ClipFile(self._path(clip), clip.video, timed.packet)
        file.add(timed.packet)
        clip.last_ns = timed.at_ns

    def _path(self, clip: OpenClip) -> Path:
        wall_ns = self._wall_ns(clip.begun_ns)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(wall_ns // 10**9)) + f".{wall_ns // 10**6 % 1000:03d}Z"
        return self.folder.folder / f"{stamp}-{_UNSAFE.sub('_', clip.stream)}-{clip.records[0].id}.mp4"

    def _finish(self, tap: ClipTap, clip: OpenClip, why: str) -> None:
        file = self._files.pop(id(clip), None)
        with tap.lock:
            records = list(clip.records)
        if file is None:
            for record in records:
                record.state, record.reason = "missing", "the video of that time was no longer in memory"
            self._missed += len(records)
            return
        from_wall_ns, seconds = self._wall_ns(clip.begun_ns), (clip.last_ns - clip.begun_ns) / 1e9
        try:
            about = {"from_ns": from_wall_ns, "seconds": round(seconds, 3), "reason": CUT.get(why, "")}
            self.folder.write_sidecar(file.path, records, about)
        except OutputError:
            file.discard()
            raise
        try:
            size = file.finish()
        except OutputError:
            self.folder.remove_sidecar(file.path)
            raise
        for record in records:
            record.clip, record.from_wall_ns, record.seconds, record.bytes = file.path, from_wall_ns, seconds, size
            record.reason, record.state = CUT.get(why, ""), "ready"
        self._counts["written"] += 1
        if why in CUT:
            self._cut[why] += 1
        self._last_error = ""
        self._gone(
            self.folder.add(file.path, size, self._clock.wall_ns() / 1e9), "removed to make space for newer clips (clips.max_mb)"
        )

    def _failed(self, tap: ClipTap, clip: OpenClip, error: OutputError) -> None:
        file = self._files.pop(id(clip), None)
        if file is not None:
            file.discard()
        with tap.lock:
            tap.detach(clip, str(error))
            clip.take()
            records = list(clip.records)
        for record in records:
            record.state, record.reason = "failed", str(error)
        self._counts["failed"] += 1
        if str(error) != self._last_error:  # log a full disk only once, until a clip is written again
            self._last_error = str(error)
            _log.error("%s: cannot write a clip: %s", clip.stream, error)

    def _expire(self) -> None:
        self._gone(self.folder.expire(self._clock.wall_ns() / 1e9), "removed because it was older than clips.keep_days")

    def _gone(self, clips: list[Path], why: str) -> None:
        log_removed(clips, why)
        for clip in clips:
            self._counts["removed"] += 1
            self.events.removed(clip, why)

    def _wall_ns(self, at_ns: int) -> int:
        return self._clock.wall_ns() - self._clock.monotonic_ns() + at_ns
