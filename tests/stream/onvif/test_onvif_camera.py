"""Reading the streams of a simulated ONVIF camera, correct, odd or malicious."""

from __future__ import annotations

import random
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.onvif_device import (
    JPEG,
    NOT_AUTHORIZED,
    PASSWORD,
    UNSUPPORTED,
    USER,
    FakeProfile,
    OnvifDevice,
    enveloped,
    serving,
)
from vision_infer.core import packages
from vision_infer.core.errors import MissingPackageError, RefusedError, StreamError
from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile
from vision_infer.stream.onvif.device_http import WrongPasswordError
from vision_infer.stream.onvif.read_camera import camera_streams, service_address, snapshot

HERE = ("127.0.0.0/8",)


def profiles(host: str = "127.0.0.1:554") -> list[FakeProfile]:
    return [
        FakeProfile("main", "H264", 1920, 1080, f"rtsp://{host}/main", 30),
        FakeProfile("sub", "H264", 640, 360, f"rtsp://{host}/sub?channel=1&amp;subtype=1", 10),
    ]


def read(device: OnvifDevice, user: str = USER, password: str = PASSWORD, **options: Any) -> OnvifCamera:
    return camera_streams(device.service, user, password, HERE, **{"limit_s": 5.0, **options})


def refused(device: OnvifDevice, kind: type[StreamError] = StreamError, **options: Any) -> StreamError:
    with pytest.raises(kind) as caught:
        read(device, **options)
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("media", "authentication", "algorithm", "clock_offset_s"),
    [
        (("media",), "token", "", 0.0),
        (("media",), "token", "", 3600.0),
        (("media",), "digest", "MD5", 3600.0),
        (("media",), "none", "", 0.0),
        (("media2",), "token", "", 3600.0),
        (("media2",), "digest", "SHA-256", 0.0),
        (("media", "media2"), "token", "", -86_400.0),
        (("media", "media2"), "digest", "SHA-256", 3600.0),
    ],
)
def test_a_camera_reports_its_streams(media: Any, authentication: Any, algorithm: str, clock_offset_s: float) -> None:
    device = OnvifDevice(profiles(), media, authentication, algorithm, clock_offset_s)
    with serving(device):
        camera = read(device)
        assert snapshot(camera, USER, PASSWORD, HERE) == JPEG
    assert camera.clock_offset_s == pytest.approx(clock_offset_s, abs=3)
    assert (camera.manufacturer, camera.model, camera.name) == ("Example", "IPC-7", "Front Door")
    assert camera.replaced_hosts == ()
    assert camera.profiles == (
        OnvifProfile("main", "main", "h264", 1920, 1080, 30.0, 2048, "rtsp://127.0.0.1:554/main", "sensor"),
        OnvifProfile("sub", "sub", "h264", 640, 360, 10.0, 2048, "rtsp://127.0.0.1:554/sub?channel=1&subtype=1", "sensor"),
    )
    assert device.operations()[0] == "GetSystemDateAndTime"
    services = {body.split("<trt")[1][0] for operation, _, body in device.requests if operation == "GetProfiles"}
    assert services == {"2" if "media2" in media else ":"}
    assert all(PASSWORD not in headers + body for _, headers, body in device.requests)


def test_codecs_have_the_names_of_ffmpeg() -> None:
    url = "rtsp://127.0.0.1/x"
    offered = [FakeProfile(codec, codec, 640, 360, url) for codec in ("H264", "H265", "JPEG", "MPEG4", "MPV4-ES")]
    device = OnvifDevice(offered, ("media2",))
    with serving(device):
        assert [profile.codec for profile in read(device).profiles] == ["h264", "hevc", "mjpeg", "mpeg4", "mpeg4"]


@pytest.mark.parametrize("fault_status", [400, 401, 500])
@pytest.mark.parametrize("clock_offset_s", [0.0, 3600.0])
def test_a_wrong_password_is_tried_once(fault_status: int, clock_offset_s: float) -> None:
    """More attempts could lock the account."""
    device = OnvifDevice(profiles(), fault_status=fault_status, clock_offset_s=clock_offset_s)
    with serving(device):
        error = refused(device, WrongPasswordError, password="wrong")
    assert (device.attempts, "authentication failed" in error.message) == (1, True)
    assert ("Its clock differs from this machine's by" in error.hint) == (clock_offset_s > 0)


def test_a_wrong_password_for_http_is_tried_once() -> None:
    device = OnvifDevice(profiles(), authentication="digest")
    with serving(device):
        refused(device, WrongPasswordError, password="wrong")
    assert device.attempts == 1


