// @ts-check
// Delays the video until results arrive: sets the receiver's jitter buffer to the delay of the results.

const UPDATE_MS = 1000;
const MARGIN_MS = 12;
const MAX_MS = 500;
const STEP_UP_MS = 150;
const STEP_DOWN_MS = 10;

/** @typedef {{ jitterBufferTarget?: number | null, playoutDelayHint?: number }} Receiver a part of RTCRtpReceiver */

export class VideoDelay {
  /** @param {Receiver} receiver */
  constructor(receiver) {
    this.receiver = receiver;
    this.target = 0;
    /** @type {number[]} */
    this.behind = [];
    this.updated = 0;
  }

  /**
   * @param {number} behindMs the delay of the newest result relative to the displayed frame; NaN without a result
   * @param {boolean} wanted
   * @param {number} nowMs
   */
  frame(behindMs, wanted, nowMs) {
    if (!Number.isNaN(behindMs) && Math.abs(behindMs) < 5000) this.behind.push(behindMs);
    if (nowMs - this.updated < UPDATE_MS) return;
    this.updated = nowMs;
    const behind = this.behind.sort((a, b) => a - b);
    this.behind = [];
    this.#set(wanted ? next(this.target, behind) : 0);
  }

  /** @param {number} target */
  #set(target) {
    this.target = target;
    if ("jitterBufferTarget" in this.receiver) this.receiver.jitterBufferTarget = target;
    else if ("playoutDelayHint" in this.receiver) this.receiver.playoutDelayHint = target / 1000;
  }
}

/**
 * The delay at which 90 % of the frames have their result.
 * @param {number} target the current delay
 * @param {number[]} sorted the delays of results, ascending
 */
export function next(target, sorted) {
  if (sorted.length < 3) return target;
  const needed = sorted[Math.floor(sorted.length * 0.9)] + MARGIN_MS;
  const step = Math.max(-STEP_DOWN_MS, Math.min(STEP_UP_MS, needed));
  return Math.max(0, Math.min(MAX_MS, target + step));
}
