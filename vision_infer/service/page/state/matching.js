// Which boxes belong to the frame that is displayed. Matched by time, never by arrival. Pure: no clock, no DOM.

import { timesOf } from "./timing.js";

const KEPT_MS = 4000;
const MOST_ROWS = 600;
const SAME_MS = 4; // rounding of times on their way: RTP ticks, microseconds, milliseconds
const JUMP_MS = 1000; // a row that is so much older begins a new timeline: the camera came back
const LONGEST_GAP_MS = 1500; // between results; what is farther apart is not joined
const FADE_MS = 400;
const TRAIL_MS = 3000;

export class Matching {
  constructor() {
    this.rows = []; // { row, pts, captured, pairs }, ascending
  }

  push(row) {
    const entry = { row, ...timesOf(row), pairs: null };
    const last = this.rows.at(-1);
    if (last && (entry.pts < last.pts - JUMP_MS || entry.captured < last.captured - JUMP_MS)) this.rows = [];
    this.rows.push(entry);
    const oldest = (one) => (Number.isNaN(entry.pts) ? entry.captured - one.captured : entry.pts - one.pts);
    while (this.rows.length > MOST_ROWS || (this.rows.length > 2 && oldest(this.rows[0]) > KEPT_MS)) this.rows.shift();
  }

  get newest() {
    return this.rows.at(-1) ?? null;
  }

  // How far the newest row is behind a frame, ms; negative: ahead of it. NaN without rows.
  behind(time) {
    return this.newest ? time.ms - this.newest[time.by] : NaN;
  }

  // The boxes of a frame.
  // time: { ms, by }; mode: "interpolate" moves tracks between results and a little beyond, "fade" lets them fade.
  // returns { row, exact, found: [{ box, label, score, track_id, class_id, alpha }] }; row is null where nothing fits
  at(time, mode) {
    const index = this.#before(time);
    if (index < 0) return { row: null, exact: false, found: [] };
    const entry = this.rows[index];
    const ahead = time.ms - entry[time.by];
    if (ahead <= SAME_MS) return { row: entry.row, exact: true, found: entry.row.detections.map((one) => ({ ...one, alpha: 1 })) };
    const next = this.rows[index + 1];
    const found = mode === "fade" ? faded(entry, ahead) : this.#moved(index, next, time, ahead);
    return { row: entry.row, exact: false, found };
  }

  // Where the tracks have been until then: Map of track → [[x, y], …], the point on which they stand, oldest first.
  trails(time) {
    const trails = new Map();
    for (const entry of this.rows) {
      const age = time.ms - entry[time.by];
      if (age < -SAME_MS) break;
      if (age > TRAIL_MS) continue;
      for (const one of entry.row.detections) {
        if (!one.track_id) continue;
        const points = trails.get(one.track_id) ?? trails.set(one.track_id, []).get(one.track_id);
        points.push([(one.box[0] + one.box[2]) / 2, one.box[3]]);
      }
    }
    return trails;
  }

  #before(time) {
    for (let index = this.rows.length - 1; index >= 0; index--) {
      if (this.rows[index][time.by] <= time.ms + SAME_MS) return index;
    }
    return -1;
  }

  #moved(index, next, time, ahead) {
    const entry = this.rows[index];
    if (next && next[time.by] - entry[time.by] <= LONGEST_GAP_MS) {
      const part = ahead / (next[time.by] - entry[time.by]);
      return between(entry, next, part);
    }
    const before = this.rows[index - 1];
    const interval = before ? entry[time.by] - before[time.by] : 0;
    if (!before || interval > LONGEST_GAP_MS || interval <= 0) return faded(entry, ahead);
    const reach = Math.min(Math.max(1.5 * interval, 100), 500); // beyond that, nobody knows
    const alpha = ahead <= reach ? 1 : Math.max(0, 1 - (ahead - reach) / FADE_MS);
    return beyond(before, entry, Math.min(ahead, reach) / interval, alpha);
  }
}

function faded(entry, ahead) {
  const alpha = Math.max(0, 1 - ahead / FADE_MS);
  return alpha > 0 ? entry.row.detections.map((one) => ({ ...one, alpha })) : [];
}

function between(entry, next, part) {
  const pairs = pairsOf(entry, next);
  const found = entry.row.detections.map((one, index) => {
    const other = next.row.detections[pairs.get(index)];
    return other ? { ...one, box: mixed(one.box, other.box, part), alpha: 1 } : { ...one, alpha: 1 - part };
  });
  const known = new Set(pairs.values());
  next.row.detections.forEach((one, index) => {
    if (!known.has(index)) found.push({ ...one, alpha: part });
  });
  return found.filter((one) => one.alpha > 0.02);
}

function beyond(before, entry, steps, alpha) {
  if (alpha <= 0) return [];
  const pairs = new Map([...pairsOf(before, entry)].map(([from, to]) => [to, from]));
  return entry.row.detections.map((one, index) => {
    const earlier = before.row.detections[pairs.get(index)];
    return { ...one, box: earlier ? mixed(earlier.box, one.box, 1 + steps) : one.box, alpha };
  });
}

function mixed(from, to, part) {
  return from.map((value, index) => value + (to[index] - value) * part);
}

// Which detection of one row is which of the next: by track, else by class and overlap. Kept with the later row.
function pairsOf(entry, next) {
  if (next.pairs?.from === entry) return next.pairs.map;
  const map = new Map();
  const free = new Set(next.row.detections.keys());
  entry.row.detections.forEach((one, index) => {
    if (!one.track_id) return;
    for (const other of free) {
      if (next.row.detections[other].track_id === one.track_id) {
        map.set(index, other);
        free.delete(other);
        break;
      }
    }
  });
  entry.row.detections.forEach((one, index) => {
    if (map.has(index)) return;
    let best = -1;
    let most = 0.1;
    for (const other of free) {
      const candidate = next.row.detections[other];
      if (candidate.class_id !== one.class_id || (candidate.track_id && one.track_id)) continue;
      const share = overlap(one.box, candidate.box);
      if (share > most) [best, most] = [other, share];
    }
    if (best >= 0) {
      map.set(index, best);
      free.delete(best);
    }
  });
  next.pairs = { from: entry, map };
  return map;
}

// Intersection over union.
export function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
