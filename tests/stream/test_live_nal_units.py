"""Disposable frames are found from the bytes, and checked by decoding without them."""

from __future__ import annotations

from dataclasses import replace

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import media
from vision_infer.stream.live.nal_units import frames_to_recovery, is_disposable, is_intra_only, is_vp9_key

H264 = replace(media.B_FRAMES, suffix=".mp4", options=(*media.B_FRAMES.options, ("b-pyramid", "none")))
HEVC = replace(
    media.B_FRAMES,
    codec="libx265",
    options=(("preset", "ultrafast"), ("x265-params", "log-level=none:bframes=3:b-adapt=0:keyint=20")),
)


def packets(recipe: media.Clip) -> list[tuple[bytes, bool]]:
    """Return the bytes of each packet, and whether it is a key frame."""
    with av.open(str(media.clip(recipe))) as container:
        return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("recipe", "codec"), [(H264, "h264"), (HEVC, "hevc")])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_no_frame_references_a_disposable_frame(recipe: media.Clip, codec: str, suffix: str) -> None:
    """MP4 uses lengths, MPEG-TS start codes; the remaining frames decode to the same images."""
    path = media.clip(replace(recipe, suffix=suffix))
    whole = {frame.pts: bytes(frame.planes[0]) for frame in media.decoded(path)}
    left: dict[int | None, bytes] = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        dropped = 0
        for packet in container.demux(video=0):
            if packet.size and is_disposable(codec, memoryview(packet)):
                dropped += 1
                continue
            left.update({frame.pts: bytes(frame.planes[0]) for frame in packet.decode()})
    assert dropped >= len(whole) // 4
    assert len(left) == len(whole) - dropped
    assert all(whole[pts] == image for pts, image in left.items())


def test_a_key_frame_is_not_disposable() -> None:
    for recipe, codec in ((H264, "h264"), (HEVC, "hevc")):
        assert not any(is_disposable(codec, data) for data, key in packets(recipe) if key)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_key_frames_of_vp9_are_found(pix_fmt: str) -> None:
    recipe = media.Clip(suffix=".mkv", codec="libvpx-vp9", pix_fmt=pix_fmt, frames=30, options=(("cpu-used", "8"), ("g", "12")))
    found = packets(recipe)
    assert [is_vp9_key(data) for data, _ in found] == [key for _, key in found]
    assert any(key for _, key in found[1:])


def test_damaged_vp9_has_no_key_frames() -> None:
    assert not is_vp9_key(b"")
    assert not is_vp9_key(b"\x42")
    assert is_vp9_key(b"\xb0"), "profile 3"
    assert not is_vp9_key(b"\xb2"), "profile 3"


def test_intra_only_codecs() -> None:
    assert is_intra_only("mjpeg")
    assert is_disposable("mjpeg", b"")
    assert not is_intra_only("h264")


@pytest.mark.parametrize(("payload", "frames"), [(b"\x01\xa0", 0), (b"\x02\x0a\x60", 19), (b"\x03\x00\x40\x20", 512)])
def test_frames_until_a_recovery_point_of_h264_is_complete(payload: bytes, frames: int) -> None:
    """``payload`` is the size, and recovery_frame_cnt as ue(v)."""
    point = b"\0\0\0\1\x06\x05\x03abc\x06" + payload + b"\x80"  # behind another message
    assert frames_to_recovery(point + b"\0\0\1\x41\x9a\x00\x00") == frames
    assert frames_to_recovery(point + b"\0\0\1\x65\x88\x00\x00") == 0, "an IDR picture"


@given(st.binary(max_size=40))
def test_damaged_recovery_points_are_read(data: bytes) -> None:
    assert frames_to_recovery(b"\0\0\1\x06\x06" + data) >= 0
    assert frames_to_recovery(data) >= 0


@given(st.sampled_from(["h264", "hevc", "vp9", "mpeg4"]), st.binary(max_size=200))
def test_only_bytes_that_show_it_are_disposable(codec: str, data: bytes) -> None:
    assert is_disposable(codec, memoryview(data)) == is_disposable(codec, data)
    if codec in ("vp9", "mpeg4"):
        assert not is_disposable(codec, data)
    for key in {"h264": (b"\x65", b"\x45", b"\x25"), "hevc": (b"\x26\x01", b"\x28\x01")}.get(codec, ()):
        assert not is_disposable(codec, b"\0\0\0\1" + key + data), "a key frame comes first"
