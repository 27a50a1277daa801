"""Masks, keypoints and rotated boxes on the live view, compared with the result of the displayed frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser.checked_page import CHROMIUM, FIREFOX, checked_page
from tests.browser.square_model import ANGLE, BOTTOM, ROTATED_SIZE, TOP, write_segment_model, write_square_model
from tests.support.cameras import ClockMount, RtspServer
from tests.support.serve_process import ServeProcess
from vision_infer.core.card import DetailKind
from vision_infer.core.details import Masks

WIDTH, HEIGHT = 640, 360
FRAMES = 20

_RECORD = """
() => {
  window.recorded = [];
  const stage = document.querySelector('.stage');
  stage.addEventListener('drawn', ({ detail }) => {
    const canvas = stage.querySelector('canvas.overlay');
    if (!detail.exact || detail.found.length !== 1) return;
    const scale = canvas.width / 640;
    const context = canvas.getContext('2d');
    const [{ box, keypoints, mask, box_rotated }] = detail.found;
    const opaque = (x, y) => context.getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1).data[3];
    const [middle, top, bottom] = [(box[0] + box[2]) / 2, box[1], box[3]];
    const quarters = [0.25, 0.5, 0.75].map((part) => opaque(middle, top + (bottom - top) * part));
    const corner = opaque(box[0], top);
    const turned = box_rotated && [-1, 1].map((side) => {
      const [x, y, width, , angle] = box_rotated;
      return opaque(x + side * Math.cos(angle) * width / 2, y + side * Math.sin(angle) * width / 2);
    });
    window.recorded.push({ quarters, corner, turned, keypoints, mask, box_rotated, box });
  });
}
"""


def recorded(browser: Browser, folder: Path, detail: DetailKind) -> list[dict[str, Any]]:
    """Return what the overlay shows in frames with their own result."""
    model = folder / "square.onnx"
    write_square_model(model, detail)
    with RtspServer(ClockMount("/clock", WIDTH, HEIGHT, 10)) as cameras:
        text = f"service: {{port: 0}}\nmodel: {model}\nstreams:\n  yard: {{url: {cameras.url('/clock')}, track: true}}\n"
        with ServeProcess(folder, text) as serve, checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked:
            page = checked.open("stream/yard")
            for label in ("Labels", "Scores", "Trails"):
                page.get_by_label(label, exact=True).uncheck()
            page.locator(".stage").wait_for()
            page.evaluate(_RECORD)
            # the lines between keypoints are loaded with the first row
            checked.wait("(wanted) => window.recorded.length >= wanted", FRAMES)
            checked.shot(f"details-{detail}")
            rows: list[dict[str, Any]] = page.evaluate("window.recorded")
            checked.expect_quiet()
    return rows[FRAMES // 2 :]


IN_BOTH = pytest.mark.parametrize("browser", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.slow)], indirect=True)


@IN_BOTH
def test_masks_are_filled_and_smaller_than_the_image(browser: Browser, tmp_path: Path) -> None:
    for row in recorded(browser, tmp_path, "masks"):
        upper, _, lower = row["quarters"]
        assert upper > 90  # the mask is the upper half of the square
        assert lower == 0
        assert row["corner"] > 200  # the box
        assert row["mask"]["size"] == [270, 480]


@IN_BOTH
def test_keypoints_have_lines_between_them(browser: Browser, tmp_path: Path) -> None:
    for row in recorded(browser, tmp_path, "keypoints"):
        upper, middle, lower = row["quarters"]
        assert middle > 200  # the line from the left to the right edge
        assert upper == lower == 0
        assert row["keypoints"][0][0] == pytest.approx(row["box"][0], abs=1)


@IN_BOTH
def test_rotated_boxes_replace_boxes(browser: Browser, tmp_path: Path) -> None:
    for row in recorded(browser, tmp_path, "rotated_boxes"):
        assert row["corner"] == 0
        assert min(row["turned"]) > 100  # the middles of the short sides
        # The input is stretched from 16:9 to 16:9, so that the angle stays.
        assert row["box_rotated"][2:] == pytest.approx([2 * ROTATED_SIZE[0], 2 * ROTATED_SIZE[1], ANGLE], abs=0.02)


_SAMPLE = """
(line) => {
  window.sampled = [];
  const stage = document.querySelector('.stage');
  stage.addEventListener('drawn', ({ detail }) => {
    if (!detail.exact || !detail.row.segments) return;
    const canvas = stage.querySelector('canvas.overlay');
    const scale = canvas.width / 640;
    const pixels = canvas.getContext('2d').getImageData(0, Math.round(line * scale), canvas.width, 1).data;
    const alphas = Array.from({ length: 320 }, (_, x) => pixels[4 * Math.round((2 * x + 1) * scale) + 3]);
    window.sampled.push({ alphas, segments: detail.row.segments });
  });
}
"""


@IN_BOTH
def test_pixels_are_colored_by_their_classes(browser: Browser, tmp_path: Path) -> None:
    model = tmp_path / "bright.onnx"
    write_segment_model(model)
    with RtspServer(ClockMount("/clock", WIDTH, HEIGHT, 10)) as cameras:
        text = f"service: {{port: 0}}\nmodel: {model}\nstreams:\n  yard: {{url: {cameras.url('/clock')}}}\n"
        with ServeProcess(tmp_path, text) as serve, checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked:
            page = checked.open("stream/yard")
            page.locator(".stage").wait_for()
            page.evaluate(_SAMPLE, TOP + BOTTOM)
            checked.wait("(wanted) => window.sampled.length >= wanted", FRAMES)
            checked.shot("segments")
            rows: list[dict[str, Any]] = page.evaluate("window.sampled")
            checked.expect_quiet()
    for row in rows[FRAMES // 2 :]:
        (bright,) = (one for one in row["segments"] if one["label"] == "bright")
        wanted = Masks.from_rows([bright["mask"]]).pixels()[0, (TOP + BOTTOM) // 2]
        inner = np.convolve(wanted, np.ones(5), "same")  # not at the edges of the square
        seen = np.array(row["alphas"]) > 60
        assert wanted.any()
        assert seen[inner == 5].all()
        assert not seen[inner == 0].any()
