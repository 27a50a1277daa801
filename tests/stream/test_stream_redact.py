"""No password is revealed by any form of URL."""

from __future__ import annotations

import string
import time
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.stream.redact import has_secret, redact

# The mark is in the middle of each password: if a part of the password remained, so would the mark or its ends.
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
def test_a_password_with_a_slash_is_hidden(scheme: str, user: str, password: str, host: str) -> None:
    assert "3cRe7" not in redact(f"{scheme}://{user}:{password}@{host}/live")


@given(
    st.sampled_from(
        ["password", "pass", "PWD", "passwd", "token", "access_token", "api_key", "apikey", "secret", "auth", "X-Amz-Signature"]
    ),
    PASSWORDS.filter(lambda text: "&" not in text),
    st.sampled_from(["?", "?a=1&", "?a=1;", "#"]),
    st.sampled_from(["", "&channel=2"]),
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
def test_other_text_is_unchanged(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("end", ["", ": connection refused", ". Check the port.", "; gone", "&channel=1"])
def test_hidden_secrets_keep_the_punctuation_after_them(end: str) -> None:
    text = f"rtsp://host/x?token=***{end}"
    assert redact(text) == text
    assert redact(f"http://host/x?to%6Ben=***{end}") == f"http://host/x?to%6Ben=***{end}"
    assert MARK not in redact(f"rtsp://host/x?token=***{MARK}{end}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://host:554/live",
        "rtsp://host:554/live@2x",
        "rtsp://[::1]:554/live@2x",
        "http://host/x?channel=1&subtype=0&stream=2",
        "see https://example.org/page?",
        "file:///videos/camera#1?.mp4",
        "clip.mp4: no such file, write to me@example.org",
        "C:/videos/a@b.mp4",
        "at 12:30 the host a:b said x@y",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text
    assert redact(redact(text)) == redact(text)


# Each form of URL in which a camera, a server or a player takes a secret.

ENCODED = st.text(string.printable.strip(), max_size=6).map(lambda text: quote(f"{text}{MARK}{text}", safe=""))
ANYWHERE = st.one_of(PASSWORDS, ENCODED)
VALUES = st.one_of(PASSWORDS.map(lambda text: text.replace("&", "")), ENCODED)
SECRET_NAMES = (
    "password pass PWD passwd pswd psw pw passphrase loginpas userpwd admin_password access_token accessToken apiKey api_key key "
    "streamkey streamKey stream-key licenseKey pubPass sig Signature X-Amz-Signature X-Amz-Credential auth auth_token sessionid "
    "SID code hash jwt streamid secret"
)
NAMES = st.sampled_from(SECRET_NAMES.split())
ODD_HOSTS = st.sampled_from(
    [
        "10.0.0.7",
        "cam.example.org:554",
        "[::1]",
        "[fe80::1%25eth0]:8554",
        "[2001:db8::7]:1935",
        "täst.example",
        "xn--tst-qla.example",
    ]
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """Generate a URL with one or more secrets."""
    scheme = draw(st.sampled_from(["rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "RTSP", "Http", "tls", "whep"]))
    host, path = draw(ODD_HOSTS), draw(st.sampled_from(["", "/", "/live/ch0", "/Streaming/Channels/101", "/a:b@c/d", "/live@2x"]))
    places = draw(
        st.sets(st.sampled_from(["user", "query", "path", "nested", "fragment", "json", "rtmp"]), min_size=1, max_size=3)
    )
    credentials = f"{draw(USERS)}:{draw(ANYWHERE)}@" if "user" in places else ""
    url = f"{scheme}://{credentials}{host}{path}"
    if "path" in places:
        url += f"/user=admin{draw(st.sampled_from(['&', '_']))}password={draw(VALUES)}_channel=1_stream=0.sdp"
    url += "?mode=caller&latency=20"
    if "query" in places:
        name = draw(NAMES)
        if draw(st.booleans()):
            name = "".join(f"%{ord(letter):02X}" if number % 3 == 1 else letter for number, letter in enumerate(name))
        equals = "=" if "%" in name else draw(st.sampled_from(["=", "%3D"]))
        url += f"{draw(st.sampled_from('&;'))}{name}{equals}{draw(VALUES)}"
    if "nested" in places:
        url += "&url=" + quote(f"rtsp://user:{draw(PASSWORDS)}@other/x", safe="")
    if "json" in places:
        url += f'&settings={{"user":"a","{draw(NAMES)}":"{draw(ENCODED)}"}}'
    if "fragment" in places:
        url += f"#access_token={draw(VALUES)}"
    if "rtmp" in places:
        url += f" pubUser=me pubPass={draw(VALUES)} live=1"
    return url


@settings(max_examples=1000)
@given(urls(), AROUND)
def test_no_form_of_url_reveals_a_secret(url: str, around: tuple[str, str]) -> None:
    shown = redact(f"{around[0]}{url}{around[1]}")
    assert MARK not in shown
    assert MARK not in unquote(shown)
    assert MARK not in redact(shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("srt://host:9000?passphrase=abc&mode=caller", "srt://host:9000?passphrase=***&mode=caller"),
        ("srt://host?streamid=read:cam:user:abc", "srt://host?streamid=***"),
        ("http://a/x?url=rtsp%3A%2F%2Fu%3Aabc%40h%2Fy&b=1", "http://a/x?url=***&b=***"),
        ("rtsp://h/user=me_password=abc_channel=1", "rtsp://h/user=me_password=***"),
        ("rtsp://h/x?profile=1&pass%77ord=abc&b=2", "rtsp://h/x?profile=1&pass%77ord=***&b=***"),
        ('{"url": "rtsp://u:abc@h", "password": "abc"}', '{"url": "rtsp://u:***@h", "password": "***"}'),
        ("tcp://127.0.0.1:554?timeout=0", "tcp://127.0.0.1:554?timeout=0"),
        ("rtsp://h/Streaming/Channels/101?transportmode=unicast&codec=h264", None),
        ("/x?passive=1&monkey=2&authority=x", None),
        ("http://h/x?channel=1&channel=rtsp://u:p@h", "http://h/x?channel=1&channel=***"),
        ("http://h/x#abc: refused", "http://h/x#*** refused"),
        ("http://h/x?dG9rZW4=", "http://h/x?***"),
        ("rtmp://h/live/abc: refused", "rtmp://h/live/***: refused"),
        ("rtmps://h:443/app/one/abc?b=1", "rtmps://h:443/app/***?b=***"),
        ("rtsps://h:7441/aB3dE5fG7hI9jK1l?enableSrtp", "rtsps://h:7441/***?enableSrtp"),
        ("rtsps://h:7441/aBcDeFgHiJkLmNoP/x?enableSrtp", "rtsps://h:7441/***/x?enableSrtp"),
        ("rtsp://entranceofthehouse/live", None),
        ("rtsp://h/x?audio=SECRETsecret123", "rtsp://h/x?audio=***"),
        ("rtsp://h/x?stream=a1b2c3d4e5", "rtsp://h/x?stream=***"),
        ("rtsp://h/x?stream=1234567890123", "rtsp://h/x?stream=***"),
        ("rtsp://h/x?resolution=1920x1080&stream=main_2&codec=h264&bitrate=4000000&transportmode=multicast", None),
        ("rtsp://h/x?starttime=20260101T120000Z&endtime=2026-01-01T12:00:00.500Z&start=12:00:01.5", None),
        ("rtsp://u:12/abc@10.0.0.5/x", "rtsp://u:***@10.0.0.5/x"),
        ("rtsp://u:12/abc@h/x", "rtsp://u:***@h/x"),
        ("u:abc@h: no such file", "u:***@h: no such file"),
        ("rtsp//u:abc@h/x", "rtsp//u:***@h/x"),
        ("'rtsp:/u:abc@h'", "'rtsp:/u:***@h'"),
    ],
)
def test_other_forms_of_secrets(text: str, shown: str | None) -> None:
    assert redact(text) == (text if shown is None else shown)


@pytest.mark.parametrize("piece", ["?%41", "%3A%2F%2F", "a:b@", "://a:", "&key=", "'a' : '", "%", "pass", "/x:y", "?a;%3D"])
def test_hostile_text_is_processed_quickly(piece: str) -> None:
    began = time.monotonic()
    redact("rtsp://" + piece * (16_000 // len(piece)))
    assert time.monotonic() - began < 10, "expected: below 0.5 s"


@pytest.mark.parametrize("part", ["://", "http://a:b", "%3A%2F%2F", "rtsp://", "a ://"])
def test_a_text_of_a_megabyte_takes_no_time(part: str) -> None:
    """A camera chooses the reason of a fault, and a client the path of a request."""
    began = time.monotonic()
    shown = redact(f"reason: rtsp://user:{MARK}@host {part * (1_000_000 // len(part))}")
    assert time.monotonic() - began < 1
    assert shown.startswith("reason: rtsp://user:***@host")
    assert " … (10000" in shown
    assert len(shown) < 9000


@given(st.integers(7900, 8000))
def test_a_password_that_is_cut_is_hidden(before: int) -> None:
    shown = redact(f"{'a ' * (before // 2)}rtsp://user:{MARK * 20}@host/x {'b ' * 100}")
    assert MARK[:3] not in shown


@pytest.mark.parametrize(
    "path",
    [
        "/onvif-media/media.amp?profile=profile_1_h264&sessiontimeout=60&streamtype=unicast",
        "/rtsp_tunnel?p=0&line=1&inst=1&vcd=2",
        "/Streaming/Channels/101?transportmode=unicast&profile=Profile_1",
        "/cam/realmonitor?channel=1&subtype=0&unicast=true&proto=Onvif",
        "/media?version=1.0&action=getRTSPStream&ChannelID=1&ChannelName=Channel1",
        "/h264Preview_01_main",
    ],
)
def test_the_urls_of_cameras_have_no_secret(path: str) -> None:
    assert not has_secret(f"rtsp://10.0.0.5:554{path}", "s3cret")


@pytest.mark.parametrize(
    "path",
    [
        "/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp?real_stream",
        "/live?x=s3cret",
        "/live?x=s3%63ret",
        "/s3cret/live",
        "/live?authToken=abc",
        "/live?x=5f4dcc3b5aa765d61d8327deb882cf99",
        "/Xa1b2c3D4e5F6g7H8",
    ],
)
def test_the_secret_in_the_url_of_a_camera_is_found(path: str) -> None:
    assert has_secret(f"rtsp://10.0.0.5{path}", "s3cret")


def test_marks_that_change_the_direction_of_a_text_are_shown() -> None:
    assert redact("camera \u202e1.2.3.4\u2066") == "camera \\u202e1.2.3.4\\u2066"
