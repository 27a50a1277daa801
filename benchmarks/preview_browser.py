"""The rows of ``preview.py`` that are measured in the video element of the page."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

from playwright.sync_api import Browser, Page, Route

from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.preview_control import bare_player
from benchmarks.preview_load import Length, Rows
from benchmarks.verdict import Check, quantile
from tests.browser.box_error import STEP_PX, measure_box_errors
from tests.browser.checked_page import CheckedPage, checked_page, opened_browser
from tests.browser.square_model import write_square_model
from tests.support.cameras import ClockMount, RtspServer
from tests.support.lossy_relay import LossyRelay, Outage, without_candidates
from vision_infer.config.run import DEFAULT_MODEL
from vision_infer.core.time_code import (
    COLUMNS,
    HEIGHT_UNITS,
    MARGIN_UNITS,
    MOMENT_CELLS,
    ROWS,
    WIDTH_UNITS,
    cells_of,
    moment_ms,
)

MODES = {"fast": "clock", "in step": "clock", f"in step with {DEFAULT_MODEL}": DEFAULT_MODEL}
"""The modes of the page with their models: in step, the default, delays each frame until its result has arrived; fast shows it
at once."""
FRAME_MS = 1000 / 30
FAST_MS = 45.0
"""The maximum p95 of the glass-to-glass latency in the fast mode."""
BEHIND_BARE_MS = 15.0
TURN_EVERY = 15
"""The number of frames after which the object of the second overlay row turns back."""
FIRST_MS = 300.0
LOST_PART = 0.02
OUTAGE_S = 0.3
RECOVER_S = 2.0
SETTLE_S = 6.0
_AT_ONCE = "localStorage.setItem('vision-infer', JSON.stringify({ delayVideo: false }))"
"""Makes the page show each frame immediately instead of waiting for its results, which is the default."""
_CODE = (ROWS, COLUMNS, WIDTH_UNITS, HEIGHT_UNITS, MARGIN_UNITS)

# Reads the time code of each frame that a video element shows: [time by performance.now(), cells].
_READER = """
([rows, columns, across, down, margin]) => {
  const size = 12;
  window.readFrames = (video) => {
    const seen = [];
    const canvas = new OffscreenCanvas(across * size, (margin + rows) * size);
    const context = canvas.getContext('2d', { willReadFrequently: true });
    const frame = (_, { presentationTime }) => {
      const part = video.videoHeight * (margin + rows) / down;
      context.drawImage(video, 0, 0, video.videoWidth, part, 0, 0, canvas.width, canvas.height);
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      let cells = '';
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          let sum = 0;
          for (let y = 4; y < 8; y++) {
            for (let x = 4; x < 8; x++) {
              sum += data[4 * (((margin + row) * size + y) * canvas.width + (margin + column) * size + x)];
            }
          }
          cells += sum / 16 > 127 ? '1' : '0';
        }
      }
      seen.push([presentationTime, cells]);
      video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
    return seen;
  };
}
"""
_PLAYS = "document.querySelector('.stage')?.dataset.mode === 'webrtc'"
_WAIT_FOR_CLICK = """
() => {
  window.clicked = window.shownAfter = null;
  addEventListener('click', () => {
    window.clicked = performance.now();
    const look = new MutationObserver(() => {
      if (!document.querySelector(".screen .stage[data-mode='webrtc']")) return;
      window.shownAfter = performance.now() - window.clicked;
      look.disconnect();
    });
    look.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-mode'] });
  }, { capture: true, once: true });
}
"""


@contextmanager
def playing(mount: ClockMount, model: str = "clock", **stream: object) -> Iterator[tuple[LiveService, RtspServer, Browser]]:
    """Start a camera, a service, whose default model reads the time code, and a browser."""
    with ExitStack() as stack:
        cameras = stack.enter_context(RtspServer(mount))
        settings = {"model": model, "streams": {"clock": {"detect": cameras.url(mount.path), "fps": 5, **stream}}}
        service = stack.enter_context(LiveService(settings))
        service.wait_live(1)
        yield service, cameras, stack.enter_context(opened_browser())


def glass(length: Length) -> Rows:
    """Measure the glass-to-glass latency, 640×360 at 30 frames/s, in both modes of the page.

    Two bare aiortc players in the same page are the control: one with the defaults of the browser, one with all hints that our
    player has at the same moment: for the jitter buffer, and in the fast mode the playout delay that each packet asks for.
    """
    found: list[dict[str, Any]] = []
    for number in range(length.rounds):
        for mode in list(MODES)[:: 1 if number % 2 == 0 else -1]:
            with (
                playing(ClockMount("/clock", 640, 360, 30), MODES[mode], fps=None) as (service, cameras, browser),
                checked_page(browser, service.url) as checked,
                Reader(service.results_url) as results,
            ):
                at_once = mode == "fast"
                if at_once:
                    checked.page.add_init_script(_AT_ONCE)
                ages_ms = _glass_ages(checked, cameras.url("/clock"), at_once, length.seconds)
            inference_ms = quantile([row.inference_ms for row in results.rows], 0.95)
            found.append({"mode": mode, "inference_p95": inference_ms, **ages_ms})

    def median(mode: str, name: str, part: str) -> float:
        return float(statistics.median(row[name][part] for row in found if row["mode"] == mode))

    def control(mode: str, part: str) -> str:
        return f"bare {median(mode, 'bare', part):.1f}, with the same hints {median(mode, 'bare with hints', part):.1f}"

    checks = []
    fast = median("fast", "ours", "p95")
    for mode in MODES:
        if mode == "fast":
            checks.append(Check(f"glass to glass, fast, p95 ({control(mode, 'p95')})", fast, FAST_MS, "ms"))
            for part in ("p50", "p95"):
                text = f"glass to glass, fast, {part}, against the bare one with the same hints + {BEHIND_BARE_MS:g}"
                limit = median(mode, "bare with hints", part) + BEHIND_BARE_MS
                checks.append(Check(text, median(mode, "ours", part), limit, "ms"))
        else:
            inference = statistics.median(row["inference_p95"] for row in found if row["mode"] == mode)
            parts = f"fast {fast:.1f} + 1 frame + inference {inference:.1f}"
            text = f"glass to glass, {mode}, p95, p50 {median(mode, 'ours', 'p50'):.1f} ({control(mode, 'p95')}; {parts})"
            checks.append(Check(text, median(mode, "ours", "p95"), fast + FRAME_MS + inference, "ms"))
    return checks, found


def _glass_ages(checked: CheckedPage, url: str, at_once: bool, seconds: float) -> dict[str, Any]:
    """Return the ages of the frames that the three players of a page show."""
    page = checked.open("stream/clock")
    checked.wait(_PLAYS)
    page.evaluate(_READER, list(_CODE))
    with bare_player(page, url, "bare"), bare_player(page, url, "bare with hints", hinted=True, at_once=at_once):
        page.evaluate("() => { window.seen.ours = window.readFrames(document.querySelector('.stage video')); }")
        page.wait_for_timeout(SETTLE_S * 1000)
        first = page.evaluate("() => Object.fromEntries(Object.entries(window.seen).map(([name, seen]) => [name, seen.length]))")
        page.wait_for_timeout(seconds * 1000)
        offset = offset_ms(page)
        frames = page.evaluate("window.seen")
    rows = {}
    for name, seen in frames.items():
        values = ages(seen[first[name] :], offset)
        rows[name] = {"frames": len(values), "p50": quantile(values, 0.5), "p95": quantile(values, 0.95)}
    return rows


def first(length: Length) -> Rows:
    """Measure the time from the click on a tile of the wall to the first frame of the camera's page."""
    found: list[dict[str, Any]] = []
    for width, height in ((640, 360), (1920, 1080)):
        mount = ClockMount("/clock", width, height, 30, kbit_s=2000 if width == 640 else 4000)
        with playing(mount) as (service, _, browser), checked_page(browser, service.url) as checked:
            took: list[float] = []
            for turn in range(max(3, round(length.seconds))):
                page = checked.open()
                checked.wait(_PLAYS)
                page.wait_for_timeout(37 * (turn % 27))  # at a different position in the group of pictures each time
                page.evaluate(_WAIT_FOR_CLICK)
                page.locator(".tile .cover").first.click()
                checked.wait("window.shownAfter !== null")
                took.append(page.evaluate("window.shownAfter"))
            found.append({"lines": height, "took_ms": took})
    checks = []
    for row in found:
        text = f"first frame after the click, {row['lines']} lines, maximum (median {statistics.median(row['took_ms']):.0f})"
        checks.append(Check(text, max(row["took_ms"]), FIRST_MS, "ms"))
    return checks, found


