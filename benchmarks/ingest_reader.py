"""Reads cameras as the service does, in a separate process, and prints one line of JSON.

    python -m benchmarks.ingest_reader age INGEST SECONDS URL         the age of each decoded frame: true, and as reported
    python -m benchmarks.ingest_reader decode INGEST SECONDS URL…     CPU time with decoding, and nothing else
    python -m benchmarks.ingest_reader read INGEST SECONDS URL…       CPU time without decoding
    python -m benchmarks.ingest_reader pictures INGEST COUNT URL      the pictures that arrive over UDP

INGEST is ``rtp`` or ``ffmpeg``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

from benchmarks.ingest_camera import slices_of
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, SoundPacket, VideoFormat
from vision_infer.core.time_code import MODULUS
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.image import VideoImage
from vision_infer.stream.live.live_packets import LivePackets
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.live.rtsp_stream import RtspStream
from vision_infer.stream.source import LiveOptions, SourceSpec
from vision_infer.stream.time_code_reader import read

Ingest = Literal["rtp", "ffmpeg"]
WARM_UP_S = 1.0
START_S = 30.0
"""The time limit until all cameras send."""


class PacketCounter:
    """Counts the packets of a source."""

    def __init__(self) -> None:
        self.packets = 0

    def opened(self, video: VideoFormat) -> None:
        """Do nothing."""

    def packet(self, packet: EncodedPacket) -> None:  # noqa: ARG002 - the interface of a tap
        """Count it."""
        self.packets += 1

    def frame(self, frame: Frame) -> None:
        """Do nothing."""

    def sound(self, packet: SoundPacket) -> None:
        """Do nothing."""

    def wants_sound(self) -> bool:
        """Return False."""
        return False

    def closed(self) -> None:
        """Do nothing."""


class Cost(NamedTuple):
    """The cost of reading."""

    cores: float
    """The CPU time of the process per second."""
    packets_per_s: float
    """The packets of all cameras per second; each is a picture."""


class ReadPictures(NamedTuple):
    """The pictures that were read over UDP."""

    pictures: list[tuple[str, bool]]
    """The digest of the slices of each picture, and whether it was reported as damaged."""
    lost: int | None
    """The packets that were reported as lost; None if the program reports none."""


def source_of(name: str, ingest: Ingest, url: str, transport: Literal["tcp", "udp"] = "tcp") -> SourceSpec:
    """Return a camera that is read in one of the two ways."""
    return SourceSpec(name, "live", (url,), live=LiveOptions(transport=transport, ingest=ingest))


def ages(ingest: Ingest, seconds: float, url: str) -> list[tuple[float, float]]:
    """Return the age of each frame once it is decoded, and the age that was reported, milliseconds.

    The drawn time has whole milliseconds, so the true age is up to one millisecond less.
    """
    found: list[tuple[float, float]] = []
    stopping = threading.Event()
    with LiveSource(source_of("clock", ingest, url), 1, stopping) as source:
        begin = end = 0
        for frame in source.frames():
            now = time.monotonic_ns()
            if not end:
                begin, end = now + int(WARM_UP_S * 1e9), now + int((WARM_UP_S + seconds) * 1e9)
            if now >= end:
                break
            image = cast("VideoImage", frame.image)
            moment = read(image.luma(image.size.width))
            if now >= begin and moment is not None:
                found.append(((now / 1e6 - moment) % MODULUS, (now - frame.trace.captured_ns) / 1e6))
    return found


def cost(ingest: Ingest, seconds: float, urls: list[str], decode: bool) -> Cost:
    """Return the CPU time of this process while it reads cameras, one thread each, with or without decoding.

    Raises:
        RuntimeError: Not all cameras send.
    """
    stopping = threading.Event()
    counters = [PacketCounter() for _ in urls]

    def work(number: int) -> None:
        with LiveSource(source_of(f"camera-{number}", ingest, urls[number]), 1, stopping) as source:
            source.show(counters[number])
            source.decoding = lambda: decode
            for _ in source.frames():
                pass

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + START_S
    while not all(counter.packets for counter in counters):
        if time.monotonic() > limit:
            raise RuntimeError(f"only {sum(counter.packets > 0 for counter in counters)} of {len(urls)} cameras send")
        time.sleep(0.1)
    time.sleep(WARM_UP_S)
    packets, cpu, began = sum(counter.packets for counter in counters), time.process_time(), time.monotonic()
    time.sleep(seconds)
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    packets = sum(counter.packets for counter in counters) - packets
    stopping.set()
    for thread in threads:
        thread.join()
    return Cost(cpu / took, packets / took)


def pictures(ingest: Ingest, count: int, url: str) -> ReadPictures:
    """Return a number of pictures that arrive over UDP."""
    spec, stopping = source_of("camera", ingest, url, "udp"), threading.Event()
    found: list[tuple[str, bool]] = []
    lost = 0 if ingest == "rtp" else None
    for data, damaged, missing in _by_rtp(spec, stopping) if ingest == "rtp" else _by_ffmpeg(spec, stopping):
        found.append((digest(data), damaged))
        if lost is not None:
            lost += missing
        if len(found) >= count:
            break
    return ReadPictures(found, lost)


def digest(picture: bytes) -> str:
    """Return a digest of the slices of a picture."""
    return hashlib.sha1(slices_of(picture), usedforsecurity=False).hexdigest()


def _by_rtp(spec: SourceSpec, stopping: threading.Event) -> Iterator[tuple[bytes, bool, int]]:
    with RtspStream(spec.paths[0], spec.live, stopping) as stream:
        for read_picture in stream.read():
            picture = read_picture.timed.picture
            yield picture.data, picture.damaged, picture.lost


def _by_ffmpeg(spec: SourceSpec, stopping: threading.Event) -> Iterator[tuple[bytes, bool, int]]:
    log = SourceLog(spec.name)
    packets = LivePackets(spec, stopping, SYSTEM_CLOCK, log)
    try:
        for packet, _ in packets.read():
            packets.made_progress()  # nothing is decoded
            yield bytes(packet), packet.is_corrupt, 0
    finally:
        packets.close()
        log.close()


def main() -> None:
    """Run one of the programs."""
    match sys.argv[1:]:
        case ["age", ("rtp" | "ffmpeg") as ingest, seconds, url]:
            print(json.dumps(ages(ingest, float(seconds), url)))
        case [("decode" | "read") as mode, ("rtp" | "ffmpeg") as ingest, seconds, *urls]:
            print(json.dumps(cost(ingest, float(seconds), urls, mode == "decode")))
        case ["pictures", ("rtp" | "ffmpeg") as ingest, count, url]:
            print(json.dumps(pictures(ingest, int(count), url)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
