"""Offers of browsers: which codec plays a stream, by profile and level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.core.geometry import Size
from vision_infer.preview.codecs.matching import Codec, answer_parameters, matching
from vision_infer.preview.offer import Offer, finish_answer, read_offer
from vision_infer.stream.browser import VideoFacts

# The H.265 lines of Chrome 144 on macOS: https://github.com/algesten/str0m/issues/860; the other lines as Chromium offers them.
CHROME = "chrome_h265_offer.sdp"
# Safari offers H.265 without parameters: https://github.com/awslabs/amazon-kinesis-video-streams-webrtc-sdk-c/pull/1965
SAFARI = "safari_h265_offer.sdp"
CHROMIUM = "chromium_offer.sdp"
MAIN = VideoFacts("hevc", "Main", 123, size=Size(1920, 1080))


def offer(name: str) -> Offer:
    return read_offer((Path(__file__).parent / name).read_text())


@pytest.mark.parametrize(
    ("browser", "facts", "payload_type"),
    [
        (CHROME, MAIN, 49),
        (CHROME, replace(MAIN, profile="Main 10", bits=10), 51),
        (CHROME, replace(MAIN, level=180), 49),
        (CHROME, replace(MAIN, level=183), None),
        (CHROME, replace(MAIN, high_tier=True), None),
        (CHROME, replace(MAIN, profile="Rext"), None),
        (SAFARI, MAIN, 104),
        (SAFARI, replace(MAIN, profile="Main 10", bits=10), None),
        (CHROMIUM, MAIN, None),
        (CHROMIUM, VideoFacts("vp8"), 96),
        (CHROMIUM, VideoFacts("vp9", "Profile 0"), 98),
        (CHROMIUM, VideoFacts("vp9", "Profile 2", bits=10), 100),
        (CHROME, VideoFacts("vp9", "Profile 2", bits=10), None),
        (SAFARI, VideoFacts("vp9", "Profile 0"), None),
        (CHROMIUM, VideoFacts("av1", "Main", 8), 45),
        (CHROMIUM, VideoFacts("av1", "High", 8), 47),
        (CHROMIUM, VideoFacts("av1", "Professional", 8), None),
        (CHROMIUM, VideoFacts("h264", "High", 40), 41),
        (SAFARI, VideoFacts("h264", "High", 40), 96),
        (SAFARI, VideoFacts("h264", "Constrained Baseline", 31), 98),
        (CHROMIUM, VideoFacts("mjpeg"), None),
    ],
)
def test_the_codec_of_an_offer(browser: str, facts: VideoFacts, payload_type: int | None) -> None:
    found = matching(offer(browser).codecs, facts)
    assert (None if found is None else found.payload_type) == payload_type


@pytest.mark.parametrize(
    ("name", "text", "facts", "plays"),
    [
        ("H265", "level-id=120", MAIN, False),
        ("H265", "level-id=120;max-recv-level-id=123", MAIN, True),
        ("H265", "level-id=123;tier-flag=1", replace(MAIN, high_tier=True), True),
        ("H265", "profile-id=2;level-id=150", MAIN, True),
        ("H265", "level-id=150;tx-mode=MRST", MAIN, False),
        ("H265", "profile-id=high", MAIN, False),
        ("AV1", "", VideoFacts("av1", "Main", 12), True),
        ("AV1", "level-idx=8", VideoFacts("av1", "Main", 9), False),
        ("AV1", "level-idx=13;tier=0", VideoFacts("av1", "Main", 13, high_tier=True), False),
        ("AV1", "level-idx=13;tier=1", VideoFacts("av1", "Main", 13, high_tier=True), True),
        ("VP9", "", VideoFacts("vp9", "Profile 0"), True),
    ],
)
def test_profile_level_and_tier_are_compared(name: str, text: str, facts: VideoFacts, plays: bool) -> None:
    parameters = dict(part.split("=") for part in text.split(";") if part)
    assert (matching([Codec(100, name, parameters)], facts) is not None) is plays


def test_the_answer_repeats_the_offered_parameters_and_adds_the_parameter_sets() -> None:
    sprop = "sprop-vps=QA==;sprop-sps=Qg==;sprop-pps=RA=="
    chrome, safari = offer(CHROME), offer(SAFARI)
    codec = matching(chrome.codecs, MAIN)
    assert codec is not None
    text = answer_parameters(codec, MAIN, sprop)
    assert text == f"level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST;{sprop}"
    known = "v=0\r\na=mid:0\r\na=rtpmap:49 VP8/90000\r\na=rtcp-fb:49 nack\r\na=rtpmap:50 rtx/90000\r\na=fmtp:50 apt=49\r\n"
    answer = finish_answer(known, codec, text, "0", None)
    assert "a=rtpmap:49 H265/90000\r\na=fmtp:49 level-id=180;" in answer
    assert "VP8" not in answer
    plain = matching(safari.codecs, MAIN)
    assert plain is not None
    assert answer_parameters(plain, MAIN, sprop) == sprop


def test_aiortc_sees_one_codec_that_it_knows() -> None:
    chrome = offer(CHROME)
    codec = matching(chrome.codecs, MAIN)
    assert codec is not None
    reduced = chrome.only(codec)
    assert "m=video 9 UDP/TLS/RTP/SAVPF 49 50\r\n" in reduced
    assert "a=rtpmap:49 VP8/90000\r\n" in reduced
    assert "a=fmtp:49" not in reduced
    assert "H265" not in reduced
    assert "a=rtcp-fb:49 nack pli\r\n" in reduced
    assert "a=fmtp:50 apt=49\r\n" in reduced


@given(
    st.sampled_from(["H264", "H265", "VP8", "VP9", "AV1"]),
    st.dictionaries(
        st.sampled_from(
            ["profile-id", "level-id", "tier-flag", "level-idx", "profile", "profile-level-id", "packetization-mode"]
        ),
        st.text(max_size=12),
        max_size=4,
    ),
    st.sampled_from(["h264", "hevc", "vp8", "vp9", "av1"]),
    st.sampled_from(["", "Main", "Main 10", "High", "Profile 0", "Baseline"]),
)
def test_no_parameter_of_an_offer_raises(name: str, parameters: dict[str, str], codec: str, profile: str) -> None:
    facts = VideoFacts(codec, profile, 31)
    found = matching([Codec(100, name, parameters)], facts)
    if found is not None:
        answer_parameters(found, facts, "")
