"""A stream is inserted into the text of a configuration, which otherwise stays as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.cli.cameras.entry import NotEditableError, entry_line, replace_file, stream_urls, with_stream
from vision_infer.config.yaml_lines import compose, plain
from vision_infer.core.errors import OutputError
from vision_infer.stream.onvif.camera import OnvifProfile

STREAM = {"detect": "rtsp://192.0.2.7/sub", "view": "rtsp://192.0.2.7/main"}
NEW = "  new:\n    detect: rtsp://192.0.2.7/sub\n    view: rtsp://192.0.2.7/main\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"streams:\n{NEW}"),
        ("# my cameras\n", f"# my cameras\nstreams:\n{NEW}"),
        ("model: clock", f"model: clock\nstreams:\n{NEW}"),
        ("streams:\n", f"streams:\n{NEW}"),
        ("streams: {}  # none yet\nmodel: clock\n", f"streams:  # none yet\n{NEW}model: clock\n"),
        ("streams: null\n", f"streams:\n{NEW}"),
        ("streams:\n  a: {url: 'test://'}  # pattern\n", f"streams:\n  a: {{url: 'test://'}}  # pattern\n{NEW}"),
        (
            "streams:\n  a:\n    url: test://\n    # fps: 5\n\n# The service\nservice:\n  port: 80\n",
            f"streams:\n  a:\n    url: test://\n    # fps: 5\n{NEW}\n# The service\nservice:\n  port: 80\n",
        ),
        (
            "streams:\n    a:\n        url: test://\n        classes:\n        - car\n        - bus\nmodel: clock\n",
            "streams:\n    a:\n        url: test://\n        classes:\n        - car\n        - bus\n    new:\n"
            "      detect: rtsp://192.0.2.7/sub\n      view: rtsp://192.0.2.7/main\nmodel: clock\n",
        ),
        (
            "x: &x\n  url: test://\nstreams:\n  a:\n    <<: *x\n  b: *x\nmodel: clock\n",
            f"x: &x\n  url: test://\nstreams:\n  a:\n    <<: *x\n  b: *x\n{NEW}model: clock\n",
        ),
        ("streams:\n  a:\n    url: >-\n      test://\n\n\nmodel: clock\n", None),
        ("streams:\r\n  a: {url: 'test://'}\r\n", "streams:\r\n  a: {url: 'test://'}\r\n" + NEW.replace("\n", "\r\n")),
    ],
)
def test_only_the_stream_is_inserted(before: str, after: str | None) -> None:
    found = with_stream(before, "new", STREAM)
    if after is not None:
        assert found == after
    data = plain(compose(found))
    assert list(data["streams"])[-1] == "new"
    assert data["streams"]["new"] == STREAM


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{streams: {}}", "in braces"),
        ("streams: {a: {url: 'test://'}}", "in braces"),
        ("streams: [a]", "no mapping"),
        ("[a]", "no mapping"),
        ("streams:\n  a: [\n", "not valid YAML"),
        ("streams:\n  a: {url: 'test://'}\n...\n---\nmore: 1\n", "not valid YAML"),
        ("model: clock\n...\n", "not valid YAML"),
        ("streams:\n  a: {}\n  a: {}\n", "duplicate key"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_rejected(text: str, words: str) -> None:
    with pytest.raises(NotEditableError, match=words):
        with_stream(text, "new", STREAM)


YAML_NAMES = st.sampled_from(["a", "front-door", "1", "on", "null", "0x1f", "x.y"])


@settings(max_examples=30)
@given(
    st.dictionaries(
        YAML_NAMES, st.sampled_from(["{url: 'test://'}", "\n    url: test://", "\n    url: test:// # note\n\n    fps: 5"])
    ),
    st.sampled_from(["", "\n", "\n# end\n", "\nmodel: clock\n", "\n\n\n  # comment\n"]),
    st.sampled_from(["", "model: clock\n", "# head\n\n"]),
)
def test_the_other_settings_stay_the_same(streams: dict[str, str], tail: str, head: str) -> None:
    if "model" in head and "model" in tail:
        head = ""
    body = "".join(f"  '{name}': {text}\n" for name, text in streams.items())
    text = f"{head}streams:\n{body}".rstrip("\n") + tail
    found = with_stream(text, "new", STREAM)
    assert plain(compose(found))["streams"] == {**plain(compose(f"x:\n{body}" if body else "x: {}"))["x"], "new": STREAM}
    kept = [line for line in found.splitlines() if line not in NEW.splitlines()]
    assert kept == text.splitlines()


def profile(url: str) -> OnvifProfile:
    return OnvifProfile("p", "p", "h264", 640, 360, 25, 0, url)


def test_urls_have_a_reference_in_place_of_the_password() -> None:
    sub, main = profile("rtsp://cam/sub?a=$x"), profile("rtsp://cam/main")
    assert stream_urls(sub, main, "vi@ewer", "${CAMERA_PASSWORD}") == {
        "detect": "rtsp://vi%40ewer:${CAMERA_PASSWORD}@cam/sub?a=$$x",
        "view": "rtsp://vi%40ewer:${CAMERA_PASSWORD}@cam/main",
    }
    assert stream_urls(main, main) == {"detect": "rtsp://cam/main"}


@pytest.mark.parametrize("name", ["front", "1", "on"])
def test_a_line_can_be_pasted(name: str) -> None:
    stream = {"detect": "rtsp://v:${X}@cam/sub?a=1&b={2}", "view": "rtsp://cam/ü #1"}
    assert plain(compose("streams:\n  " + entry_line(name, stream)))["streams"] == {name: stream}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_replaced_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path, mode: int) -> None:
    file, link = tmp_path / "folder" / "cameras.yaml", tmp_path / "link.yaml"
    file.parent.mkdir()
    file.write_text("old")
    file.chmod(mode)
    link.symlink_to(file)
    if os.getuid() == 0:
        os.chown(file, 1234, 1234)
    replace_file(link, "new\r\n")
    assert link.is_symlink()
    assert file.read_bytes() == b"new\r\n"
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert os.getuid() != 0 or (file.stat().st_uid, file.stat().st_gid) == (1234, 1234)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text("old")

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OutputError, match="cannot be written: Device or resource busy"):
        replace_file(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["cameras.yaml"]
    assert file.read_text() == "old"
    with pytest.raises(OutputError, match="No such file or directory"):
        replace_file(tmp_path / "none" / "cameras.yaml", "new")
