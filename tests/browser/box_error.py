"""Measures the distance of a box from its object in the displayed frame: the square of the clock camera."""

from __future__ import annotations

from typing import Any

from tests.browser.checked_page import CheckedPage

STEP_PX = 4
"""The number of pixels by which the square moves per frame."""
SETTLED = 90
"""The number of frames after which the video delay has settled."""

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


def measure_box_errors(checked: CheckedPage, stream: str, frames: int) -> list[tuple[float | None, bool]]:
    """Measure the box error in a number of frames of a camera's view.

    Returns:
        For each frame: the distance in pixels by which the box is to the right of the square, None without a box; and whether
        the frame has its own result.
    """
    page = checked.open(f"stream/{stream}")
    page.locator(".stage").wait_for()
    page.evaluate(_MEASURE)
    checked.wait("(wanted) => window.measured.length >= wanted", SETTLED + frames)
    measured: list[Any] = page.evaluate("window.measured")
    return [(error, bool(exact)) for error, exact in measured[SETTLED:]]
