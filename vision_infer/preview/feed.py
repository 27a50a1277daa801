"""Pictures on their way from a stream's thread to its viewers, on the event loop: made ready for RTP once, for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from vision_infer.core.clock import Clock
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview import h264
from vision_infer.preview.datagrams import bursts
from vision_infer.preview.media import By, MediaImage
from vision_infer.preview.relay import GROUP_MOST_BYTES, GROUP_MOST_PACKETS, Opened, Relay

_MAX_WAITING = 256
"""packets that wait for the event loop; where there are more, it goes on with the next key frame"""


class Audience(Protocol):
    """One viewer, as a feed sees it."""

    def push(self, image: MediaImage) -> None:
        """The next picture."""
        ...

    def restart(self, group: list[MediaImage]) -> None:
        """The current group, from its key frame to now: what still waits is not needed any more."""
        ...


class Feed:
    """One coded video and those who watch it. It belongs to the event loop.

    Args:
        codec: ``H264`` or ``VP8``.
        by: what result rows are matched by.
    """

    def __init__(self, codec: str, by: By) -> None:
        self.codec = codec
        self.by = by
        self.viewers: list[Audience] = []
        self.group: list[MediaImage] = []
        self.group_too_long = False
        self.behind = 0
        """pictures that were left out because the event loop was too slow for them"""
        self._group_bytes = 0
        self._begun = False

    @property
    def size(self) -> Size | None:
        """Of its pictures; None where it is not known yet."""
        return None

    def join(self, viewer: Audience) -> None:
        """Show it to one more; who comes first lets it begin."""
        self.viewers.append(viewer)
        if len(self.viewers) == 1:
            self.start()
        elif self.group:
            viewer.restart(self.group)

    def leave(self, viewer: Audience) -> None:
        """Show it to one less; it ends with the last."""
        if viewer in self.viewers:
            self.viewers.remove(viewer)
            if not self.viewers:
                self.stop()
                self.begin_anew()

    def start(self) -> None:
        """Somebody watches."""

    def stop(self) -> None:
        """Nobody watches any more."""

    def accept(self, image: MediaImage) -> None:
        """The next picture of the video; until the first key frame, it is of no use."""
        if self.keep(image):
            for viewer in self.viewers:
                viewer.push(image)

    def keep(self, image: MediaImage) -> bool:
        """Put it into the current group; returns whether a decoder could have begun there, or before."""
        if image.key:
            self.forget()
            self._begun = True
        if image.key or self.group:
            self.group.append(image)
            self._group_bytes += image.size
            if self._group_bytes > GROUP_MOST_BYTES or len(self.group) > GROUP_MOST_PACKETS:
                self.forget()
                self.group_too_long = True
        return self._begun

    def begin_anew(self) -> None:
        """What comes next does not follow what was: wait for a key frame."""
        self.forget()
        self._begun = False

    def forget(self) -> None:
        """No group is kept, until the next key frame."""
        self.group = []
        self._group_bytes = 0
        self.group_too_long = False


class H264Pictures:
    """Makes pictures for RTP of a stream's packets: parameter sets stand before each key frame."""

    def __init__(self, video: VideoFormat) -> None:
        self._length_size, units = h264.parameter_sets(video.extradata)
        self._sets: dict[int, list[bytes]] = {}
        self.facts: h264.SpsFacts | None = None
        """of the pictures now; None where nothing told yet, or it was damaged"""
        self._note(units)

    def units(self, packet: EncodedPacket) -> list[bytes]:
        """The NAL units of a packet, complete."""
        units = list(h264.units(bytes(packet.data), self._length_size))
        kinds = {unit[0] & 31 for unit in units}
        if kinds & {h264.SPS, h264.PPS}:
            self._note(units)
        if packet.key and h264.SPS not in kinds:
            units[:0] = [*self._sets.get(h264.SPS, ()), *self._sets.get(h264.PPS, ())]
        return units

    def _note(self, units: list[bytes]) -> None:
        for kind in (h264.SPS, h264.PPS):
            found = [unit for unit in units if unit[0] & 31 == kind]
            if found and found != self._sets.get(kind):
                self._sets[kind] = found
                if kind == h264.SPS:
                    try:
                        self.facts = h264.sps_facts(found[0])
                    except ValueError:
                        self.facts = None


