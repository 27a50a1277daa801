"""No password survives, whatever the URL looks like."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.redact import redact

# The mark is in the middle of every password: were any of it left, the mark would be or its ends.
MARK = "S3cRe7"
URL_CHARS = string.ascii_letters + string.digits + "-._~!$'()*+,;=%@:?#"
PASSWORDS = st.text(URL_CHARS, max_size=8).map(lambda text: f"x{text}{MARK}{text}")
SCHEMES = st.sampled_from(["rtsp", "rtsps", "http", "https", "rtmp", "srt", "udp"])
USERS = st.sampled_from(["", "admin", "me@example.org", "user%40x", "a.b-c", "root"])
HOSTS = st.sampled_from(["host", "10.0.0.7", "cam.example.org:554", "[::1]", "[fe80::1]:8554"])
PATHS = st.sampled_from(["", "/", "/live/ch0", "/live@2x", "/a:b/c", "/x?profile=1", "/x?a=b@c"])
AROUND = st.sampled_from([("", ""), ("cannot open ", ": timed out"), ("'", "'"), ("(", ")"), ("a rtsp://b/c then ", "")])


@given(SCHEMES, USERS, PASSWORDS, HOSTS, PATHS, AROUND)
def test_no_password_survives(scheme: str, user: str, password: str, host: str, path: str, around: tuple[str, str]) -> None:
    shown = redact(f"{around[0]}{scheme}://{user}:{password}@{host}{path}{around[1]}")
    assert MARK not in shown
    assert password not in shown
    assert "***@" in shown
    assert f"{scheme}://{user}:***@" in shown


@given(SCHEMES, USERS, PASSWORDS.map(lambda text: text.replace("S", "/S")), HOSTS)
def test_a_slash_in_a_password_hides_it_still(scheme: str, user: str, password: str, host: str) -> None:
    assert "3cRe7" not in redact(f"{scheme}://{user}:{password}@{host}/live")


@given(
    st.sampled_from(
        ["password", "pass", "PWD", "passwd", "token", "access_token", "api_key", "apikey", "secret", "auth", "X-Amz-Signature"]
    ),
    PASSWORDS.filter(lambda text: "&" not in text),
    st.sampled_from(["?", "?a=1&", "?a=1;", "#"]),
    st.sampled_from(["", "&b=2"]),
)
def test_no_secret_parameter_survives(name: str, value: str, before: str, after: str) -> None:
    shown = redact(f"http://host/path{before}{name}={value}{after}")
    assert MARK not in shown
    assert shown.endswith(f"{name}=***{after}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:secret@host/path?token=abc", "rtsp://user:***@host/path?token=***"),
        ("rtsp://me@corp.com:se@cret@host:554/x", "rtsp://me@corp.com:***@host:554/x"),
        ("rtsp://:secret@host", "rtsp://:***@host"),
        ("rtsp://a:b@h, then rtsp://c:d@i/x", "rtsp://a:***@h, then rtsp://c:***@i/x"),
    ],
)
def test_the_rest_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://host:554/live",
        "rtsp://host:554/live@2x",
        "rtsp://[::1]:554/live@2x",
        "http://host/x?author=me&keyframe=1&monkey=2",
        "clip.mp4: no such file, write to me@example.org",
        "C:/videos/a@b.mp4",
        "at 12:30 the host a:b said x@y",
    ],
)
def test_text_without_secrets_is_left_alone(text: str) -> None:
    assert redact(text) == text
    assert redact(redact(text)) == redact(text)
