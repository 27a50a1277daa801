"""A new protocol takes one entry in the table: every module that handles URLs looks it up there."""

from __future__ import annotations

import socket
from typing import Any

import av
import pytest

from vision_infer.config.serve import ServiceSettings
from vision_infer.config.stream_url import PROTOCOLS, Protocol, check_url, split_url, url_help
from vision_infer.precision.frames import find_frame_sources
from vision_infer.stream.discovery import probe_steps
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live import open_live
from vision_infer.stream.live.allowed_networks import allowed_address

URL = "toy://198.51.100.7/door"


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "toy", Protocol("toy", 4711, "toy,tcp"))


def test_a_new_protocol_is_a_valid_url_of_a_stream() -> None:
    check_url(URL)
    assert split_url(URL).scheme == "toy"
    assert "toy://" in url_help()
    assert ServiceSettings(allow_schemes=("toy",)).allow_schemes == ("toy",)
    with pytest.raises(ValueError, match="has no host"):
        check_url("toy://")


def test_a_new_protocol_is_opened_as_a_live_source_with_its_ffmpeg_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    def no_open(name: str, **options: Any) -> None:
        opened.append(options["options"])
        raise OSError("nothing to open")

    monkeypatch.setattr(av, "open", no_open)
    (spec,) = find_frame_sources([URL])
    assert spec.kind == "live"
    assert open_live.kind_of(URL) == "toy"
    with pytest.raises(Exception, match="cannot be opened"):
        open_live.open_live(spec, SourceLog("toy"))
    assert opened[0]["protocol_whitelist"] == "toy,tcp"


def test_the_default_port_is_used_where_hosts_are_resolved_and_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert allowed_address(URL, ("198.51.100.0/24",)) == "198.51.100.7"
    assert asked == [("198.51.100.7", 4711)]
    assert probe_steps._endpoint(URL) == ("198.51.100.7", 4711)