class PassthroughFeed(Feed):
    """A stream's own H.264, as it comes.

    Args:
        relay: of the stream.
        by: what result rows are matched by.
        check: says why pictures with these facts cannot be played as they are; empty: they can.
        give_up: called when they cannot any more, with the reason; once.
        clock: monotonic.
    """

    def __init__(
        self,
        relay: Relay,
        by: By,
        check: Callable[[Relay, VideoFormat, h264.SpsFacts | None], str],
        give_up: Callable[[PassthroughFeed, str], None],
        clock: Clock,
    ) -> None:
        super().__init__("H264", by)
        self._relay = relay
        self._check = check
        self._give_up = give_up
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Opened | EncodedPacket] = deque()
        self._awaited = False
        self._lost = False
        self._video: VideoFormat | None = None
        self._pictures: H264Pictures | None = None
        self._checked: tuple[h264.SpsFacts | None, bool] | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """It has given up."""
        return self._over

    @property
    def size(self) -> Size | None:
        """Of its pictures; None where it is not known yet."""
        facts = None if self._pictures is None else self._pictures.facts
        return None if facts is None else facts.size

    def start(self) -> None:
        """Watch the stream; the current group goes to the first viewer."""
        video = self._relay.video
        if video is not None:
            self._open(video)
        for packet in self._relay.watch_packets(self._from_stream):
            image = self._image(packet)
            if image is not None:
                self.keep(image)
        if self.group:
            for viewer in self.viewers:
                viewer.restart(self.group)

    def stop(self) -> None:
        """Watch it no longer."""
        self._relay.forget(self._from_stream)
        self._waiting.clear()

    def _from_stream(self, event: Opened | EncodedPacket) -> None:
        """On the stream's thread."""
        if len(self._waiting) >= _MAX_WAITING:
            opened = [one for one in self._waiting if isinstance(one, Opened)]
            self._waiting = deque(opened[-1:])
            self._lost = True
        self._waiting.append(event)
        if not self._awaited:
            self._awaited = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop has ended
                self._relay.forget(self._from_stream)

    def _drain(self) -> None:
        self._awaited = False
        waiting = self._waiting  # the stream's thread may put another in its place
        while waiting and not self._over:
            event = waiting.popleft()
            if isinstance(event, Opened):
                self._open(event.video)
            else:
                image = self._image(event)
                if image is not None:
                    self.accept(image)

    def _open(self, video: VideoFormat) -> None:
        self.begin_anew()
        self._video = video
        self._pictures = H264Pictures(video) if video.codec == "h264" else None
        self._checked = None
        if self._pictures is None:
            self._end(self._check(self._relay, video, None))

    def _image(self, packet: EncodedPacket) -> MediaImage | None:
        """A packet ready for RTP; None where it is not to be sent."""
        pictures, video = self._pictures, self._video
        if pictures is None or video is None:
            return None
        if self._lost:
            if not packet.key:
                self.behind += 1
                return None
            self._lost = False
        units = pictures.units(packet)
        state = (pictures.facts, self._relay.reordered)
        if state != self._checked:
            self._checked = state
            reason = self._check(self._relay, video, pictures.facts)
            if reason:
                self._end(reason)
                return None
        payloads = h264.payloads(units)
        if not payloads:
            return None
        pts, by = packet.pts_ns, self.by
        if pts is None:
            pts, by = packet.captured_ns, "captured"
            if pts is None:
                pts = self._clock.monotonic_ns()
        return MediaImage(bursts(payloads), pts, packet.captured_ns, packet.key, by, sum(map(len, payloads)))

    def _end(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._relay.forget(self._from_stream)
            self._loop.call_soon(self._give_up, self, reason)