def overlay(length: Length) -> Rows:
    """Measure the distance of a box from its moving object in the displayed frame.

    Between results the page interpolates, which is exact while the object moves evenly. So an object that turns back every half
    a second is measured too.
    """
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        mounts = {"even": ClockMount("/even"), "turning": ClockMount("/turning", turn_every=TURN_EVERY)}
        cameras = stack.enter_context(RtspServer(*mounts.values()))
        browser = stack.enter_context(opened_browser())
        for motion, mount in mounts.items():
            for fps in (30, 5):
                stream = {"detect": cameras.url(mount.path), "track": True, "fps": None if fps == 30 else fps}
                frames = _box_errors(browser, stream, round(length.seconds * 30))
                errors = [abs(error) / STEP_PX for error, _ in frames if error is not None]
                boxed, exact = len(errors) / len(frames), sum(is_exact for _, is_exact in frames) / len(frames)
                row: dict[str, Any] = {"motion": motion, "fps": fps, "boxed": boxed, "exact": exact}
                found.append(row | {f"p{part}": quantile(errors, part / 100) for part in (50, 95, 100)})
    checks = []
    for row in found:
        text = f"{row['motion']} motion, {row['fps']} results/s"
        # At a turn, half of the interval between two results is drawn in the wrong direction at most.
        limit = 1.0 if row["motion"] == "even" or row["fps"] == 30 else 30 / row["fps"] / 2
        checks.append(Check(f"distance of box and object p95, {text}", row["p95"], limit, "frames"))
        checks.append(Check(f"frames with a box, {text}", row["boxed"], 0.9, "of 1", at_most=False))
    return checks, found


