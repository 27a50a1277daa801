// @ts-check
// Converts the RTP timestamp of a displayed frame to its presentation time. Pure: no clock, no DOM.

/** @import { Anchor, FrameTime, RowTimes } from "../transport/api.js" */

const MAX_ANCHORS = 64;

// Anchors map RTP timestamps (32 bits, wrapping) to times.
export class Anchors {
  constructor() {
    /** @type {Anchor[]} */
    this.kept = [];
  }

  /** @param {Anchor} anchor */
  add(anchor) {
    if (!Number.isFinite(anchor.rtp) || !Number.isFinite(anchor.pts_ns) || !(anchor.clock_rate > 0)) return;
    this.kept.push(anchor);
    if (this.kept.length > MAX_ANCHORS) this.kept.shift();
  }

  /** The time of a frame; null without an anchor. @param {number} rtp @returns {FrameTime | null} */
  timeOf(rtp) {
    /** @type {Anchor | null} */
    let best = null;
    let bestTicks = 0;
    for (const anchor of this.kept) {
      const ticks = ticksBetween(anchor.rtp, rtp);
      // the newest anchor at or before the frame; if there is none, the nearest
      if (best === null || (ticks >= 0 ? bestTicks < 0 || ticks <= bestTicks : bestTicks < 0 && ticks >= bestTicks)) {
        best = anchor;
        bestTicks = ticks;
      }
    }
    if (best === null) return null;
    const ms = (bestTicks / best.clock_rate) * 1000;
    if (best.by === "captured" && best.captured_ns_utc !== null) return { ms: best.captured_ns_utc / 1e6 + ms, by: "captured" };
    return { ms: best.pts_ns / 1e6 + ms, by: "pts" };
  }
}

/** The signed difference of two RTP timestamps, which wrap at 32 bits. @param {number} from @param {number} to */
export function ticksBetween(from, to) {
  return (to - from) | 0;
}

/** The times of a row in milliseconds; NaN if it has none. @param {RowTimes} row */
export function timesOf(row) {
  return {
    pts: row.pts_s === null || row.pts_s === undefined ? NaN : row.pts_s * 1000,
    captured: row.captured_at ? Date.parse(row.captured_at) : NaN,
  };
}
