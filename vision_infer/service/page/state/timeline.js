// Outcomes of a stream's frames, in buckets of a second or of minutes. Pure: no clock, no DOM.

const SECOND = 1000;
const MINUTE = 60 * SECOND;

// The time ranges of the timeline: their length, and the length of a bar.
export const SPANS = {
  "2 minutes": { ms: 2 * MINUTE, step: SECOND },
  "2 hours": { ms: 120 * MINUTE, step: MINUTE },
  "24 hours": { ms: 24 * 60 * MINUTE, step: 12 * MINUTE },
};

const SKIPPED = new Set(["paced", "undecoded", "gated", "hook"]);

// The severity of an outcome: good, skipped (by the settings), lost, failed
export function kindOf(outcome) {
  if (outcome === "emitted") return "good";
  if (SKIPPED.has(outcome)) return "skipped";
  return outcome === "failed" ? "failed" : "lost";
}

// The number of frames per second and outcome, for the last minutes.
export class Seconds {
  constructor() {
    this.buckets = new Map(); // start, ms → { outcome: frames }
  }

  // Replace everything from this time on: the outcome of a recent frame may have changed.
  put(fromMs, frames) {
    const begin = floor(fromMs, SECOND);
    for (const at of this.buckets.keys()) if (at >= begin) this.buckets.delete(at);
    for (const frame of frames) {
      const at = floor(Date.parse(frame.captured ?? frame.at), SECOND);
      if (at >= begin) add(this.buckets, at, { [frame.outcome]: 1 });
    }
  }

  forget(beforeMs) {
    for (const at of this.buckets.keys()) if (at < beforeMs) this.buckets.delete(at);
  }
}

// The service's counts per minute, as buckets.
export function minutesOf(minutes) {
  return new Map(minutes.map((minute) => [Date.parse(minute.from), minute.outcomes]));
}

// Bars from the oldest to the newest, the last one includes now: { at, outcomes }; outcomes is empty if nothing is known.
export function bars(buckets, nowMs, { ms, step }) {
  const end = floor(nowMs, step);
  const found = new Map();
  for (const [at, outcomes] of buckets) add(found, floor(at, step), outcomes);
  return Array.from({ length: ms / step }, (_, index) => {
    const at = end - (ms / step - 1 - index) * step;
    return { at, outcomes: found.get(at) ?? {} };
  });
}

// All outcomes with their number of frames: results first, then in descending order.
export function totals(all) {
  const sum = new Map();
  for (const { outcomes } of all)
    for (const [outcome, number] of Object.entries(outcomes)) sum.set(outcome, (sum.get(outcome) ?? 0) + number);
  return [...sum]
    .filter(([, number]) => number)
    .sort(([a, countA], [b, countB]) => (b === "emitted") - (a === "emitted") || countB - countA);
}

const floor = (value, step) => Math.floor(value / step) * step;

function add(buckets, at, outcomes) {
  const bucket = buckets.get(at) ?? {};
  for (const [outcome, number] of Object.entries(outcomes)) bucket[outcome] = (bucket[outcome] ?? 0) + number;
  buckets.set(at, bucket);
}
