"""Which streams of a camera are chosen for inference and for viewing."""

from __future__ import annotations

import pytest

from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile, choose_streams


def profile(text: str) -> OnvifProfile:
    """Return a profile from ``codec WIDTHxHEIGHT [RATE] [SOURCE]``."""
    codec, size, *others = text.split()
    rate, source = [*others, *["25", "s1"][len(others) :]]
    width, height = size.split("x")
    return OnvifProfile(text, text, codec, int(width), int(height), float(rate), 0, f"rtsp://192.0.2.7/{text}", source)


@pytest.mark.parametrize(
    ("offered", "size", "detect", "view"),
    [
        # the usual pair: the sub stream is too small for the model, so the main stream is used for both
        (["h264 1920x1080", "h264 640x360"], 640, "h264 1920x1080", "h264 1920x1080"),
        (["h264 1920x1080", "h264 640x360"], 320, "h264 640x360", "h264 1920x1080"),
        (["h264 3840x2160", "h264 1280x720", "h264 640x360"], 640, "h264 1280x720", "h264 3840x2160"),
        # an upright camera: the short side counts
        (["h264 1080x1920", "h264 720x1280", "h264 480x640"], 640, "h264 720x1280", "h264 1080x1920"),
        # nothing reaches the model's input: the largest below it
        (["h264 352x288", "h264 640x480"], 640, "h264 640x480", "h264 640x480"),
        # H.265 is fine for inference; browsers need H.264
        (["hevc 3840x2160", "hevc 1280x720", "h264 640x360"], 640, "hevc 1280x720", "h264 640x360"),
        (["hevc 3840x2160", "hevc 1280x720"], 640, "hevc 1280x720", "hevc 3840x2160"),
        # MJPEG is used only if there is nothing else
        (["mjpeg 1280x720", "h264 1920x1080"], 640, "h264 1920x1080", "h264 1920x1080"),
        (["mjpeg 1280x720", "mjpeg 1920x1080"], 640, "mjpeg 1280x720", "mjpeg 1920x1080"),
        # same size: H.264, then the higher rate
        (["hevc 1280x720", "h264 1280x720"], 640, "h264 1280x720", "h264 1280x720"),
        (["h264 1280x720 5", "h264 1280x720 15"], 640, "h264 1280x720 15", "h264 1280x720 15"),
        # a size that is not reported
        (["h264 0x0"], 640, "h264 0x0", "h264 0x0"),
    ],
)
def test_streams_are_chosen_by_size_and_codec(offered: list[str], size: int, detect: str, view: str) -> None:
    chosen = choose_streams([profile(text) for text in offered], size)
    assert [one.token for one in chosen] == [detect, view]


def test_each_video_source_of_a_recorder_is_a_channel() -> None:
    profiles = tuple(map(profile, ["h264 1920x1080 25 c1", "h264 3840x2160 25 c2", "h264 640x360 25 c1"]))
    recorder = OnvifCamera("", "", "", None, profiles, "")
    assert recorder.channels == ((profiles[0], profiles[2]), (profiles[1],))
