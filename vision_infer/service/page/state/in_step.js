// Lets the picture wait for its result: the receiver holds frames back for as long as results are behind, and no longer.

const LOOK_MS = 1000;
const MARGIN_MS = 12;
const MOST_MS = 500;
const STEP_UP_MS = 150;
const STEP_DOWN_MS = 10;

export class InStep {
  constructor(receiver) {
    this.receiver = receiver;
    this.target = 0;
    this.behind = [];
    this.looked = 0;
  }

  // behindMs: how far the newest result is behind the frame that is displayed; NaN where there is none
  frame(behindMs, wanted, nowMs) {
    if (!Number.isNaN(behindMs) && Math.abs(behindMs) < 5000) this.behind.push(behindMs);
    if (nowMs - this.looked < LOOK_MS) return;
    this.looked = nowMs;
    const behind = this.behind.sort((a, b) => a - b);
    this.behind = [];
    this.#set(wanted ? next(this.target, behind) : 0);
  }

  #set(target) {
    this.target = target;
    if ("jitterBufferTarget" in this.receiver) this.receiver.jitterBufferTarget = target;
    else if ("playoutDelayHint" in this.receiver) this.receiver.playoutDelayHint = target / 1000;
  }
}

// The delay that lets nine of ten frames have their result. sorted: how far results were behind, ascending
export function next(target, sorted) {
  if (sorted.length < 3) return target;
  const most = sorted[Math.floor(sorted.length * 0.9)] + MARGIN_MS;
  const step = Math.max(-STEP_DOWN_MS, Math.min(STEP_UP_MS, most));
  return Math.max(0, Math.min(MOST_MS, target + step));
}
