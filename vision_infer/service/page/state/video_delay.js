// @ts-check
// Delays the video until results arrive: sets the receiver's jitter buffer to the delay of the results.

const UPDATE_MS = 1000;
const MARGIN_MS = 12;
const MAX_MS = 500;
const STEP_UP_MS = 150;
const STEP_DOWN_MS = 50;

/** @import { FrameTime } from "../transport/api.js" */
/** @import { Matching } from "./matching.js" */
/** @typedef {{ jitterBufferTarget?: number | null, playoutDelayHint?: number }} Receiver a part of RTCRtpReceiver */

export class VideoDelay {
  /** @param {Receiver} receiver @param {Pick<Matching, "late">} matching */
  constructor(receiver, matching) {
    this.receiver = receiver;
    this.matching = matching;
    this.target = 0;
    /** @type {{ time: FrameTime, at: number }[]} the frames displayed since the last update */
    this.shown = [];
    this.updated = 0;
  }

  /** @param {FrameTime} time the displayed frame @param {boolean} wanted @param {number} nowMs */
  frame(time, wanted, nowMs) {
    this.shown.push({ time, at: nowMs });
    if (nowMs - this.updated < UPDATE_MS) return;
    this.updated = nowMs;
    const due = this.shown.filter(({ at }) => at <= nowMs - MAX_MS); // the results of later frames may still arrive
    const late = due.map(({ time, at }) => this.matching.late(time, at, nowMs)).filter((ms) => !Number.isNaN(ms));
    this.shown = [];
    this.#set(wanted ? next(this.target, late) : 0);
  }

  /** @param {number} target */
  #set(target) {
    this.target = target;
    if ("jitterBufferTarget" in this.receiver) this.receiver.jitterBufferTarget = target;
    else if ("playoutDelayHint" in this.receiver) this.receiver.playoutDelayHint = target / 1000;
  }
}

/**
 * The delay at which 90 % of the frames have their result in time.
 * @param {number} target the current delay
 * @param {number[]} late the time from each frame to its result
 */
export function next(target, late) {
  if (late.length < 3) return target;
  const sorted = late.toSorted((a, b) => a - b);
  const needed = sorted[Math.floor(sorted.length * 0.9)] + MARGIN_MS;
  // Half of a surplus is kept until the next update, because it may be chance.
  const step = Math.max(-STEP_DOWN_MS, Math.min(STEP_UP_MS, needed < 0 ? needed / 2 : needed));
  return Math.max(0, Math.min(MAX_MS, target + step));
}
