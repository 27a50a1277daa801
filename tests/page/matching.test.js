// @ts-check
// The boxes of a displayed frame.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Matching, overlap } from "../../vision_infer/service/page/state/matching.js";

/** @param {number} ptsS @param {[number, number[]][]} boxes */
function row(ptsS, ...boxes) {
  const detections = boxes.map(([track_id, box]) => ({
    class_id: 0,
    label: "ball",
    score: 0.9,
    box,
    ...(track_id && { track_id }),
  }));
  return { pts_s: ptsS, model: "m", width: 640, height: 360, detections, latency_ms: {} };
}

/** @param {object[]} rows @param {number} ms @param {string} mode @param {"pts" | "captured"} by */
function at(rows, ms, mode = "interpolate", by = "pts") {
  const matching = new Matching();
  for (const each of /** @type {any[]} */ (rows)) matching.push(each, 0);
  return matching.at({ ms, by }, mode);
}

/** @param {number[]} actual @param {number[]} expected */
function near(actual, expected) {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, index) => assert.ok(Math.abs(value - expected[index]) < 1e-6, `${actual} is not ${expected}`));
}

const MOVING = [row(1, [1, [0, 0, 10, 10]]), row(1.2, [1, [60, 0, 70, 10]])];

test("a frame with its own result has exact boxes", () => {
  const rows = [row(1, [1, [0, 0, 10, 10]]), row(1.033333, [1, [6, 0, 16, 10]]), row(1.066667, [1, [12, 0, 22, 10]])];
  const { exact, found } = at(rows, 1033.33);
  assert.ok(exact);
  assert.deepEqual(
    found.map(({ box }) => box),
    [[6, 0, 16, 10]],
  );
  assert.equal(at(rows, 990).row, null, "there is no row before the first result");
});

test("a row is found by its capture time", () => {
  const captured = { ...row(1, [1, [0, 0, 9, 9]]), captured_at: "2025-11-24T16:00:00.100Z" };
  assert.ok(at([captured], 1_764_000_000_100, "interpolate", "captured").exact);
});

test("a track is interpolated between results", () => {
  const { exact, found } = at(MOVING, 1050);
  assert.ok(!exact);
  near(found[0].box, [15, 0, 25, 10]);
  assert.deepEqual(found[0].from, [0, 0, 10, 10]); // masks and keypoints move from there
  assert.equal(found[0].alpha, 1);
});

test("a track is extrapolated after the newest result and fades out", () => {
  const [soon, later, late] = [1300, 1700, 2000].map((ms) => at(MOVING, ms).found);
  near(soon[0].box, [90, 0, 100, 10]);
  near(later[0].box, [150, 0, 160, 10]); // at most 1.5 times the interval of the results
  near([later[0].alpha], [0.5]);
  assert.deepEqual(late, []);
});

test("in the mode fade, boxes keep their position and fade out", () => {
  const [only, ...others] = at(MOVING, 1100, "fade").found;
  assert.deepEqual(others, []);
  assert.deepEqual(only.box, [0, 0, 10, 10]);
  near([only.alpha], [0.75]);
});

test("detections without tracks are paired by class and overlap", () => {
  const rows = [
    row(1, [0, [0, 0, 100, 100]], [0, [300, 0, 400, 100]]),
    row(1.1, [0, [310, 0, 410, 100]], [0, [10, 0, 110, 100]]),
  ];
  const lefts = at(rows, 1050).found.map(({ box }) => box[0]);
  near(
    lefts.sort((a, b) => a - b),
    [5, 305],
  );
});

test("new tracks fade in and lost tracks fade out", () => {
  const { found } = at([row(1, [1, [0, 0, 10, 10]]), row(1.1, [2, [300, 0, 310, 10]])], 1075);
  const alpha = new Map(found.map((detection) => [detection.track_id, detection.alpha]));
  near([alpha.get(1) ?? NaN, alpha.get(2) ?? NaN], [0.25, 0.75]);
});

test("a reconnected camera starts a new timeline", () => {
  const rows = [row(100, [1, [0, 0, 10, 10]]), row(0.5, [1, [50, 0, 60, 10]])];
  assert.deepEqual(at(rows, 100_000).found, []);
  assert.ok(at(rows, 500).exact);
});

test("the number of kept rows is bounded", () => {
  const matching = new Matching();
  for (let index = 0; index < 5000; index++) matching.push(row(index / 100), 0);
  assert.ok(matching.rows.length <= 600);
});

test("a result is late if it arrives after its frame was displayed", () => {
  const matching = new Matching();
  assert.deepEqual(matching.late({ ms: 0, by: "pts" }, 500, 600), NaN);
  matching.push(row(0), 490);
  matching.push(row(0.1), 620);
  assert.equal(matching.late({ ms: 0, by: "pts" }, 500, 1000), -10);
  assert.equal(matching.late({ ms: 50, by: "pts" }, 550, 1000), 70); // between two results: complete with the later one
  assert.equal(matching.late({ ms: 100, by: "pts" }, 600, 1000), 20);
  assert.equal(matching.late({ ms: 200, by: "pts" }, 700, 1000), 300); // has not arrived
  assert.deepEqual(matching.late({ ms: 9000, by: "pts" }, 700, 1000), NaN);
  assert.deepEqual(matching.late({ ms: 0, by: "captured" }, 500, 1000), NaN);
});

test("trails follow the lower edge of the boxes up to the displayed frame", () => {
  const matching = new Matching();
  for (const each of MOVING) matching.push(each, 0);
  assert.deepEqual([...matching.trails({ ms: 1100, by: "pts" })], [[1, [[5, 10]]]]);
  assert.deepEqual(
    [...matching.trails({ ms: 1200, by: "pts" })],
    [
      [
        1,
        [
          [5, 10],
          [65, 10],
        ],
      ],
    ],
  );
});

test("overlap is the intersection over the union", () => {
  near([overlap([0, 0, 10, 10], [5, 0, 15, 10])], [1 / 3]);
  assert.equal(overlap([0, 0, 10, 10], [10, 0, 20, 10]), 0);
});
