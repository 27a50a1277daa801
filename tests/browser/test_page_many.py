"""Walls with several cameras that show something: four with real pictures, and sixteen at once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.watched import NARROW, watched
from tests.cameras import ClockMount, Encoded, ReplayMount, RtspServer
from tests.serve_process import ServeProcess

ALL_PLAY = """
(count) => {
  const stages = [...document.querySelectorAll('.stage')];
  return stages.length === count && stages.every((one) => one.dataset.mode === 'webrtc');
}
"""
QUALITY = """
() => [...document.querySelectorAll('video')].map((one) => {
  const { totalVideoFrames, droppedVideoFrames } = one.getVideoPlaybackQuality();
  return [totalVideoFrames, droppedVideoFrames];
})
"""


@pytest.mark.slow
def test_four_cameras_wide_and_narrow_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    """Its pictures are those of the documents."""
    mounts = [
        ReplayMount("/corner", Encoded(width=960, height=408, fps=25, kbit_s=2000, frames=150)),
        ReplayMount("/street", Encoded(width=960, height=408, fps=25, kbit_s=2000, frames=100)),
        ReplayMount("/bridge", Encoded(width=640, height=272, fps=12, kbit_s=900, frames=240)),
        ClockMount("/clock"),
    ]
    zone = "zones: {door: {units: relative, polygon: [[0.05, 0.45], [0.55, 0.45], [0.6, 0.97], [0.05, 0.97]]}}"
    line = "lines: {way: {units: relative, from: [0.66, 1], to: [0.66, 0.2]}}"
    more = {"corner": f"{zone}, {line}", "street": "track: true", "bridge": "track: true", "clock": "model: clock"}
    with RtspServer(*mounts) as cameras:
        streams = "".join(f"  {name}: {{url: {cameras.url('/' + name)}, fps: 8, {own}}}\n" for name, own in more.items())
        with ServeProcess(tmp_path, f"service: {{port: 0}}\nstreams:\n{streams}") as serve:
            address = f"http://127.0.0.1:{serve.port}"
            for name, options in (
                ("four-wide", {"viewport": {"width": 1280, "height": 800}}),
                ("four-dark", {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}),
                ("four-narrow", {"viewport": NARROW}),
                ("four-4k", {"viewport": {"width": 3840, "height": 2160}, "color_scheme": "dark"}),
            ):
                with watched(browser, address, **options) as one:
                    page = one.open()
                    if name != "four-narrow":
                        one.wait(ALL_PLAY, 4)
                    page.wait_for_timeout(6000)  # something to see in the lines
                    one.shot(name, full=name == "four-narrow")
                    assert one.overflow() <= 0
                    one.open("stream/corner")
                    one.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
                    page.wait_for_timeout(6000)
                    one.shot(f"{name}-stream", full=True)
                    assert one.overflow() <= 0
                    one.open("engines")
                    expect(page.get_by_role("heading", name="nanodet-416")).to_be_visible()
                    page.wait_for_timeout(2500)
                    one.shot(f"{name}-engines", full=True)
                    one.expect_quiet()


@pytest.mark.slow
def test_sixteen_cameras_at_once(browser: Browser, tmp_path: Path) -> None:
    video = Encoded(width=320, height=180, fps=15, kbit_s=300)
    names = [f"camera-{number:02}" for number in range(16)]
    with ExitStack() as stack:
        cameras = stack.enter_context(RtspServer(*(ReplayMount(f"/{name}", video) for name in names)))
        streams = "".join(f"  {name}: {{url: {cameras.url('/' + name)}, fps: 1}}\n" for name in names)
        text = f"service: {{port: 0}}\nmodel: clock\nstreams:\n{streams}"
        serve = stack.enter_context(ServeProcess(tmp_path, text))
        one = stack.enter_context(watched(browser, f"http://127.0.0.1:{serve.port}", viewport={"width": 1920, "height": 1800}))
        page = one.open()
        one.wait(ALL_PLAY, 16)
        cdp = page.context.new_cdp_session(page)
        cdp.send("Performance.enable")

        def spent() -> dict[str, float]:
            return {entry["name"]: entry["value"] for entry in cdp.send("Performance.getMetrics")["metrics"]}

        before, frames_before = spent(), page.evaluate(QUALITY)
        page.wait_for_timeout(6000)
        after, frames_after = spent(), page.evaluate(QUALITY)
        one.shot("sixteen")
        assert sum(value for value, *_ in one.shifts()) < 0.001, one.shifts()
        one.expect_quiet()
    busy = (after["TaskDuration"] - before["TaskDuration"]) / (after["Timestamp"] - before["Timestamp"])
    shown = [later[0] - earlier[0] for earlier, later in zip(frames_before, frames_after, strict=True)]
    dropped = sum(later[1] - earlier[1] for earlier, later in zip(frames_before, frames_after, strict=True))
    print({name: round(after[name] - before[name], 2) for name in after if name.endswith("Duration")})
    print(f"16 tiles: {min(shown)} to {max(shown)} frames each, {dropped / sum(shown):.1%} dropped, main thread busy {busy:.0%}")
    assert min(shown) > 0.5 * max(shown), "all of them go on"
    assert busy < 0.8
