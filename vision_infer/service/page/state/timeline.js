// What became of a stream's frames, in buckets of a second or of some minutes. Pure: no clock, no DOM.

const SECOND = 1000;
const MINUTE = 60 * SECOND;

// What can be looked at: how long, and what a bar stands for.
export const SPANS = {
  "2 minutes": { ms: 2 * MINUTE, step: SECOND },
  "2 hours": { ms: 120 * MINUTE, step: MINUTE },
  "24 hours": { ms: 24 * 60 * MINUTE, step: 12 * MINUTE },
};

const WANTED = new Set(["paced", "undecoded", "gated", "hook"]);

// How severe an outcome is: good, wanted (by the settings), lost, failed
export function kindOf(outcome) {
  if (outcome === "emitted") return "good";
  if (WANTED.has(outcome)) return "wanted";
  return outcome === "failed" ? "failed" : "lost";
}

// Frames by second, of the last minutes.
export class Seconds {
  constructor() {
    this.buckets = new Map(); // begin, ms → { outcome: frames }
  }

  // Frames of which all from this time on are there; what was known of them before is superseded.
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

// The service's account by minute as buckets.
export function minutesOf(minutes) {
  return new Map(minutes.map((one) => [Date.parse(one.from), one.outcomes]));
}

// Bars from the oldest to the newest, the last one holding now: { at, outcomes } with no outcomes where nothing is known.
export function bars(buckets, nowMs, { ms, step }) {
  const end = floor(nowMs, step);
  const found = new Map();
  for (const [at, outcomes] of buckets) add(found, floor(at, step), outcomes);
  return Array.from({ length: ms / step }, (_, index) => {
    const at = end - (ms / step - 1 - index) * step;
    return { at, outcomes: found.get(at) ?? {} };
  });
}

// All outcomes that occur, with their numbers: what gave results first, then most first.
export function totals(all) {
  const sum = new Map();
  for (const { outcomes } of all) for (const [outcome, number] of Object.entries(outcomes)) sum.set(outcome, (sum.get(outcome) ?? 0) + number);
  return [...sum].filter(([, number]) => number).sort(([a, one], [b, other]) => (b === "emitted") - (a === "emitted") || other - one);
}

const floor = (value, step) => Math.floor(value / step) * step;

function add(buckets, at, outcomes) {
  const bucket = buckets.get(at) ?? {};
  for (const [outcome, number] of Object.entries(outcomes)) bucket[outcome] = (bucket[outcome] ?? 0) + number;
  buckets.set(at, bucket);
}
