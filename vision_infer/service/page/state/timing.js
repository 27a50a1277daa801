// Converts the RTP timestamp of a displayed frame to its presentation time. Pure: no clock, no DOM.

const MAX_ANCHORS = 64;

// Anchors map RTP timestamps (32 bits, wrapping) to times.
export class Anchors {
  constructor() {
    this.kept = [];
  }

  // anchor: { rtp, pts_ns, captured_ns_utc, clock_rate, by }
  add(anchor) {
    if (!Number.isFinite(anchor.rtp) || !Number.isFinite(anchor.pts_ns) || !(anchor.clock_rate > 0)) return;
    this.kept.push(anchor);
    if (this.kept.length > MAX_ANCHORS) this.kept.shift();
  }

  // The frame's time in milliseconds, and the time of a row to compare it with: "pts" or "captured"; null without an anchor.
  timeOf(rtp) {
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
    const by = best.by === "captured" && best.captured_ns_utc !== null ? "captured" : "pts";
    return { ms: (by === "captured" ? best.captured_ns_utc : best.pts_ns) / 1e6 + ms, by };
  }
}

// The signed difference of two RTP timestamps, which wrap at 32 bits.
export function ticksBetween(from, to) {
  return (to - from) | 0;
}

// The times of a row in milliseconds; NaN if it has none.
export function timesOf(row) {
  return {
    pts: row.pts_s === null || row.pts_s === undefined ? NaN : row.pts_s * 1000,
    captured: row.captured_at ? Date.parse(row.captured_at) : NaN,
  };
}
