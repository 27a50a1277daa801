"""Titles of files and names of cameras in any encoding do not prevent reading."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.stream.test_stream_range import read
from tests.support import media
from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.live_reading import Reading

SAID = b"Session streamed with GStreamer"
"""The name that the server gives to each stream."""
LATIN_1, SHIFT_JIS = "Süd".encode("latin-1"), "南".encode("shift_jis")


@pytest.mark.parametrize("title", [LATIN_1, SHIFT_JIS, b"\xff\xfe\x00"])
@pytest.mark.parametrize("of", ["file", "track"])
def test_a_file_with_a_title_in_another_encoding(of: str, title: bytes, tmp_path: Path) -> None:
    path, place = tmp_path / "titled.mkv", "X" * len(title)
    with av.open(str(media.clip(media.H264))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        (target.metadata if of == "file" else stream.metadata)["title"] = f"Kamera {place}"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    assert data.count(f"Kamera {place}".encode()) == 1
    path.write_bytes(data.replace(f"Kamera {place}".encode(), b"Kamera " + title))
    assert len(read(path)[1]) == media.H264.frames


def test_a_camera_with_a_name_in_another_encoding() -> None:
    with RtspServer(ClockMount("/clock", 320, 180, 20, key_interval=5)) as server, FaultProxy(server.port) as network:
        network.rewrite(SAID, LATIN_1.ljust(len(SAID), b"\xa7"))
        with Reading(network.url("/clock")) as reading:
            reading.wait_for_frames(5)
            assert reading.got[-1].moment is not None