@pytest.mark.parametrize("authentication", ["token", "digest"])
def test_a_missing_password_is_asked_for(authentication: Any) -> None:
    device = OnvifDevice(profiles(), authentication=authentication)
    with serving(device):
        error = refused(device, WrongPasswordError, user="", password="")
    assert "Give the user name and password" in error.hint


def test_a_clock_that_cannot_be_read_is_named_if_authentication_fails() -> None:
    device = OnvifDevice(profiles(), clock_offset_s=3600, answers={"GetSystemDateAndTime": UNSUPPORTED})
    with serving(device):
        error = refused(device, WrongPasswordError)
    assert "check its clock" in error.hint


def test_basic_authentication_is_refused() -> None:
    """Any device that answers a search could ask for it, and would read the password."""
    device = OnvifDevice(profiles(), authentication="basic")
    with serving(device):
        error = refused(device, RefusedError)
    assert "reveals the password" in error.message
    assert device.attempts == 0


@pytest.mark.parametrize("media", [("media",), ("media2",)], ids="+".join)
def test_the_host_that_answered_replaces_an_internal_address(media: Any) -> None:
    device = OnvifDevice(profiles("10.9.8.7:8554"), media, host="10.9.8.7")
    with serving(device):
        camera = read(device)
        assert snapshot(camera, USER, PASSWORD, HERE) == JPEG
    assert [profile.url.partition("?")[0] for profile in camera.profiles] == [
        "rtsp://127.0.0.1:8554/main",
        "rtsp://127.0.0.1:8554/sub",
    ]
    assert camera.snapshot_url == f"http://127.0.0.1:{device.port}/snapshot.jpg"
    assert camera.replaced_hosts == ("10.9.8.7",)


def test_the_name_that_the_user_wrote_is_kept_if_the_camera_names_its_address() -> None:
    device = OnvifDevice(profiles(), ("media",))
    with serving(device):
        camera = camera_streams(f"localhost:{device.port}", USER, PASSWORD, HERE)
    assert camera.profiles[0].url == "rtsp://localhost:554/main"
    assert camera.replaced_hosts == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/main",
        "file:///etc/passwd",
        "rtsp://127.0.0.1:99999/x",
        "rtsp://127.0.0.1/a&#10;b",
        "",
        "rtsp://127.0.0.1/" + "a" * 2100,
    ],
)
@pytest.mark.parametrize("media", [("media",), ("media2",)], ids="+".join)
def test_a_stream_that_is_not_rtsp_is_left_out(url: str, media: Any) -> None:
    device = OnvifDevice([FakeProfile("odd", "H264", 640, 360, url), *profiles()], media)
    with serving(device):
        assert [profile.token for profile in read(device).profiles] == ["main", "sub"]


def test_credentials_in_a_reported_url_are_removed() -> None:
    device = OnvifDevice([FakeProfile("main", "H264", 640, 360, "rtsp://admin:secret@127.0.0.1/main")])
    with serving(device):
        assert read(device).profiles[0].url == "rtsp://127.0.0.1/main"


@pytest.mark.parametrize(
    ("answers", "statuses"),
    [
        ({"GetServices": UNSUPPORTED}, {}),
        ({"GetScopes": UNSUPPORTED, "GetDeviceInformation": UNSUPPORTED, "GetSnapshotUri": UNSUPPORTED}, {}),
        ({"GetScopes": b"<html>", "GetSnapshotUri": b""}, {"GetScopes": 404, "GetSnapshotUri": 500}),
    ],
)
def test_functions_that_a_camera_lacks_are_optional(answers: dict[str, str | bytes], statuses: dict[str, int]) -> None:
    device = OnvifDevice(profiles(), answers=answers, statuses=statuses)
    with serving(device):
        assert len(read(device).profiles) == 2


def test_a_user_who_may_only_watch_video_needs_no_other_permission() -> None:
    """The name and the snapshot are optional, and no reason to believe that the password is wrong."""
    optional = dict.fromkeys(("GetScopes", "GetDeviceInformation", "GetSnapshotUri"), NOT_AUTHORIZED)
    device = OnvifDevice(profiles(), answers={**optional}, statuses=dict.fromkeys(optional, 400))
    with serving(device):
        camera = read(device)
    assert (camera.model, camera.snapshot_url, len(camera.profiles)) == ("", "", 2)


def test_a_failure_after_the_streams_are_known_is_not_an_error() -> None:
    device = OnvifDevice(profiles(), answers={"GetScopes": b"a" * ((1 << 20) + 1)})
    with serving(device):
        assert len(read(device).profiles) == 2


