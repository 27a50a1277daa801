"""The distance of a box from its object in the displayed frame, measured in the video element frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser.box_error import STEP_PX, measure_box_errors
from tests.browser.checked_page import CHROMIUM, FIREFOX, checked_page
from tests.browser.square_model import write_square_model
from tests.support.cameras import ClockMount, RtspServer
from tests.support.media import ROOT
from tests.support.serve_process import ServeProcess

pytestmark = pytest.mark.timing

FRAMES = 150
HALF_PIXEL = 0.5 / STEP_PX
"""The edges of the square are measured in whole pixels; in frame intervals."""


@pytest.mark.slow
@pytest.mark.parametrize("browser", [CHROMIUM, FIREFOX], indirect=True)
@pytest.mark.parametrize("fps", [None, 5])
def test_a_box_follows_its_moving_object(browser: Browser, tmp_path: Path, fps: int | None) -> None:
    model = tmp_path / "square.onnx"
    write_square_model(model)
    rate = "" if fps is None else f", fps: {fps}"
    with RtspServer(ClockMount("/clock", 640, 360, 30)) as cameras:
        text = f"service: {{port: 0}}\nmodel: {model}\nstreams:\n  yard: {{url: {cameras.url('/clock')}, track: true{rate}}}\n"
        with ServeProcess(tmp_path, text) as serve, checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked:
            measured = measure_box_errors(checked, "yard", FRAMES)
            checked.shot(f"box-error-{fps or 30}")
            checked.expect_quiet()
    errors = [abs(error) for error, _ in measured if error is not None]
    p50, p95 = np.percentile(errors, [50, 95]) / STEP_PX
    exact = sum(exact for _, exact in measured) / len(measured)
    print(f"{fps or 30} results/s: off by p50 {p50:.2f}, p95 {p95:.2f} frame intervals; {exact:.0%} had their own result")
    assert len(errors) >= 0.9 * len(measured), "nearly every frame has a box"
    assert p95 <= 1 + HALF_PIXEL


SLOW_HOOK = """
import time

def hook(frame, result):
    time.sleep(0.06)
    return result
"""


@pytest.mark.slow
def test_the_video_waits_for_late_results(browser: Browser, tmp_path: Path) -> None:
    """By default each displayed frame has its own result, though results are later than the video."""
    model = tmp_path / "square.onnx"
    write_square_model(model)
    (tmp_path / "late.py").write_text(SLOW_HOOK, encoding="utf-8")
    with RtspServer(ClockMount("/clock", 640, 360, 10)) as cameras:
        text = f"service: {{port: 0}}\nmodel: {model}\nstreams:\n  yard: {{url: {cameras.url('/clock')}, hook: 'late:hook'}}\n"
        service = ServeProcess(tmp_path, text, PYTHONPATH=f"{tmp_path}:{ROOT}")
        with service as serve, checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked:
            in_step = measure_box_errors(checked, "yard", FRAMES // 3)
            checked.page.get_by_text("Delay video until results arrive").click()
            checked.wait("document.querySelector('.stage').dataset.mode === 'webrtc'")
            at_once = measure_box_errors(checked, "yard", FRAMES // 3)
            checked.expect_quiet()
    assert sum(exact for _, exact in in_step) >= 0.8 * len(in_step)
    assert sum(exact for _, exact in at_once) <= 0.2 * len(at_once)
