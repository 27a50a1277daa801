"""The file of ``--region``: valid content, and errors with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_infer.config.region import read_region
from vision_infer.core.errors import UsageError

GOOD = """\
units: relative
look:
  - [[0.1, 0.4], [0.9, 0.4], [0.9, 1.0], [0.1, 1.0]]
ignore:
  - [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6]]
streams:
  gate:
    anchor: center
    look: [[[0, 300], [640, 300], [640, 480]]]
"""


def test_a_stream_uses_its_own_region_or_the_common_one(tmp_path: Path) -> None:
    path = tmp_path / "yard.yaml"
    path.write_text(GOOD)
    region = read_region(path, ["gate", "yard"])
    assert region.of("yard").units == "relative"
    assert region.of("yard").anchor == "bottom_center"
    assert region.of("yard").ignore == (((0.4, 0.4), (0.6, 0.4), (0.6, 0.6)),)
    assert region.of("gate").look == (((0, 300), (640, 300), (640, 480)),)
    assert (region.of("gate").units, region.of("gate").anchor, region.of("gate").ignore) == ("pixels", "center", ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no settings. Write look:"),
        ("- 1", "contains no settings. Write look:"),
        ("look: []", "no polygon"),
        ("streams: {gate: {}}", "no polygon"),
        ("units: inches\nlook: [[[0, 0], [9, 0], [9, 9]]]", "line 1: field 'units'"),
        ("\nlook:\n  - [[0, 0], [9, 0], [9, 9]]\n  - [[0, 0], [9, 0]]", "line 4: field 'look.1'"),
        ("look:\n- - [0, 0]\n  - [9, x]\n  - [9, 9]", "line 3: field 'look.0.1.1'"),
        ("look:\n- - [0, 0]\n  - [9]\n  - [9, 9]", "line 3: field 'look.0.1.1'"),
        ("look:\n- - [0, 0]\n  - [9, .nan]\n  - [9, 9]", "line 3: field 'look.0.1.1'"),
        ("ignore:\n- [[0, 0], [5, 5], [9, 9]]", "line 2: field 'ignore.0': all points are on one line"),
        ("ignore:\n- [[3, 3], [3, 3], [3, 3]]", "line 2: field 'ignore.0': all points are on one line"),
        ("look:\n- [[0, 0], [1, 0], [1, 1]]", "line 2: field 'look.0': is not larger than a pixel"),
        ("units: relative\nlook:\n- [[0, 0], [10, 0], [1, 1]]", "line 3: field 'look.0': relative points"),
        ("streams:\n  gate:\n    look:\n    - [[0, 0], [5, 5], [9, 9]]", "line 4: field 'streams.gate.look.0'"),
        ("streams:\n  gate:\n    hide: []", "line 3: field 'streams.gate.hide'"),
        ("streams: 5", "line 1: field 'streams'"),
        ("streams: {12: {look: []}}", "contains no polygon"),
        ("look: [[[0, 0], [9, 0], [9, 9]]]\nanchor: center\nlook: []", "line 3: look is a duplicate key"),
        ("streams:\n  gate: {look: [[[0, 0], [9, 0], [9, 9]]]}\n  gate: {}", "line 3: gate is a duplicate key"),
        ("streams:\n  gate: {look: [[[0, 0], [9, 0], [9, 9]]], look: []}", "line 2: look is a duplicate key"),
        ("streams: {gate: {look: [[[0, 0], [9, 0], [9, 9]]]}}", "'gate'"),
        ("look: [[[0, 0], [9, 0]\nignore: 5", "line 2: is not valid YAML"),
        ("look: !!python/object/apply:os.system ['true']", "has an unknown tag"),
        ("look: \x00", "not valid YAML"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_error_names_the_file_line_and_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "yard.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_region(path, ["bikes", "gates"])
    assert str(raised.value).startswith(f"region {path}: ")
    assert words in str(raised.value)
    assert raised.value.hint


def test_a_file_that_is_not_a_region_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_region(path, [])
    (tmp_path / "video.mp4").write_bytes(b"\xff\xfe\x00\x80" * 100)
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_region(tmp_path / "video.mp4", [])
    (tmp_path / "large.yaml").write_bytes(b"# \n" * 2_000_000)
    with pytest.raises(UsageError, match="larger than 4 MB"):
        read_region(tmp_path / "large.yaml", [])


def test_an_unknown_stream_suggests_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "yard.yaml"
    path.write_text("streams: {gate: {look: [[[0, 0], [9, 0], [9, 9]]]}}")
    with pytest.raises(UsageError, match="its streams are gates"):
        read_region(path, ["bikes", "gates"])
    assert not read_region(path, ["gate"]).of("gate").everywhere
