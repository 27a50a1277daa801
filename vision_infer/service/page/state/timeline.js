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

// How grave a fate is: good, wanted (by the settings), lost, failed
export function kindOf(fate) {
  if (fate === "emitted") return "good";
  if (WANTED.has(fate)) return "wanted";
  return fate === "failed" ? "failed" : "lost";
}

// Frames by second, of the last minutes.
export class Seconds {
  constructor() {
    this.buckets = new Map(); // begin, ms → { fate: frames }
  }

  // Frames of which all from this time on are there; what was known of them before is superseded.
  put(fromMs, frames) {
    const begin = floor(fromMs, SECOND);
    for (const at of this.buckets.keys()) if (at >= begin) this.buckets.delete(at);
    for (const frame of frames) {
      const at = floor(Date.parse(frame.captured ?? frame.at), SECOND);
      if (at >= begin) add(this.buckets, at, { [frame.fate]: 1 });
    }
  }

  forget(beforeMs) {
    for (const at of this.buckets.keys()) if (at < beforeMs) this.buckets.delete(at);
  }
}

// The service's account by minute as buckets.
export function minutesOf(minutes) {
  return new Map(minutes.map((one) => [Date.parse(one.from), one.fates]));
}

// Bars from the oldest to the newest, the last one holding now: { at, fates } with no fates where nothing is known.
export function bars(buckets, nowMs, { ms, step }) {
  const end = floor(nowMs, step);
  const found = new Map();
  for (const [at, fates] of buckets) add(found, floor(at, step), fates);
  return Array.from({ length: ms / step }, (_, index) => {
    const at = end - (ms / step - 1 - index) * step;
    return { at, fates: found.get(at) ?? {} };
  });
}

// All fates that occur, with their numbers: what gave results first, then most first.
export function totals(all) {
  const sum = new Map();
  for (const { fates } of all) for (const [fate, number] of Object.entries(fates)) sum.set(fate, (sum.get(fate) ?? 0) + number);
  return [...sum].filter(([, number]) => number).sort(([a, one], [b, other]) => (b === "emitted") - (a === "emitted") || other - one);
}

const floor = (value, step) => Math.floor(value / step) * step;

function add(buckets, at, fates) {
  const bucket = buckets.get(at) ?? {};
  for (const [fate, number] of Object.entries(fates)) bucket[fate] = (bucket[fate] ?? 0) + number;
  buckets.set(at, bucket);
}
