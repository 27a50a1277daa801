"""The credentials of cameras by host: which entry applies, and invalid entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.config.secrets.credentials import CameraCredentials, credentials_for, with_login
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.control_url import split_credentials


def entry(match: str, user: str = "viewer", password: str = "s3cret") -> CameraCredentials:
    return CameraCredentials.model_validate({"match": match, "user": user, "password": password})


@pytest.mark.parametrize(
    ("match", "url"),
    [
        ("10.0.5.7", "rtsp://10.0.5.7/main"),
        ("10.0.5.0/24", "rtsps://10.0.5.255:8554/main"),
        ("10.0.5.0/24", "http://0x0a.0.5.7/video.mjpg"),
        ("10.0.5.0/24", "rtsp://[::ffff:10.0.5.7]/main"),
        ("fd00::/8", "rtsp://[fd12::1]:554/main"),
        ("[FE80::1]", "rtsp://[fe80::1%eth0]/main"),
        ("Gate.Example.org.", "RTSP://gate.EXAMPLE.org/main"),
        ("*.example.org", "https://a.b.example.org./live.m3u8"),
        ("gate", "rtsp://@gate/main"),
    ],
)
def test_an_entry_that_matches(match: str, url: str) -> None:
    assert credentials_for(url, [entry(match)]) == entry(match)


@pytest.mark.parametrize(
    ("match", "url"),
    [
        ("10.0.5.7", "rtsp://10.0.5.70/main"),
        ("10.0.5.0/24", "rtsp://10.0.6.1/main"),
        ("10.0.5.0/24", "rtsp://10.0.5.7.example.org/main"),
        ("0.0.0.0/0", "rtsp://camera/main"),
        ("0.0.0.0/0", "rtsp://[fd00::1]/main"),
        ("*.example.org", "rtsp://example.org/main"),
        ("*.example.org", "rtsp://badexample.org/main"),
        ("gate", "rtsp://gate.example.org/main"),
        ("gate", "rtsp://other/gate"),
        ("gate", "rtsp://other/?a=@gate/"),
        ("gate", "rtsp://gate\\@other/"),
        ("gate", "rtsp://own:password@gate/main"),
        ("gate", "rtsp://own@gate/main"),
        ("gate", "srt://gate:9000"),
        ("gate", "rtmp://gate/live"),
        ("gate", "gate/main.mp4"),
        ("gate", "rtsp://gate:port/main"),
        ("gate", "test://"),
    ],
)
def test_an_entry_that_does_not_match(match: str, url: str) -> None:
    assert credentials_for(url, [entry(match)]) is None
    assert with_login(url, [entry(match)]) == url


def test_the_first_entry_that_matches_is_used() -> None:
    entries = [entry("10.0.5.7", "one"), entry("10.0.5.0/24", "two"), entry("10.0.0.0/8", "three")]
    found = [credentials_for(f"rtsp://{host}/main", entries) for host in ("10.0.5.7", "10.0.5.8", "10.1.1.1")]
    assert [one and one.user for one in found] == ["one", "two", "three"]


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(user=WORDS, password=WORDS)
def test_a_url_with_credentials_means_the_same_and_can_be_redacted(user: str, password: str) -> None:
    entries = [entry("gate", user, password)]
    assert split_credentials(with_login("rtsp://gate/main", entries)) == ("rtsp://gate/main", user, password)
    assert redact(with_login("rtsp://gate/main", entries)).endswith(":***@gate/main")


CONFIGURATION = """\
credentials:
  - match: 10.0.5.0/24
    user: viewer
    password: file:secret.txt
  - match: "*.example.org"
    user: ${GATE_USER}
    password: ${GATE_PASSWORD}
"""


def load(folder: Path, text: str, **environ: str) -> ServeSettings:
    path = folder / "cameras.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, [], environ, {})


def test_passwords_come_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("p@ss/w0rd\n")
    settings = load(tmp_path, CONFIGURATION, GATE_USER="a@b", GATE_PASSWORD="x:y")
    found = [(one.match, one.user, one.password.get_secret_value()) for one in settings.credentials]
    assert found == [("10.0.5.0/24", "viewer", "p@ss/w0rd"), ("*.example.org", "a@b", "x:y")]
    assert "w0rd" not in repr(settings) + settings.model_dump_json()


def test_all_entries_can_come_from_one_variable() -> None:
    text = "[{match: gate, user: viewer, password: s3cret}]"
    assert load_settings(None, [], {"VISION_INFER_CREDENTIALS": text}, {}).credentials == (entry("gate"),)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"match": "10.0.5.1/24"}, "line 5: credentials.1.match: is not a valid network; write CIDR with zero host bits"),
        ({"match": "GATE."}, "line 5: credentials.1.match: is the same as in entry 0; only the first would be used"),
        ({"match": "rtsp://gate"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "gate:554"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "*"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "a.*.org"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "10.0.5"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "300.0.0.1"}, "line 5: credentials.1.match: must be a host name"),
        ({"match": "x", "password": "${MISSING}"}, "line 7: credentials.1.password: the environment variable MISSING is not set"),
        ({"match": "x", "password": "file:none"}, "line 7: credentials.1.password: the file none cannot be read"),
        ({"match": "x", "password": None}, "line 5: credentials.1.password: is missing"),
        ({"match": "x", "password": "''"}, "line 7: credentials.1.password: must not be empty"),
        ({"match": "x", "pasword": "s3cret"}, "credentials.1.pasword: is unknown: did you mean password?"),
    ],
)
def test_an_invalid_entry_is_reported_with_its_line(tmp_path: Path, second: dict[str, Any], reason: str) -> None:
    fields = {"user": "viewer", "password": "s3cret", **second}
    order = [name for name in ("match", "user", "password", "pasword") if fields.get(name) is not None]
    text = "".join(f"{'  - ' if not at else '    '}{name}: {fields[name]!s}\n" for at, name in enumerate(order))
    text = text.replace("match: *", 'match: "*"')
    text = "credentials:\n  - match: gate\n    user: viewer\n    password: s3cret\n" + text
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert reason in caught.value.message
    assert "s3cret" not in str(caught.value)
