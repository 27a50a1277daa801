// @ts-check
// Finds the boxes of the displayed frame: by the time of the frame, never by the order of arrival. Pure: no clock, no DOM.

import { timesOf } from "./timing.js";

/** @import { DrawnDetection, FrameRow, FrameTime } from "../transport/api.js" */
/**
 * @typedef {{
 *   row: FrameRow, pts: number, captured: number, arrived: number, pairs: { from: Entry, map: Map<number, number> } | null
 * }} Entry
 */
/**
 * @typedef {{ row: FrameRow | null, exact: boolean, found: DrawnDetection[] }} Match
 *   row is null if there is none for the time
 */

const KEPT_MS = 4000;
const MAX_ROWS = 600;
const SAME_MS = 4; // tolerance for rounding: RTP ticks, microseconds, milliseconds
const JUMP_MS = 1000; // a row that is older by this much starts a new timeline: the camera has reconnected
const MAX_GAP_MS = 1500; // results that are farther apart are not interpolated
const GONE_MS = 5000; // results that are older do not belong to the video
const FADE_MS = 400;
const TRAIL_MS = 3000;

export class Matching {
  constructor() {
    /** @type {Entry[]} in ascending order of time */
    this.rows = [];
  }

  /** @param {FrameRow} row @param {number} nowMs the time of its arrival */
  push(row, nowMs) {
    /** @type {Entry} */
    const entry = { row, ...timesOf(row), arrived: nowMs, pairs: null };
    const last = this.rows.at(-1);
    if (last && (entry.pts < last.pts - JUMP_MS || entry.captured < last.captured - JUMP_MS)) this.rows = [];
    this.rows.push(entry);
    /** @param {Entry} earlier */
    const ageOf = (earlier) => (Number.isNaN(entry.pts) ? entry.captured - earlier.captured : entry.pts - earlier.pts);
    while (this.rows.length > MAX_ROWS || (this.rows.length > 2 && ageOf(this.rows[0]) > KEPT_MS)) this.rows.shift();
  }

  get newest() {
    return this.rows.at(-1) ?? null;
  }

  /**
   * How long after a frame was displayed its result arrived, ms; negative if before. A result that has not arrived counts as
   * arriving now. NaN without results.
   * @param {FrameTime} time
   * @param {number} shownMs
   * @param {number} nowMs
   */
  late(time, shownMs, nowMs) {
    const newest = this.newest;
    if (!newest || !(time.ms - newest[time.by] <= GONE_MS)) return NaN;
    const complete = this.rows.find((entry) => entry[time.by] >= time.ms - SAME_MS);
    return (complete ? complete.arrived : nowMs) - shownMs;
  }

  /**
   * Return the boxes of a frame.
   * @param {FrameTime} time
   * @param {string} mode "interpolate" moves boxes between results and extrapolates briefly, "fade" fades them out
   * @returns {Match}
   */
  at(time, mode) {
    const index = this.#before(time);
    if (index < 0) return { row: null, exact: false, found: [] };
    const entry = this.rows[index];
    const ahead = time.ms - entry[time.by];
    if (ahead <= SAME_MS)
      return { row: entry.row, exact: true, found: entry.row.detections.map((detection) => ({ ...detection, alpha: 1 })) };
    const next = this.rows[index + 1];
    const found = mode === "fade" ? faded(entry, ahead) : this.#moved(index, next, time, ahead);
    return { row: entry.row, exact: false, found };
  }

  /** The positions of each track up to this time: the middle of the lower edge, oldest first. @param {FrameTime} time */
  trails(time) {
    /** @type {Map<number, number[][]>} */
    const trails = new Map();
    for (const entry of this.rows) {
      const age = time.ms - entry[time.by];
      if (age < -SAME_MS) break;
      if (age > TRAIL_MS) continue;
      for (const detection of entry.row.detections) {
        if (!detection.track_id) continue;
        const points = trails.get(detection.track_id) ?? [];
        trails.set(detection.track_id, points);
        points.push([(detection.box[0] + detection.box[2]) / 2, detection.box[3]]);
      }
    }
    return trails;
  }

