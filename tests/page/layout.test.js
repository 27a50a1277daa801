// @ts-check
// The tiles of the wall fill the screen.

import assert from "node:assert/strict";
import { test } from "node:test";

import { fitted } from "../../vision_infer/service/page/state/layout.js";

const SIZES = { caption: 120, gap: 10 };

test("tiles are as large as the screen allows", () => {
  assert.deepEqual(fitted(1, { width: 1280, height: 700 }, SIZES), { columns: 1, width: 1031 });
  assert.deepEqual(fitted(2, { width: 1280, height: 700 }, SIZES), { columns: 2, width: 635 });
  assert.deepEqual(fitted(4, { width: 1280, height: 1000 }, SIZES), { columns: 2, width: 635 });
  assert.equal(fitted(5, { width: 1900, height: 1000 }, SIZES).columns, 3);
});

test("too many tiles for the screen would be tiny", () => {
  assert.ok(fitted(40, { width: 1280, height: 700 }, SIZES).width < 200);
  assert.deepEqual(fitted(2, { width: 300, height: 100 }, SIZES), { columns: 1, width: 0 });
});
