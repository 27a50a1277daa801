// @ts-check
// Latency of a stream's results over the last minutes, in buckets of fixed length. Pure.

/** @import { RowLatency } from "../transport/api.js" */
/** @typedef {{ at: number, count: number, age: number, oldest: number, stages: Record<string, number> }} Bucket */

/** @typedef {{ at: string, age_ms: number | null, since_capture_ms: Record<string, number> }} PastFrame a frame recorded by the service */

export const STAGES = ["decode", "queue", "preprocess", "inference", "postprocess", "secondary"];

// The mean and the maximum age of results, by time.
export class History {
  /**
   * @param {number} bucketMs the length of a bucket
   * @param {number} max the number of buckets that are kept
   */
  constructor(bucketMs, max) {
    this.bucketMs = bucketMs;
    this.max = max;
    /** @type {Bucket[]} */
    this.buckets = [];
  }

  /** @param {RowLatency} row @param {number} nowMs */
  push(row, nowMs) {
    if (row.age_ms === undefined) return;
    const at = Math.floor(nowMs / this.bucketMs) * this.bucketMs;
    let last = this.buckets.at(-1);
    if (!last || last.at < at) {
      last = { at, count: 0, age: 0, oldest: 0, stages: {} };
      this.buckets.push(last);
      if (this.buckets.length > this.max) this.buckets.shift();
    }
    last.count += 1;
    last.age += (row.age_ms - last.age) / last.count;
    last.oldest = Math.max(last.oldest, row.age_ms);
    for (const stage of STAGES) {
      const spent = row.latency_ms[stage] ?? 0;
      last.stages[stage] = (last.stages[stage] ?? 0) + (spent - (last.stages[stage] ?? 0)) / last.count;
    }
  }

  /**
   * Add the frames that the service recorded before the first row arrived.
   * @param {PastFrame[]} frames by time
   * @param {number} aheadMs the offset of the service's clock to the local one
   */
  fill(frames, aheadMs) {
    const first = this.buckets[0]?.at ?? Infinity;
    const past = new History(this.bucketMs, this.max);
    for (const { at, age_ms, since_capture_ms } of frames) {
      const ms = Date.parse(at) - aheadMs;
      if (age_ms !== null && ms < first) past.push({ age_ms, latency_ms: stagesOf(since_capture_ms) }, ms);
    }
    this.buckets.unshift(...past.buckets);
  }

  /**
   * The last buckets up to now, one per interval; null for an interval without results.
   * @param {number} nowMs
   * @param {number} count
   */
  series(nowMs, count) {
    const end = Math.floor(nowMs / this.bucketMs) * this.bucketMs;
    const byTime = new Map(this.buckets.map((bucket) => [bucket.at, bucket]));
    return Array.from({ length: count }, (_, index) => {
      const at = end - (count - 1 - index) * this.bucketMs;
      return { at, bucket: byTime.get(at) ?? null };
    });
  }
}

/**
 * The durations of the stages. The service does not record the times after the engine: all of that is postprocessing here.
 * @param {Record<string, number>} times ms after capture
 */
function stagesOf(times) {
  /** @param {string} from @param {string} to */
  const spent = (from, to) => (times[to] ?? 0) - (times[from] ?? 0);
  /** @type {Record<string, number>} */
  const stages = {
    decode: spent("decode_start", "decode_end"),
    preprocess: spent("preprocess_start", "preprocess_end"),
    inference: spent("inference_start", "inference_end"),
    postprocess: spent("inference_end", "result"),
  };
  const known = Object.values(stages).reduce((sum, value) => sum + value, 0);
  return { ...stages, queue: spent("decode_start", "result") - known };
}
