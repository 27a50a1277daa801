"""The paths of camera makers, and their proposal after an answer such as 404."""

from __future__ import annotations

import pytest

from tests.stream.rtsp.test_rtsp_stream import Answers, camera
from vision_infer.config.stream_url import check_url
from vision_infer.stream.discovery.makers import MAKERS, maker_of
from vision_infer.stream.discovery.probe import ProbeError, probe
from vision_infer.stream.redact import redact


@pytest.mark.parametrize(
    ("name", "channel", "main", "sub"),
    [
        ("Axis", 2, "/axis-media/media.amp?camera=2", "/axis-media/media.amp?camera=2&resolution=640x360"),
        ("Bosch", 1, "/?h26x=4&line=1&inst=1", "/?h26x=4&line=1&inst=2"),
        ("Dahua", 3, "/cam/realmonitor?channel=3&subtype=0", "/cam/realmonitor?channel=3&subtype=1"),
        ("Hanwha", 1, "/profile2/media.smp", ""),
        ("Hanwha", 2, "/1/profile2/media.smp", ""),
        ("Hikvision", 1, "/Streaming/Channels/101", "/Streaming/Channels/102"),
        ("Hikvision", 16, "/Streaming/Channels/1601", "/Streaming/Channels/1602"),
        ("Reolink", 1, "/Preview_01_main", "/Preview_01_sub"),
        ("Reolink", 12, "/Preview_12_main", "/Preview_12_sub"),
        ("TP-Link", 1, "/stream1", "/stream2"),
        ("Uniview", 4, "/unicast/c4/s0/live", "/unicast/c4/s1/live"),
    ],
)
def test_the_paths_of_a_channel(name: str, channel: int, main: str, sub: str) -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == name)
    assert maker.paths(channel) == (main, sub)
    for path in filter(None, maker.paths(channel)):
        check_url(f"rtsp://10.0.0.5{path}")
        assert redact(f"rtsp://10.0.0.5{path}") == f"rtsp://10.0.0.5{path}"


@pytest.mark.parametrize(
    ("realm", "name"),
    [
        ("AXIS_00408C123456", "Axis"),
        ("Please log in with a valid username", "Bosch"),
        ("Login to 4K01FD2PAJ6E3FF", "Dahua"),
        ("iPOLiS", "Hanwha"),
        ("IP Camera(C1214)", "Hikvision"),
        ("BC Streaming Media", "Reolink"),
        ("TP-LINK IP-Camera", "TP-Link"),
    ],
)
def test_a_realm_identifies_the_maker(realm: str, name: str) -> None:
    maker = maker_of(realm)
    assert maker is not None
    assert maker.name == name


@pytest.mark.parametrize("realm", ["", "GStreamer RTSP Server", "LIVE555 Streaming Media", "An IP Camera(C1)"])
def test_an_unknown_realm_identifies_none(realm: str) -> None:
    assert maker_of(realm) is None


class Turns(Answers):
    """Answers that differ from request to request: what follows a method's first answer."""

    def __init__(self, **answers: list[str]) -> None:
        super().__init__()
        self._answers = {
            method: [f"RTSP/1.0 {one}\r\nCSeq: CSEQ\r\n".encode() for one in each] for method, each in answers.items()
        }

    def get(self, method: str, default: object = None) -> bytes:
        del default
        left = self._answers.get(method, [b"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\n"])
        return (left.pop(0) if len(left) > 1 else left[0]) + b"\r\n"


def hint_of(path: str, *answers: str) -> str:
    with camera(Turns(DESCRIBE=list(answers))) as (port, _), pytest.raises(ProbeError) as caught:
        probe(f"rtsp://viewer:s3cret@127.0.0.1:{port}{path}", limit_s=3)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"
    return caught.value.hint


ASKS = '401 Unauthorized\r\nWWW-Authenticate: Digest realm="Login to X", nonce="1"'


def test_a_path_that_the_camera_does_not_know_leads_to_those_of_its_maker() -> None:
    hint = hint_of("/live", ASKS, "404 Not Found")
    assert hint == (
        "Check the path in the URL. It seems to be a camera of Dahua: try the path /cam/realmonitor?channel=1&subtype=0, "
        "or /cam/realmonitor?channel=1&subtype=1 for the second stream."
    )


@pytest.mark.parametrize(("path", "status"), [("/live", "404 Not Found"), ("", "404 Not Found"), ("/", "400 Bad Request")])
def test_without_a_known_maker_the_paths_of_all_are_listed(path: str, status: str) -> None:
    hint = hint_of(path, status)
    assert "Paths by maker: Axis /axis-media/media.amp?camera=1; " in hint
    assert all(f"{maker.name} {maker.paths(1)[0]}" in hint for maker in MAKERS)


@pytest.mark.parametrize(("path", "status"), [("/live", "400 Bad Request"), ("", "403 Forbidden"), ("", "503 Busy")])
def test_other_answers_have_nothing_to_do_with_the_path(path: str, status: str) -> None:
    assert "maker" not in hint_of(path, status)
