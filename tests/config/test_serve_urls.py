"""URLs of streams: validation, the rules of the API, and the names of streams."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.config.api_stream import is_allowed, stream_from_api, url_problem
from vision_infer.config.serve import ServiceSettings
from vision_infer.config.stream_url import address_of, check_url, is_file, name_of, split_url
from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.errors import UsageError


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://192.0.2.1",
        "RTSP://user:p%40ss@camera.local:554/Streaming/Channels/101?transportmode=unicast",
        "rtsp://user:p:w@h/x",
        "rtsps://[2001:db8::1]:322/x",
        "rtsp://[fe80::1%eth0]/x",
        "http://h/live/index.m3u8?token=a&b=c#d",
        "rtmp://h/live/key",
        "srt://:9000?mode=listener",
        "srt://h:9000",
        "test://",
        "test://640x360@30",
        "file:///a/b c.mp4",
        "/dev/video0",
        "clip.mp4",
        "./a b/clip?.mp4",
        "12:30.mp4",
        "C:\\clip.mp4",
    ],
)
def test_valid_urls_are_accepted(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (" rtsp://h", "begins or ends with a space"),
        ("rtsp://h/\n", "control character"),
        ("rtsp://h/a b", "write it as %20"),
        ("rtsp://", "has no host"),
        ("rtsp:///x", "has no host"),
        ("rtsp://user:pw@/x", "has no host"),
        ("rtsp://h:99999/x", "host or port"),
        ("rtsp://h:0/x", "host or port"),
        ("rtsp://h:x/x", "host or port"),
        ("rtsp://user:p#w@h/x", "write @ as %40"),
        ("rtsp://[::1/x", "host or port"),
        ("rtsp:h", "two slashes"),
        ("user:Geheim@camera/front", "Write rtsp:// before it."),
        ("user:Geheim@192.0.2.1", "Write rtsp:// before it."),
        ("192.0.2.1", "Write rtsp:// before it."),
        ("192.0.2.1:554/front", "Write rtsp:// before it."),
        ("camera.local:554", "Write rtsp:// before it."),
        ("HTTP:/h", "two slashes"),
        ("rtspp://h", "did you mean"),
        ("gopher://h", "the valid ones are rtsp, rtsps, http"),
        ("concat://a|b", "unknown scheme"),
        ("file://host/x", "file:///path"),
        ("/dev/sda", "/dev/video0"),
    ],
)
def test_invalid_urls_are_rejected_with_the_reason(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_url(url)


def test_a_url_is_split_as_ffmpeg_splits_it() -> None:
    parts = split_url("RTSP://us@er:p@w@[2001:db8::1]:322/a@b:1/x?y=@z")
    assert (parts.scheme, parts.user, parts.host, parts.port) == ("rtsp", "us@er:p@w", "2001:db8::1", 322)
    assert parts.rest == "/a@b:1/x?y=@z"
    assert "p@w" not in repr(parts)
    assert (split_url("/dev/video3").scheme, split_url("a/b.mp4").scheme) == ("dev", "file")
    assert [url for url in ("a.mp4", "file:///a", "/dev/video0", "test://", "http://h/a.mp4") if is_file(url)] == [
        "a.mp4",
        "file:///a",
    ]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://user:pw@10.0.0.5/front", "front"),
        ("rtsp://user:pw@10.0.0.5:554/cams/front.sdp?x=y#z", "front"),
        ("rtsp://10.0.0.5", "10.0.0.5"),
        ("rtsp://10.0.0.5/Streaming/Channels/101", "10.0.0.5-101"),
        ("rtsp://10.0.0.5/user=admin_password=geheim_channel=1.sdp", "10.0.0.5"),
        ("rtsp://user:pw@camera.local/live", "camera.local"),
        ("http://h/cam/index.m3u8", "h"),
        ("rtmp://h/live/mykey", "h"),
        ("rtsps://h:7441/aB3dE5fG7hI9jK1l", "h"),
        ("rtsp//u:pw@h/", "file"),
        (" rtsp://u:pw@h", "file"),
        ("u:pw@h", "file"),
        ("rtmp://h/live/0123456789abcdef0123456789abcdef01234567", "h"),
        ("rtsp://u:12/geheim@h/x", "u"),
        ("rtsp://u:ge/heim@h/x", "stream"),
        ("rtsp://[2001:db8::1]/", "2001-db8-1"),
        ("srt://:9000", "srt"),
        ("test://", "test"),
        ("/videos/Front door.mp4", "Front-door"),
        ("file:///videos/a.b.mp4", "a.b"),
        ("C:\\videos\\a.mp4", "a"),
        ("/dev/video0", "video0"),
        ("/", "file"),
        ("?.mp4", "file"),
        ("a" * 200 + ".mp4", "a" * 56),
    ],
)
def test_a_stream_is_named_after_its_url(url: str, name: str) -> None:
    assert name_of(url) == name


def test_names_are_unique() -> None:
    taken: list[str] = []
    urls = ["rtsp://10.0.0.5/front", "rtsp://10.0.0.6/Front", "rtsp://10.0.0.6/front", "test://", "test://", "test://"]
    for url in urls:
        taken.append(name_of(url, taken))
    assert taken == ["front", "10.0.0.6-Front", "front-2", "test", "test-2", "test-3"]


_HARD = st.text(st.sampled_from("aZ9@:/?#[]%=&. -~$\\\n"), max_size=12)


@given(
    st.sampled_from(["rtsp", "http", "srt", "file", "xyz"]),
    _HARD,
    _HARD,
    _HARD,
    st.lists(st.sampled_from(["front", "h", "stream"])),
)
def test_every_url_gives_a_name_without_its_password(scheme: str, user: str, host: str, path: str, taken: list[str]) -> None:
    name = name_of(f"{scheme}://{user}:Geheim@{host}/{path}", taken)
    assert re.fullmatch(STREAM_NAME, name)
    assert name not in taken
    if scheme != "file":
        assert "Geheim" not in name


SERVICE = ServiceSettings(allow_networks=("10.0.0.0/8", "2001:db8::/32"))
ANY = ServiceSettings()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://10.1.2.3/x", ""),
        ("rtsp://10.66051/x", ""),
        ("rtsp://[2001:db8::5]/x", ""),
        ("rtsp://[::ffff:10.1.2.3]/x", ""),
        ("rtsp://camera.local/x", ""),
        ("rtsp://u:p@10.1.2.3:554/x", ""),
        ("test://", ""),
        ("rtsp://192.0.2.1/x", "outside the allowed networks"),
        ("rtsp://10.1.2.3@192.0.2.1/x", "outside the allowed networks"),
        ("rtsp://[::ffff:192.0.2.1]/x", "outside the allowed networks"),
        ("rtsp://[::1]/x", "outside the allowed networks"),
        ("http://127.1/x", "outside the allowed networks"),
        ("http://2130706433/x", "outside the allowed networks"),
        ("http://0x7f.0.0.1/x", "outside the allowed networks"),
        ("http://0177.0.0.1/x", "outside the allowed networks"),
        ("http://127.0.0.1./x", "outside the allowed networks"),
        ("file:///etc/passwd", "not allowed over the API"),
        ("/etc/passwd", "not allowed over the API"),
        ("clip.mp4", "not allowed over the API"),
        ("/dev/video0", "not allowed over the API"),
        ("rtsp://u:${PW}@10.1.2.3/x", "a reference"),
        ("rtsp://u:${file:/etc/passwd}@10.1.2.3/x", "a reference"),
    ],
)
def test_urls_over_the_api_need_an_allowed_scheme_and_network(url: str, expected: str) -> None:
    message = url_problem(url, SERVICE)
    assert message == expected == "" or (expected and expected in message)
    for field in ("detect", "view", "degrade_detect"):
        data = {"detect": "test://", field: url}
        if expected:
            with pytest.raises(UsageError, match=f"{field}: .*{expected}"):
                stream_from_api(data, SERVICE)
        else:
            assert getattr(stream_from_api(data, SERVICE), field) == url


def test_files_and_devices_are_accepted_if_listed() -> None:
    listed = ServiceSettings(allow_schemes=("file", "dev"))
    assert [url_problem(url, listed) for url in ("clip.mp4", "file:///a.mp4", "/dev/video0")] == ["", "", ""]
    assert "the allowed ones are file, dev" in url_problem("test://", listed)
    assert "the allowed ones are none" in url_problem("test://", ServiceSettings(allow_schemes=()))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"detect": "test://", "hook": "os:system"}, "hook: runs code, and is allowed in the configuration file only"),
        (
            {"detect": "test://", "fps": -1, "wieght": 2},
            "2 problems: fps: must be greater than 0, got -1; wieght: is unknown: did you mean weight",
        ),
        ({}, "detect: is missing"),
        ({"detect": 5}, "detect: must be text"),
        ({"detect": "gopher://u:Geheim@h"}, "detect: has an unknown scheme"),
        ({"detect": "clip.mp4", "view": "/dev/video0"}, "2 problems: detect: "),
    ],
)
def test_all_problems_of_a_stream_over_the_api_are_reported(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        stream_from_api(data, ANY)
    assert caught.value.message.startswith(expected)
    assert "Geheim" not in str(caught.value)


def test_addresses() -> None:
    assert address_of("camera.local") is None
    assert address_of("1.2.3.4.5") is None
    assert address_of("256.1.1.1") is None
    assert address_of("") is None
    local = address_of("fe80::1%eth0")
    assert local is not None
    assert is_allowed(local, ("fe80::/10",))
    assert is_allowed(local, ())
    assert not is_allowed(local, ("10.0.0.0/8",))
