"""Session descriptions of cameras are parsed, as they are and as they should be."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.stream.rtsp.control_url import base_url, joined, redirect_target, split_credentials, without_credentials
from vision_infer.stream.rtsp.description import MAX_MEDIA, DescriptionError, SessionDescription, parse_description
from vision_infer.stream.rtsp.message import RtspHeaders

SPS, PPS, VPS = b"\x67\x4d\x00\x1f\x95", b"\x68\xee\x3c\x80", b"\x40\x01\x0c"
START = b"\0\0\0\1"
URL = "rtsp://192.0.2.1/live"
HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=a\r\nt=0 0\r\n"


def text(unit: bytes) -> str:
    return base64.b64encode(unit).decode()


def parse(*lines: str, head: str = HEAD, base: str = URL) -> SessionDescription:
    return parse_description((head + "\r\n".join(lines) + "\r\n").encode(), base)


def test_a_camera_with_video_sound_and_metadata() -> None:
    found = parse(
        "a=control:*",
        "m=video 0 RTP/AVP 96",
        "a=framerate:25.000000",
        "a=rtpmap:96 H264/90000",
        f"a=fmtp:96 packetization-mode=1; profile-level-id=4d001f; sprop-parameter-sets={text(SPS)},{text(PPS)}",
        "a=control:trackID=1",
        "m=audio 0 RTP/AVP 97",
        "a=rtpmap:97 MPEG4-GENERIC/16000/2",
        "a=fmtp:97 mode=AAC-hbr;config=1408; profile=1;",
        "a=control:rtsp://admin:secret@192.0.2.1/live/trackID=2",
        "m=application 0 RTP/AVP 107",
        "a=rtpmap:107 vnd.onvif.metadata/90000",
    )
    video, sound, metadata = found.media
    assert found.control == URL
    assert (video.kind, video.codec, video.payload_type, video.clock_rate, video.frame_rate) == (
        "video",
        "h264",
        96,
        90_000,
        25.0,
    )
    assert video.control == f"{URL}/trackID=1"
    assert video.parameter_sets() == START + SPS + START + PPS
    assert (sound.codec, sound.clock_rate, sound.channels, sound.audio_config()) == ("mpeg4-generic", 16_000, 2, b"\x14\x08")
    assert sound.control == "rtsp://192.0.2.1/live/trackID=2"
    assert metadata.codec == "vnd.onvif.metadata"


def test_deviations_that_cameras_are_known_for() -> None:
    # No origin, no rtpmap of a static type, a tab after it: macro-video, VStarcam and Foscam in
    # https://github.com/scottlamb/retina/tree/main/src/client/testdata
    found = parse("m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000 ", "m=audio 0 RTP/AVP 8\t ", head="v=0\ns=a\ns=b\n")
    assert [(media.codec, media.clock_rate) for media in found.media] == [("h264", 90_000), ("pcma", 8000)]
    # A payload type that is not a number: https://github.com/scottlamb/moonfire-nvr/issues/238
    found = parse("m=application/TP-LINK 0 RTP/AVP smart/1/90000", "a=rtpmap:95 TP-LINK/90000", "m=video 0 RTP/AVP 26")
    assert [media.codec for media in found.media] == ["jpeg"]
    # Format parameters without a value: https://github.com/scottlamb/retina/issues/65
    assert parse("m=audio 0 RTP/AVP 96", "a=rtpmap:96 opus/8000/2", "a=fmtp:96").media[0].clock_rate == 48_000
    # The parameters of the video under the sound: https://github.com/AlexxIT/WebRTC/issues/419
    sets = f"a=fmtp:96 sprop-parameter-sets={text(SPS)},{text(PPS)}"
    found = parse("m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", "m=audio 0 RTP/AVP 0", sets)
    assert found.media[0].parameter_sets() == START + SPS + START + PPS
    # Start codes in and after a set: https://github.com/scottlamb/retina/issues/108
    both = text(START + SPS + START + PPS + START)
    found = parse("m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", f"a=fmtp:96 sprop-parameter-sets={both},!")
    assert found.media[0].parameter_sets() == START + SPS + START + PPS


@pytest.mark.parametrize("rtpmap", ["H264", "H264/0", "H264/1000", "h264/x", "H264/90000/1"])
def test_the_clock_rate_of_video_is_what_the_standard_says(rtpmap: str) -> None:
    assert parse("m=video 0 RTP/AVP 96", f"a=rtpmap:96 {rtpmap}").media[0].clock_rate == 90_000


def test_the_parameter_sets_of_h265_are_used_if_all_are_present() -> None:
    def sets(*parts: str) -> bytes:
        return parse("m=video 0 RTP/AVP 96", "a=rtpmap:96 H265/90000", f"a=fmtp:96 {';'.join(parts)}").media[0].parameter_sets()

    vps, sps, pps = f"sprop-vps={text(VPS)}", f"sprop-sps={text(SPS)}", f"sprop-pps={text(PPS)}"
    assert sets(pps, vps, sps) == START + VPS + START + SPS + START + PPS
    assert sets(sps, pps) == b""
    assert sets(vps, sps, "sprop-pps=") == b""
    assert sets(vps, sps, f"sprop-pps={text(bytes([1]) * 9000)}") == b""


def test_several_video_streams_and_formats_keep_their_order() -> None:
    found = parse(
        "m=video 0 RTP/AVP 100 98",
        "a=rtpmap:98 H265/90000",
        "a=control:main",
        "m=video 0 RTP/AVP 99",
        "a=rtpmap:99 H264/90000",
        "a=control:sub",
    )
    assert [(media.codec, media.payload_type, media.control) for media in found.media] == [
        ("h265", 98, f"{URL}/main"),
        ("h264", 99, f"{URL}/sub"),
    ]


@pytest.mark.parametrize(
    ("base", "control", "url"),
    [
        (URL, "*", URL),
        (URL, None, URL),
        (URL, "track1", f"{URL}/track1"),
        (f"{URL}/", "track1", f"{URL}/track1"),
        # https://github.com/AlexxIT/go2rtc/issues/1236
        ("rtsp://192.0.2.1/", "/media/1/video/1", "rtsp://192.0.2.1/media/1/video/1"),
        # https://github.com/scottlamb/retina/issues/9
        ("rtsp://192.0.2.1/H264?channel=1", "video", "rtsp://192.0.2.1/H264?channel=1/video"),
        (URL, "rtsp://198.51.100.7/x?a=b", "rtsp://198.51.100.7/x?a=b"),
        (URL, "track 1\x01", URL),
    ],
)
def test_control_urls(base: str, control: str | None, url: str) -> None:
    assert joined(base, control) == url


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ((("content-base", "rtsp://198.51.100.7:65534/videoMain/"),), "rtsp://198.51.100.7:65534/videoMain/"),
        ((("content-location", "rtsp://c/"), ("content-base", "rtsp://b/")), "rtsp://b/"),
        ((("content-location", "rtsp://c/"),), "rtsp://c/"),
        # https://github.com/scottlamb/moonfire-nvr/issues/356
        ((("content-base", "192.168.1.10:554/stream0/"),), "rtsp://192.168.1.10:554/stream0/"),
        # https://github.com/AlexxIT/go2rtc/issues/208
        ((("content-base", "rtsp://rtsp://turret2-cam.lan:554/stream1/"),), "rtsp://turret2-cam.lan:554/stream1/"),
        ((("content-base", "rtsp://admin:secret@192.0.2.1/a@b/"),), "rtsp://192.0.2.1/a@b/"),
        ((("content-base", "http://192.0.2.1/"),), URL),
        ((("content-base", "/live/"),), URL),
        ((("content-base", "rtsp://a b/"),), URL),
        ((), URL),
    ],
)
def test_the_base_of_relative_urls(headers: tuple[tuple[str, str], ...], url: str) -> None:
    assert base_url(RtspHeaders(headers), URL) == url


def test_credentials_are_taken_out_of_a_url() -> None:
    assert split_credentials("rtsp://ad%40min:a:b%2F@192.0.2.1:554/x@y") == ("rtsp://192.0.2.1:554/x@y", "ad@min", "a:b/")
    assert split_credentials(URL) == (URL, "", "")
    assert without_credentials("rtsp://a:b@c@192.0.2.1/") == "rtsp://192.0.2.1/"


@pytest.mark.parametrize(
    "body",
    [b"", b"v=0\r\n", b"m=video 0 UDP 96", b"m=video", b"m=video 0 RTP/AVP\r\n", b"m=video 0 RTP/AVP 300\r\n"],
)
def test_a_description_without_a_stream_is_refused(body: bytes) -> None:
    with pytest.raises(DescriptionError, match="no stream"):
        parse_description(body, URL)


def test_limits() -> None:
    with pytest.raises(DescriptionError, match="65 tracks"):
        parse(*["m=video 0 RTP/AVP 96"] * 65)
    with pytest.raises(DescriptionError, match="lines"):
        parse(*["a=x"] * 5000)


def test_a_hostile_description_takes_bounded_time() -> None:
    formats = " ".join(f"{number % 128:03}" for number in range(60_000))
    began = time.process_time()
    parse(f"m=video 0 RTP/AVP {formats}", *["a=rtpmap:300 H264/90000"] * 4000)
    assert time.process_time() - began < 5, "expected: below 0.3 s"
    assert parse("m=video 0 RTP/AVP " + "9" * 5000 + " 96").media[0].payload_type == 96


@given(st.binary(max_size=400))
@settings(max_examples=100)
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with contextlib.suppress(DescriptionError):
        assert 1 <= len(parse_description(b"m=video 0 RTP/AVP 96\n" + body, URL).media) <= MAX_MEDIA
    with contextlib.suppress(DescriptionError):
        assert len(parse_description(body, URL).media) <= MAX_MEDIA


@given(
    st.text(max_size=80),
    st.text(max_size=40),
    st.sampled_from(["", "rtsp://", "rtsps://", "rtsp://rtsp://", "rtsp://a:b@", "rtsp://["]),
)
@settings(max_examples=150)
def test_any_url_of_a_server_is_used_without_credentials_or_ignored(text: str, other: str, scheme: str) -> None:
    base = base_url(RtspHeaders((("content-base", scheme + text),)), URL)
    control = joined(base, scheme + other)
    target = redirect_target(scheme + text)
    for url in (base, control, target):
        assert "@" not in url.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
        assert not re.search(r"[\s\x00-\x1f\x7f]", url)
    assert target == "" or (urlsplit(target).hostname and urlsplit(target).port != 0)


WORDS = ["m=", "a=", "rtpmap:", "fmtp:", "control:", "96", "26", "RTP/AVP", "video", "0", "/", ";", "=", ",", "H264", "Z0=", "\n"]


@given(st.lists(st.sampled_from(WORDS), max_size=60))
@settings(max_examples=100)
def test_any_description_is_parsed_or_refused(words: list[str]) -> None:
    try:
        found = parse_description(" ".join(words).replace("= ", "=").encode(), URL)
    except DescriptionError:
        return
    for media in found.media:
        assert media.clock_rate > 0
        media.parameter_sets()
        media.audio_config()