def _box_errors(browser: Browser, stream: dict[str, object], frames: int) -> list[tuple[float | None, bool]]:
    """Measure the box error in a number of frames of a camera with the square."""
    with LiveService({"streams": {}}) as service:
        model = service.folder / "square.onnx"
        write_square_model(model)
        service.configure({"streams": {"yard": {**stream, "model": str(model)}}})
        service.wait_live(1)
        with checked_page(browser, service.url) as checked:
            return measure_box_errors(checked, "yard", frames)


def loss(length: Length) -> Rows:
    """Measure playback with 2 % packet loss, and with short outages in which all packets are lost."""
    found: list[dict[str, Any]] = []
    random = Random(1)
    far = ClockMount("/clock", 640, 360, 30, key_interval=300)  # the next regular key frame is too late to help
    with playing(far) as (service, _, browser):
        for kind in ("2 % lost", "outages"):
            outage = Outage()
            loses = outage if kind == "outages" else lambda: random.random() < LOST_PART
            with LossyRelay(loses) as relay, checked_page(browser, service.url) as checked:
                checked.page.add_init_script(_AT_ONCE)
                checked.page.route("**/whep", partial(_through, relay))
                page = checked.open("stream/clock")
                checked.wait(_PLAYS)
                page.evaluate(_READER, list(_CODE))
                page.evaluate("() => { window.ourFrames = window.readFrames(document.querySelector('.stage video')); }")
                ends: list[float] = []
                until = time.monotonic() + length.seconds
                while time.monotonic() < until:
                    if kind == "outages":
                        ends.append(outage.begin(OUTAGE_S))
                    page.wait_for_timeout(2500)
                offset = offset_ms(page)
                shown = page.evaluate("window.ourFrames")
                whole = [at + offset for at, cells in shown if moment_of(cells) is not None]
                gaps = [after - before for before, after in pairwise(whole)]
                back = [min((at for at in whole if at > 1e3 * end), default=float("inf")) / 1e3 - end for end in ends[:-1]]
                found.append(
                    {"kind": kind, "carried": relay.carried, "lost": relay.lost, "frames": len(shown), "whole": len(whole)}
                    | {"longest_gap_s": max(gaps) / 1e3, "back_s": back}
                )
    lossy, cut = found
    lost = f"{lossy['lost']} of {lossy['carried']} packets lost"
    return [
        Check(f"{lost}: longest time without a frame", lossy["longest_gap_s"], RECOVER_S, "s"),
        Check(f"all lost for {OUTAGE_S} s: maximum time until the next frame", max(cut["back_s"]), RECOVER_S, "s"),
    ], found


def _through(relay: LossyRelay, route: Route) -> None:
    """Forward an offer, and direct the player to the relay."""
    if route.request.method != "POST":  # a request for the ICE servers
        return route.continue_()
    answer = route.fetch(post_data=without_candidates(route.request.post_data or ""))
    return route.fulfill(response=answer, body=relay.answer(answer.text()))


def offset_ms(page: Page) -> float:
    """Return the offset from the page's clock to the monotonic clock of this process, by the fastest of many requests."""
    best = (float("inf"), 0.0)
    for _ in range(100):
        before = time.monotonic_ns()
        theirs = page.evaluate("() => performance.now()")
        after = time.monotonic_ns()
        best = min(best, ((after - before) / 1e6, (before + after) / 2e6 - theirs))
    return best[1]


def moment_of(cells: str) -> int | None:
    """Return the time code of a frame; None if it cannot be read."""
    values = tuple(map(int, cells))
    moment = 0
    for place in MOMENT_CELLS:
        moment = moment << 1 | values[place]
    return moment if cells_of(moment) == values else None


def ages(frames: list[tuple[float, str]], offset: float) -> list[float]:
    """Return the age of each frame when it was shown, milliseconds; frames without a readable time code are left out."""
    found: list[float] = []
    for shown, cells in frames:
        moment = moment_of(cells)
        if moment is not None:
            at_ns = round((shown + offset) * 1e6)
            found.append((at_ns % 1_000_000) / 1e6 + (moment_ms(at_ns) - moment) % (1 << 24))
    return found
