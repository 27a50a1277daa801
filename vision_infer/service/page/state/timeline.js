// @ts-check
// Outcomes of a stream's frames, in buckets of a second or of minutes. Pure: no clock, no DOM.

/** @typedef {Record<string, number>} Outcomes the number of frames by outcome */
/** @typedef {{ outcome: string, captured: string | null, at: string }} RecordedFrame */
/** @typedef {{ at: number, outcomes: Outcomes }} Bar */

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/**
 * The time ranges of the timeline: their length, and the length of a bar.
 * @type {Record<string, { ms: number, step: number }>}
 */
export const SPANS = {
  "2 minutes": { ms: 2 * MINUTE, step: SECOND },
  "2 hours": { ms: 120 * MINUTE, step: MINUTE },
  "24 hours": { ms: 24 * 60 * MINUTE, step: 12 * MINUTE },
};

const SKIPPED = new Set(["paced", "undecoded", "gated", "hook"]);

/** The severity of an outcome: good, skipped (by the settings), lost, failed. @param {string} outcome */
export function kindOf(outcome) {
  if (outcome === "result") return "good";
  if (SKIPPED.has(outcome)) return "skipped";
  return outcome === "failed" ? "failed" : "lost";
}

// The number of frames per second and outcome, for the last minutes.
export class Seconds {
  constructor() {
    /** @type {Map<number, Outcomes>} by start, ms */
    this.buckets = new Map();
  }

  /**
   * Replace everything from this time on: the outcome of a recent frame may have changed.
   * @param {number} fromMs
   * @param {RecordedFrame[]} frames
   */
  put(fromMs, frames) {
    const begin = floor(fromMs, SECOND);
    for (const at of this.buckets.keys()) if (at >= begin) this.buckets.delete(at);
    for (const frame of frames) {
      const at = floor(Date.parse(frame.captured ?? frame.at), SECOND);
      if (at >= begin) add(this.buckets, at, { [frame.outcome]: 1 });
    }
  }

  /** @param {number} beforeMs */
  forget(beforeMs) {
    for (const at of this.buckets.keys()) if (at < beforeMs) this.buckets.delete(at);
  }
}

/** The service's counts per minute, as buckets. @param {{ from: string, outcomes: Outcomes }[]} minutes */
export function minutesOf(minutes) {
  return new Map(minutes.map(({ from, outcomes }) => /** @type {const} */ ([Date.parse(from), outcomes])));
}

/**
 * Bars from the oldest to the newest, the last one includes now; outcomes is empty if nothing is known.
 * @param {Map<number, Outcomes>} buckets @param {number} nowMs @param {{ ms: number, step: number }} span
 * @returns {Bar[]}
 */
export function bars(buckets, nowMs, { ms, step }) {
  const end = floor(nowMs, step);
  /** @type {Map<number, Outcomes>} */
  const found = new Map();
  for (const [at, outcomes] of buckets) add(found, floor(at, step), outcomes);
  return Array.from({ length: ms / step }, (_, index) => {
    const at = end - (ms / step - 1 - index) * step;
    return { at, outcomes: found.get(at) ?? {} };
  });
}

/**
 * All outcomes with their number of frames: results first, then in descending order.
 * @param {Bar[]} all
 * @returns {[string, number][]}
 */
export function totals(all) {
  const sum = new Map();
  for (const { outcomes } of all)
    for (const [outcome, number] of Object.entries(outcomes)) sum.set(outcome, (sum.get(outcome) ?? 0) + number);
  return [...sum]
    .filter(([, number]) => number)
    .sort(([a, countA], [b, countB]) => Number(b === "result") - Number(a === "result") || countB - countA);
}

/** @param {number} value @param {number} step */
const floor = (value, step) => Math.floor(value / step) * step;

/** @param {Map<number, Outcomes>} buckets @param {number} at @param {Outcomes} outcomes */
function add(buckets, at, outcomes) {
  const bucket = buckets.get(at) ?? {};
  for (const [outcome, number] of Object.entries(outcomes)) bucket[outcome] = (bucket[outcome] ?? 0) + number;
  buckets.set(at, bucket);
}
