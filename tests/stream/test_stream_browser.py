"""The one function for what browsers play unmodified."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vision_infer.core.geometry import Size
from vision_infer.stream.browser import EVERY, VideoFacts, passthrough

FULL_HD = Size(1920, 1080)
H264 = VideoFacts("h264", "High", 40, size=FULL_HD)
H265 = VideoFacts("hevc", "Main", 123, size=FULL_HD)


@pytest.mark.parametrize(
    ("facts", "players"),
    [
        (H264, EVERY),
        (replace(H264, profile=""), EVERY),
        (replace(H264, chroma="4:0:0"), EVERY),
        (VideoFacts("vp8", size=FULL_HD), EVERY),
        (H265, "browsers that play H.265 Main; others get encoded video"),
        (replace(H265, profile="Main 10", bits=10), "browsers that play H.265 Main 10; others get encoded video"),
        (VideoFacts("vp9", "Profile 0", size=FULL_HD), "browsers that play VP9 Profile 0; others get encoded video"),
        (VideoFacts("vp9", "Profile 2", bits=10), "browsers that play VP9 Profile 2; others get encoded video"),
        (VideoFacts("av1", "Main"), "browsers that play AV1 Main; others get encoded video"),
    ],
)
def test_players_that_get_video_unmodified(facts: VideoFacts, players: str) -> None:
    found = passthrough(facts, False, 2160)
    assert (found.players, found.problem) == (players, "")


@pytest.mark.parametrize(
    ("facts", "b_frames", "problem"),
    [
        (H264, True, "the stream has B-frames, which WebRTC cannot carry"),
        (H265, True, "the stream has B-frames, which WebRTC cannot carry"),
        (replace(H264, interlaced=True), False, "the stream is interlaced"),
        (replace(H264, profile="High 10", bits=10), False, "browsers do not play H.264 High 10"),
        (replace(H264, profile="", bits=10), False, "browsers do not play H.264 with 10 bits and 4:2:0 chroma"),
        (replace(H265, profile="Rext", chroma="4:2:2"), False, "browsers do not play H.265 Rext"),
        (VideoFacts("vp9", "Profile 2", bits=12), False, "browsers do not play VP9 with 12 bits and 4:2:0 chroma"),
        (VideoFacts("av1", "Main", bits=10), False, "browsers do not play AV1 with 10 bits and 4:2:0 chroma"),
        (VideoFacts("av1", "Professional", bits=12), False, "browsers do not play AV1 Professional"),
        (replace(H265, size=Size(4096, 2176)), False, "its height of 2176 pixels exceeds preview.max_height"),
        (VideoFacts("mjpeg"), False, "the stream is MJPEG, which browsers do not play over WebRTC"),
        (VideoFacts("msmpeg4v2"), False, "the stream is msmpeg4v2, which browsers do not play over WebRTC"),
    ],
)
def test_reasons_for_encoding(facts: VideoFacts, b_frames: bool, problem: str) -> None:
    found = passthrough(facts, b_frames, 2160)
    assert (found.players, found.problem) == ("", problem)


def test_frames_that_vp9_and_av1_show_in_another_order_stay_in_their_packets() -> None:
    assert passthrough(VideoFacts("vp9", "Profile 0"), True, 2160).players
    assert passthrough(VideoFacts("av1", "Main"), True, 2160).players


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (H264, "H.264 High level 4.0"),
        (H265, "H.265 Main level 4.1"),
        (VideoFacts("av1", "Main", 8), "AV1 Main level 4.0"),
        (VideoFacts("vp8"), "VP8"),
    ],
)
def test_facts_as_text(facts: VideoFacts, text: str) -> None:
    assert str(facts) == text
