// @ts-check
// The outcomes of frames over time.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bars, kindOf, minutesOf, Seconds, totals } from "../../vision_infer/service/page/state/timeline.js";

const START = Date.parse("2026-01-01T00:00:00Z");

/** @param {number} ms @param {string} outcome */
const frame = (ms, outcome) => ({ outcome, captured: new Date(START + ms).toISOString(), at: "" });

test("frames are counted per second, and recent outcomes are replaced", () => {
  const seconds = new Seconds();
  seconds.put(START, [frame(500, "result"), frame(1200, "paced"), frame(1900, "result")]);
  const stale = { outcome: "stale", captured: null, at: "2026-01-01T00:00:03Z" };
  seconds.put(START + 1100, [frame(1200, "paced"), frame(1900, "result"), frame(1950, "superseded"), stale]);
  const all = bars(seconds.buckets, START + 4500, { ms: 5000, step: 1000 });
  assert.deepEqual(
    all.map(({ outcomes }) => outcomes),
    [{ result: 1 }, { paced: 1, result: 1, superseded: 1 }, {}, { stale: 1 }, {}],
  );
  assert.deepEqual(
    all.map(({ at }) => at - START),
    [0, 1000, 2000, 3000, 4000],
  );
  const sums = [
    ["result", 2],
    ["paced", 1],
    ["superseded", 1],
    ["stale", 1],
  ];
  assert.deepEqual(totals(all), sums);
  seconds.forget(START + 3000);
  assert.equal(seconds.buckets.size, 1);
});

test("minutes are combined into longer bars", () => {
  const minutes = Array.from({ length: 24 }, (_, minute) => ({
    from: new Date(START + minute * 60_000).toISOString(),
    outcomes: { result: 10, failed: minute },
  }));
  const all = bars(minutesOf(minutes), START + 23.5 * 60_000, { ms: 24 * 60_000, step: 12 * 60_000 });
  assert.deepEqual(
    all.map(({ outcomes }) => outcomes),
    [
      { result: 120, failed: 66 },
      { result: 120, failed: 210 },
    ],
  );
});

test("each outcome has a severity", () => {
  assert.deepEqual(["result", "paced", "failed", "superseded", "new"].map(kindOf), ["good", "skipped", "failed", "lost", "lost"]);
});
