// @ts-check
// The conversion of RTP timestamps to presentation times.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Anchors } from "../../vision_infer/service/page/state/timing.js";

/** @param {number} rtp @param {number} ptsMs @param {object} more */
const anchor = (rtp, ptsMs, more = {}) => ({
  rtp,
  pts_ns: ptsMs * 1e6,
  captured_ns_utc: null,
  clock_rate: 90_000,
  by: "pts",
  ...more,
});

/** @param {ReturnType<typeof anchor>[]} anchors @param {number} rtp */
function timeOf(anchors, rtp) {
  const known = new Anchors();
  for (const each of anchors) known.add(each);
  return known.timeOf(rtp);
}

/** @param {number | undefined} actual @param {number} expected */
const near = (actual, expected) => assert.ok(Math.abs(Number(actual) - expected) < 0.01, `${actual} is not ${expected}`);

test("an anchor gives the time of frames around it", () => {
  assert.equal(timeOf([], 90_000), null);
  assert.deepEqual(timeOf([anchor(90_000, 5000)], 90_000), { ms: 5000, by: "pts" });
  near(timeOf([anchor(90_000, 5000)], 93_000)?.ms, 5033.333);
  near(timeOf([anchor(90_000, 5000)], 87_000)?.ms, 4966.667);
});

test("RTP timestamps wrap at 32 bits", () => {
  near(timeOf([anchor(2 ** 32 - 1500, 1000)], 1500)?.ms, 1000 + 3000 / 90);
  near(timeOf([anchor(1500, 1000)], 2 ** 32 - 1500)?.ms, 1000 - 3000 / 90);
});

test("the newest anchor before the frame is used, because the times of a stream can jump", () => {
  const anchors = [anchor(1000, 0), anchor(10_000, 7000), anchor(20_000, 100)];
  near(timeOf(anchors, 9100)?.ms, 90);
  near(timeOf(anchors, 10_900)?.ms, 7010);
  near(timeOf(anchors, 20_900)?.ms, 110);
  near(timeOf(anchors, 910)?.ms, -1);
});

test("a stream without presentation times uses the capture time", () => {
  const time = timeOf([anchor(0, 0, { by: "captured", captured_ns_utc: 1_764_000_000_000 * 1e6 })], 9000);
  assert.equal(time?.by, "captured");
  near(time?.ms, 1_764_000_000_100);
});

test("invalid anchors are ignored", () => {
  assert.equal(timeOf([anchor(NaN, 0), anchor(0, NaN), anchor(0, 0, { clock_rate: 0 })], 0), null);
});
