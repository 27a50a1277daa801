// @ts-check
// Masks as run lengths, with counts that pycocotools has written.

import assert from "node:assert/strict";
import { test } from "node:test";

import { runsOf } from "../../vision_infer/service/page/state/run_lengths.js";

test("the runs of a mask are vertical and end at the end of the column", () => {
  // columns of 4 pixels: 0011 1100 0110
  assert.deepEqual(runsOf({ size: [4, 3], counts: "243NN" }), [
    [0, 2, 2],
    [1, 0, 2],
    [2, 1, 2],
  ]);
});

test("long runs have several characters, and later ones are differences", () => {
  // 1920x1080: columns 700 to 1499 are in the mask from row 500 to 899
  const runs = runsOf({ size: [1080, 1920], counts: "dhRg0`<Xe" + "0".repeat(1598) + "\\_j=" });
  assert.equal(runs.length, 800);
  assert.deepEqual(
    [runs[0], runs[799]],
    [
      [700, 500, 400],
      [1499, 500, 400],
    ],
  );
});

test("an empty and a full mask", () => {
  assert.deepEqual(runsOf({ size: [2, 3], counts: "6" }), []);
  assert.deepEqual(
    runsOf({ size: [2, 3], counts: "06" }),
    [0, 1, 2].map((x) => [x, 0, 2]),
  );
});
