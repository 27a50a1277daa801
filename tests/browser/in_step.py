"""How far a box is from its object in the picture that is displayed, for tests and benchmarks: the square of the clock camera."""

from __future__ import annotations

from typing import Any

from tests.browser.watched import Watched

STEP_PX = 4
"""by which the square moves from frame to frame"""
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


def off_its_object(one: Watched, stream: str, frames: int) -> list[tuple[float | None, bool]]:
    """Watch so many frames of a camera's view.

    Returns:
        Of each frame: by how many pixels the box is to the right of the square, None without a box; and whether the frame had a
        result of its own.
    """
    page = one.open(f"stream/{stream}")
    page.locator(".stage").wait_for()
    page.evaluate(_MEASURE)
    one.wait("(wanted) => window.measured.length >= wanted", SETTLED + frames)
    measured: list[Any] = page.evaluate("window.measured")
    return [(error, bool(exact)) for error, exact in measured[SETTLED:]]