  /** @param {FrameTime} time */
  #before(time) {
    for (let index = this.rows.length - 1; index >= 0; index--) {
      if (this.rows[index][time.by] <= time.ms + SAME_MS) return index;
    }
    return -1;
  }

  /** @param {number} index @param {Entry | undefined} next @param {FrameTime} time @param {number} ahead */
  #moved(index, next, time, ahead) {
    const entry = this.rows[index];
    if (next && next[time.by] - entry[time.by] <= MAX_GAP_MS) {
      const fraction = ahead / (next[time.by] - entry[time.by]);
      return between(entry, next, fraction);
    }
    const before = this.rows[index - 1];
    const interval = before ? entry[time.by] - before[time.by] : 0;
    if (!before || interval > MAX_GAP_MS || interval <= 0) return faded(entry, ahead);
    const reach = Math.min(Math.max(1.5 * interval, 100), 500); // no extrapolation beyond this
    const alpha = ahead <= reach ? 1 : Math.max(0, 1 - (ahead - reach) / FADE_MS);
    return beyond(before, entry, Math.min(ahead, reach) / interval, alpha);
  }
}

/** @param {Entry} entry @param {number} ahead @returns {DrawnDetection[]} */
function faded(entry, ahead) {
  const alpha = Math.max(0, 1 - ahead / FADE_MS);
  return alpha > 0 ? entry.row.detections.map((detection) => ({ ...detection, alpha })) : [];
}

/** @param {Entry} entry @param {Entry} next @param {number} fraction */
function between(entry, next, fraction) {
  const pairs = pairsOf(entry, next);
  const found = entry.row.detections.map((detection, index) => {
    const match = next.row.detections[pairs.get(index) ?? -1];
    return match
      ? { ...detection, box: interpolated(detection.box, match.box, fraction), from: detection.box, alpha: 1 }
      : { ...detection, alpha: 1 - fraction };
  });
  const paired = new Set(pairs.values());
  next.row.detections.forEach((detection, index) => {
    if (!paired.has(index)) found.push({ ...detection, alpha: fraction });
  });
  return found.filter((detection) => detection.alpha > 0.02);
}

/** @param {Entry} before @param {Entry} entry @param {number} steps @param {number} alpha */
function beyond(before, entry, steps, alpha) {
  if (alpha <= 0) return [];
  const pairs = new Map([...pairsOf(before, entry)].map(([from, to]) => [to, from]));
  return entry.row.detections.map((detection, index) => {
    const earlier = before.row.detections[pairs.get(index) ?? -1];
    const box = earlier ? interpolated(earlier.box, detection.box, 1 + steps) : detection.box;
    return { ...detection, box, from: detection.box, alpha };
  });
}

/** @param {number[]} from @param {number[]} to @param {number} fraction */
function interpolated(from, to, fraction) {
  return from.map((value, index) => value + (to[index] - value) * fraction);
}

/**
 * Pairs of detections in consecutive rows: by track, otherwise by class and overlap. Cached in the later row.
 * @param {Entry} entry
 * @param {Entry} next
 */
function pairsOf(entry, next) {
  if (next.pairs?.from === entry) return next.pairs.map;
  /** @type {Map<number, number>} */
  const map = new Map();
  const free = new Set(next.row.detections.keys());
  entry.row.detections.forEach((detection, index) => {
    if (!detection.track_id) return;
    for (const candidate of free) {
      if (next.row.detections[candidate].track_id === detection.track_id) {
        map.set(index, candidate);
        free.delete(candidate);
        break;
      }
    }
  });
  entry.row.detections.forEach((detection, index) => {
    if (map.has(index)) return;
    let best = -1;
    let bestIou = 0.1;
    for (const other of free) {
      const candidate = next.row.detections[other];
      if (candidate.class_id !== detection.class_id || (candidate.track_id && detection.track_id)) continue;
      const iou = overlap(detection.box, candidate.box);
      if (iou > bestIou) [best, bestIou] = [other, iou];
    }
    if (best >= 0) {
      map.set(index, best);
      free.delete(best);
    }
  });
  next.pairs = { from: entry, map };
  return map;
}

/** Intersection over union. @param {number[]} a @param {number[]} b */
export function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  /** @param {number[]} box */
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