def test_media2_without_rtsp_over_tcp_is_asked_for_unicast() -> None:
    device = OnvifDevice(profiles(), ("media2",))
    answer = device.answer

    def without_tcp(operation: str, body: str) -> str:
        return UNSUPPORTED if ":Protocol>RTSP<" in body else answer(operation, body)

    device.answer = without_tcp  # type: ignore[method-assign]
    with serving(device):
        assert len(read(device).profiles) == 2


def test_a_camera_over_https_is_not_asked_over_http(tmp_path: Path) -> None:
    """It signs its own certificate, and its addresses name HTTP."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=camera"
    chain, key = tmp_path / "camera.pem", tmp_path / "camera.key"
    subprocess.run([*command.split(), "-keyout", key, "-out", chain], check=True, capture_output=True, timeout=30)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    device = OnvifDevice(profiles(), tls=tls)
    with serving(device):
        camera = read(device)
        assert snapshot(camera, USER, PASSWORD, HERE) == JPEG
    assert camera.snapshot_url == f"https://127.0.0.1:{device.port}/snapshot.jpg"


def test_media_is_asked_if_media2_fails() -> None:
    device = OnvifDevice(profiles(), ("media", "media2"))
    answer = device.answer

    def without_media2(operation: str, body: str) -> str:
        return UNSUPPORTED if "<trt2:" in body else answer(operation, body)

    device.answer = without_media2  # type: ignore[method-assign]
    with serving(device):
        assert len(read(device).profiles) == 2


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
    + "".join(f'<!ENTITY b{n} "{f"&b{n - 1 or chr(0)};" * 10}">' for n in range(1, 9))
    + "]>"
).replace("\0", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB.encode() + enveloped("&b8;").partition(b"\n")[2], "document type"),
        (b'<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><v>&x;</v>', "document type"),
        (enveloped("<a>" * 5000 + "</a>" * 5000), "nested too deep"),
        (enveloped("<a/>" * 30_000), "too many elements"),
        (b"<html><body>Welcome</body></html>", "not a SOAP message"),
        (b"Welcome", "not XML"),
        (b"", "not XML"),
        (b"\xff\xfe<\x00", "not XML"),
        (b"a" * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malicious_response_is_rejected(content: bytes, words: str) -> None:
    device = OnvifDevice(profiles(), answers={"GetSystemDateAndTime": content})
    with serving(device):
        began = time.monotonic()
        assert words in str(refused(device))
    assert time.monotonic() - began < 3
    device = OnvifDevice(profiles(), answers={"GetProfiles": content})
    with serving(device):
        assert words in str(refused(device))


@pytest.mark.parametrize("number", ["1e999", "-5", "nan", "9" * 5000, "many"])
def test_an_invalid_number_counts_as_unknown(number: str) -> None:
    device = OnvifDevice(profiles())
    answer = device.answer

    def with_number(operation: str, body: str) -> str:
        text = answer(operation, body)
        return text.replace(">30<", f">{number}<").replace(">1920<", f">{number}<").replace("<t:Year>20", f"<t:Year>{number}20")

    device.answer = with_number  # type: ignore[method-assign]
    with serving(device):
        if number == "1e999" or len(number) > 1000:  # the parser fails
            assert "an invalid number" in refused(device, RefusedError).message
            return
        camera = read(device)
    assert camera.profiles[0].width == 0
    assert camera.profiles[0].frame_rate == 0
    assert camera.clock_offset_s is None


TAGS = (
    b"<t:Encoding>",
    b"</m:Profiles>",
    b' token=""',
    b"<t:Uri/>",
    b"<t:Width>-1</t:Width>",
    b"&#0;",
    b"\x00",
    b"<v:Fault/>",
    b">9e99<",
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(content)), rng.choice((1, 5, 80))
        inserted = rng.choice((b"", rng.randbytes(1), rng.choice(TAGS), content[at : at + length] * 2))
        content = content[:at] + inserted + content[at + length :] or b" "
    return content


class MutatedDevice(OnvifDevice):
    """The responses of a camera without its network, some of their bytes changed."""

    def __init__(self, media: Any, seed: int) -> None:
        super().__init__(profiles(), media, port=80)
        self.rng = random.Random(seed)
        self.address, self.has_authenticated = "127.0.0.1", False

    def send(self, _: str, __: int, body: bytes) -> tuple[int, bytes]:
        text = body.decode()
        operation = text.split("Body><")[1].split(":", 1)[1].split(">")[0].rstrip("/")
        content = enveloped(self.answer(operation, text))
        return 200, mutated(content, self.rng) if self.rng.random() < 0.4 else content


def test_changed_bytes_lead_to_a_camera_or_to_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = 0
    for seed in range(200):
        device = MutatedDevice(("media", "media2")[seed % 2 :][:1], seed)
        monkeypatch.setattr("vision_infer.stream.onvif.read_camera.DeviceHttp", lambda *_, device=device: device)
        try:
            camera = read(device)
        except StreamError:
            continue
        cameras += 1
        assert all(profile.url.startswith("rtsp") and "//127.0.0.1" in profile.url for profile in camera.profiles)
    assert 20 < cameras < 200


def test_a_redirect_is_not_followed_and_receives_no_password() -> None:
    with serving(OnvifDevice(profiles())) as other:
        device = OnvifDevice(profiles(), moved_to=other.service)
        with serving(device):
            error = refused(device, RefusedError)
    assert error.message.endswith(f"the device redirects to {other.service}, which is not followed")
    assert other.requests == []


def test_a_long_reason_takes_no_time() -> None:
    """Its passwords are looked for in a part of it only."""
    reason = UNSUPPORTED.replace("Optional Action", "://" * 300_000)
    device = OnvifDevice(profiles(), answers={"GetServices": reason, "GetCapabilities": reason})
    with serving(device):
        began = time.monotonic()
        refused(device, RefusedError)
    assert time.monotonic() - began < 3


def test_a_device_that_sends_single_bytes_is_left_in_time() -> None:
    device = OnvifDevice(profiles(), drip_s=0.02)
    with serving(device):
        began = time.monotonic()
        error = refused(device, limit_s=0.3)
    assert 0.2 < time.monotonic() - began < 2
    assert "no answer within 0.3 s" in error.message


def test_one_request_does_not_take_the_time_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, an RTSP server does not answer at all."""
    monkeypatch.setattr("vision_infer.stream.onvif.device_http.REQUEST_S", 0.2)
    device = OnvifDevice(profiles(), drip_s=0.02)
    with serving(device):
        assert "no answer within 0.2 s" in refused(device, limit_s=30.0).message


