"""How far a box is from its object, in the picture that is displayed: measured in the video element, frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser.square_network import write_square_network
from tests.browser.watched import watched
from tests.cameras import ClockMount, RtspServer
from tests.serve_process import ServeProcess

STEP_PX = 4
"""by which the square moves from frame to frame"""
FRAMES = 150
SETTLED = 90
"""frames after which the picture waits for its results"""

_MEASURE = """
() => {
  window.measured = [];
  const stage = document.querySelector('.stage');
  const canvas = new OffscreenCanvas(640, 360);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  stage.addEventListener('drawn', ({ detail }) => {
    if (stage.dataset.mode !== 'webrtc' || !detail.time) return;
    context.drawImage(stage.querySelector('video'), 0, 0, 640, 360);
    const { data } = context.getImageData(0, 225, 640, 1);
    let [left, right] = [-1, -1];
    for (let x = 0; x < 640; x++) {
      if (data[4 * x + 1] < 130) continue;
      if (left < 0) left = x;
      right = x + 1;
    }
    const box = detail.found[0]?.box;
    window.measured.push([box ? (box[0] + box[2]) / 2 - (left + right) / 2 : null, detail.exact]);
  });
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("fps", [None, 5])
def test_a_moving_box_sits_on_its_object(browser: Browser, tmp_path: Path, fps: int | None) -> None:
    model = tmp_path / "square.onnx"
    write_square_network(model)
    rate = "" if fps is None else f", fps: {fps}"
    with RtspServer(ClockMount("/clock", 640, 360, 30)) as cameras:
        text = f"service: {{port: 0}}\nmodel: {model}\nstreams:\n  yard: {{url: {cameras.url('/clock')}, track: true{rate}}}\n"
        with ServeProcess(tmp_path, text) as serve, watched(browser, f"http://127.0.0.1:{serve.port}") as one:
            page = one.open("stream/yard")
            page.locator(".stage").wait_for()
            page.evaluate(_MEASURE)
            one.wait("(wanted) => window.measured.length >= wanted", SETTLED + FRAMES)
            measured = page.evaluate("window.measured")[SETTLED:]
            one.shot(f"in-step-{fps or 30}")
            one.expect_quiet()
    errors = [abs(error) for error, _ in measured if error is not None]
    p50, p95 = np.percentile(errors, [50, 95]) / STEP_PX
    exact = sum(exact for _, exact in measured) / len(measured)
    print(f"{fps or 30} results/s: off by p50 {p50:.2f}, p95 {p95:.2f} frame intervals; {exact:.0%} had their own result")
    assert len(errors) >= 0.9 * len(measured), "there is a box nearly always"
    assert p95 <= 1
