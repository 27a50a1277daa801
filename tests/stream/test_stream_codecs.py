"""Codecs of this build of FFmpeg: present, working, missing."""

from __future__ import annotations

import pytest

from vision_infer.stream import codecs
from vision_infer.stream.codecs import check_codecs


def test_the_pyav_wheel_has_all_codecs() -> None:
    assert {one.name: one.problem for one in check_codecs() if one.problem} == {}


def test_missing_and_failing_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "DECODERS", {"h266": ("no-such-decoder", "nor-this")})
    monkeypatch.setattr(codecs, "ENCODERS", {"no-such-encoder": "h264", "libx264": "vp8", "mjpeg": "h264"})
    problems = {one.name: one.problem for one in check_codecs()}
    assert problems["h266"] == problems["no-such-encoder"] == "is missing"
    assert problems["libx264"].startswith(("fails: ", "gives "))
    assert problems["mjpeg"].startswith(("fails: ", "gives "))
