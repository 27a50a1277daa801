// @ts-check
// Latency of a stream's results over the last minutes, in buckets of fixed length. Pure.

/** @import { RowLatency } from "../transport/api.js" */
/** @typedef {{ at: number, count: number, age: number, oldest: number, stages: Record<string, number> }} Bucket */

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