def test_a_device_without_video() -> None:
    device = OnvifDevice([])
    with serving(device):
        assert "offers no video stream" in refused(device, RefusedError).message


def test_a_port_without_a_server() -> None:
    with serving(OnvifDevice()) as device:
        pass
    assert "connection refused" in refused(device).message


def test_an_address_outside_the_allowed_networks_is_not_contacted() -> None:
    with serving(OnvifDevice(profiles())) as device:
        with pytest.raises(RefusedError, match="outside the allowed networks"):
            camera_streams(device.service, USER, PASSWORD, ("10.0.0.0/8",))
        camera = read(device)
        asked = len(device.requests)
        with pytest.raises(RefusedError, match="outside the allowed networks"):
            snapshot(camera, USER, PASSWORD, ("10.0.0.0/8",))
        assert len(device.requests) == asked


@pytest.mark.parametrize("content", [b"<html>", b"", b"\xff\xd8\xff" + bytes(5 << 20)], ids=["html", "empty", "huge"])
def test_a_snapshot_must_be_a_jpeg_of_limited_size(content: bytes) -> None:
    device = OnvifDevice(profiles(), answers={"snapshot": content})
    with serving(device), pytest.raises(StreamError, match=r"not a JPEG image|larger than"):
        snapshot(read(device), USER, PASSWORD, HERE)


def test_a_camera_without_a_snapshot() -> None:
    device = OnvifDevice(profiles(), answers={"GetSnapshotUri": UNSUPPORTED})
    with serving(device), pytest.raises(RefusedError, match="no snapshot"):
        snapshot(read(device), USER, PASSWORD, HERE)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("192.0.2.7", "http://192.0.2.7/onvif/device_service"),
        ("camera.example:8000", "http://camera.example:8000/onvif/device_service"),
        ("2001:db8::7", "http://[2001:db8::7]/onvif/device_service"),
        ("[2001:db8::7]:8000", "http://[2001:db8::7]:8000/onvif/device_service"),
        ("https://camera.example/", "https://camera.example/onvif/device_service"),
        ("http://192.0.2.7:2020/onvif/other", "http://192.0.2.7:2020/onvif/other"),
    ],
)
def test_an_address_is_completed(text: str, url: str) -> None:
    assert service_address(text) == url


@pytest.mark.parametrize(
    "text", ["", "http://", "a b", "rtsp://192.0.2.7/x", "http://admin:secret@192.0.2.7/", "admin:secret@cam"]
)
def test_an_invalid_address_is_rejected_without_repeating_it(text: str) -> None:
    with pytest.raises(RefusedError, match="ONVIF address") as caught:
        service_address(text)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"onveef.*pip install '\.\[onvif\]'"):
        camera_streams("192.0.2.7", USER, PASSWORD)
