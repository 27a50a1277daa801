"""The control of ``preview.py``: a bare aiortc that plays the camera in the same page (:mod:`benchmarks.preview_bare`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page

from benchmarks.inputs import ROOT

# A player of a bare aiortc; with ``hinted``, it always has the hint for the jitter buffer that our page has at that moment.
_OFFER_BARE = """
async ([name, hinted]) => {
  window.seen ??= {};
  const [ours] = window.peers;
  const pc = (window.peers[name] = new RTCPeerConnection());
  const video = document.createElement('video');
  Object.assign(video, { muted: true, autoplay: true, width: 320, height: 180 });
  video.style.cssText = 'position: fixed; right: 0; bottom: 0; z-index: 9';
  document.body.append(video);
  pc.ontrack = ({ track, receiver }) => {
    const own = ours.getReceivers().find((one) => one.track.kind === 'video');
    const hint = 'jitterBufferTarget' in receiver ? 'jitterBufferTarget' : 'playoutDelayHint';
    const follow = () => { if (receiver[hint] !== own[hint]) receiver[hint] = own[hint]; };
    if (hinted) setInterval(follow, 50);
    video.srcObject = new MediaStream([track]);
    video.play();
    window.seen[name] = window.readFrames(video);
  };
  pc.addTransceiver('video', { direction: 'recvonly' });
  await pc.setLocalDescription();
  const gathered = () => pc.iceGatheringState === 'complete';
  if (!gathered()) await new Promise((done) => pc.addEventListener('icegatheringstatechange', () => gathered() && done()));
  return pc.localDescription.sdp;
}
"""


@contextmanager
def bare_player(page: Page, url: str, name: str, hinted: bool = False, at_once: bool = False) -> Iterator[None]:
    """Play a camera in the same page with a bare aiortc.

    Args:
        hinted: Whether the player gets the hints for the jitter buffer that our player has.
        at_once: Whether the packets ask for no playout delay.
    """
    command = [sys.executable, "-m", "benchmarks.preview_bare", url, *(["--at-once"] if at_once else [])]
    program = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdin.write(json.dumps(page.evaluate(_OFFER_BARE, [name, hinted])) + "\n")
        program.stdin.flush()
        answer = json.loads(program.stdout.readline())
        page.evaluate("([name, sdp]) => window.peers[name].setRemoteDescription({ type: 'answer', sdp })", [name, answer])
        page.wait_for_function("(name) => window.seen[name]?.length > 5", arg=name, timeout=20_000)
        yield
    finally:
        program.stdin.close()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        program.stdout.close()
