"""JPEG images in RTP payloads (RFC 2435) become complete images."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from itertools import islice

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cameras import ClockMount, RtspServer
from tests.support.rtp_packets import rtp
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.live.rtp_packets import RtpPackets
from vision_infer.stream.rtsp.depacketize_jpeg import JpegDepacketizer
from vision_infer.stream.rtsp.picture import PictureAssembler
from vision_infer.stream.rtsp.rtp import parse_rtp
from vision_infer.stream.source import LiveOptions, SourceSpec

RESTARTS, SAMPLING_422 = 7, 0x211111


def encoded(quality: int, *options: int, seed: int = 0) -> bytes:
    """Return an image of 160×96 pixels with the tables of a quality of libjpeg, which are those of the standard."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    done, data = cv2.imencode(".jpg", cv2.resize(noise, (160, 96)), [cv2.IMWRITE_JPEG_QUALITY, quality, *options])
    assert done
    return data.tobytes()


def segments(jpeg: bytes) -> tuple[bytes, bytes]:
    """Return the quantization tables and the scan of an image."""
    at, tables = 2, b""
    while jpeg[at + 1] != 0xDA:
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == 0xDB:
            tables += b"".join(jpeg[place + 1 : place + 65] for place in range(at + 4, at + 2 + size, 65))
        at += 2 + size
    return tables, jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def fragments(
    jpeg: bytes, quality: int, kind: int = 1, tables: bytes | None = None, size: int = 500
) -> Iterator[tuple[bytes, bool]]:
    """Yield the payloads of an image and their marker bits."""
    scan = segments(jpeg)[1]
    for offset in range(0, len(scan), size):
        part = scan[offset : offset + size]
        head = b"\0" + offset.to_bytes(3, "big") + bytes((kind, quality, 160 // 8, 96 // 8))
        if kind & 64:
            head += struct.pack(">HH", RESTARTS, 0xFFFF)
        if not offset and tables is not None:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield head + part, offset + size >= len(scan)


def joined(payloads: list[tuple[bytes, bool]], assembler: PictureAssembler | None = None) -> list[bytes]:
    assembler = assembler or PictureAssembler(JpegDepacketizer())
    out = []
    for payload, marker in payloads:
        packet = parse_rtp(rtp(payload, 0, 9, marker, 26))
        assert packet is not None
        out += [picture.data for picture in assembler.push(packet, 0, 0) if picture.key and not picture.damaged]
    return out


def pixels(jpeg: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 99])
def test_the_tables_of_a_quality(quality: int) -> None:
    jpeg = encoded(quality)
    (image,) = joined(list(fragments(jpeg, quality)))
    assert segments(image)[0] == segments(jpeg)[0]
    assert np.array_equal(pixels(image), pixels(jpeg))
    assert image.endswith(b"\xff\xd9")


def test_tables_that_are_sent_with_the_first_image_or_with_each() -> None:
    assembler = PictureAssembler(JpegDepacketizer())
    first, second = encoded(90), encoded(90, seed=1)
    tables = segments(first)[0]
    found = joined([*fragments(first, 128, tables=tables), *fragments(second, 128, tables=b"")], assembler)
    assert [pixels(image).tolist() for image in found] == [pixels(first).tolist(), pixels(second).tolist()]
    assert len(joined(list(fragments(first, 255, tables=tables)), assembler)) == 1
    assert joined(list(fragments(first, 255, tables=b"")), assembler) == [], "these tables are for one image only"
    assert joined(list(fragments(first, 200, tables=b"")), assembler) == []


def test_restart_markers_and_the_other_subsampling() -> None:
    jpeg = encoded(60, cv2.IMWRITE_JPEG_RST_INTERVAL, RESTARTS, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING_422)
    (image,) = joined(list(fragments(jpeg, 60, kind=64)))
    assert np.array_equal(pixels(image), pixels(jpeg))


def test_an_image_of_which_a_fragment_is_missing_is_not_whole() -> None:
    parts = list(fragments(encoded(90), 90))
    assert len(parts) > 3
    for missing in range(len(parts) - 1):
        assert joined(parts[:missing] + parts[missing + 1 :]) == []
    assert joined(parts[1:] + parts) == joined(parts)


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans(), st.booleans()), max_size=40))
@settings(max_examples=100)
def test_any_payload_is_read_or_ignored(packets: list[tuple[bytes, bool, bool]]) -> None:
    depacketizer = JpegDepacketizer()
    head = b"\0\0\0\0\1\xff\x14\x0c\0\0\0\x40"
    for payload, valid, marker in packets:
        packet = parse_rtp(rtp(head + payload if valid else payload, 0, 9, marker, 26))
        assert packet is not None
        for _, piece in depacketizer.push(packet, 0):
            assert len(piece) < 1200
    assert len(depacketizer._tables) <= 128


def test_the_images_of_a_server_are_those_that_ffmpeg_reads() -> None:
    with RtspServer(ClockMount("/jpeg", 320, 192, 30, codec="jpeg")) as server:
        url, seen = server.url("/jpeg"), set[bytes]()

        def read() -> None:
            with av.open(url, options={"rtsp_transport": "tcp"}) as container:
                for frame in islice(container.decode(video=0), 30):
                    seen.add(frame.to_ndarray().tobytes())

        ffmpeg = threading.Thread(target=read)
        ffmpeg.start()
        packets = RtpPackets(SourceSpec("a", "live", (url,)), threading.Event(), SYSTEM_CLOCK, failed=pytest.fail)
        try:
            frames = [frame for packet, _ in islice(packets.read(), 30) for frame in packet.decode()]
        finally:
            packets.close()
        ffmpeg.join(20)
        assert len(frames) >= 29
        assert not any(frame.is_corrupt for frame in frames)
        assert len({frame.to_ndarray().tobytes() for frame in frames} & seen) >= 10
        with LiveSource(SourceSpec("a", "live", (url,), live=LiveOptions(ingest="rtp")), 1, threading.Event()) as source:
            began = time.monotonic()
            ages = [(time.monotonic_ns() - frame.trace.captured_ns) / 1e6 for frame in islice(source.frames(), 8)]
        assert source.info.codec == "mjpeg"
        assert min(ages) < 33, "less than a frame interval"
        assert time.monotonic() - began < 10
