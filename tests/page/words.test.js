// @ts-check
// Texts of the page.

import assert from "node:assert/strict";
import { test } from "node:test";

import { reasonOf, withoutWait } from "../../vision_infer/service/page/views/words.js";

/** @import { Status } from "../../vision_infer/service/page/transport/api.js" */

test("the time until the next attempt counts down", () => {
  const since = new Date(100_000).toISOString();
  const status = (/** @type {string} */ reason) => /** @type {Status} */ (/** @type {unknown} */ ({ reason, since }));
  const refused = status("wrong user or password; next attempt in 60.0 s");
  assert.equal(reasonOf(refused, 100_000), "wrong user or password; next attempt in 60 s");
  assert.equal(reasonOf(refused, 118_500), "wrong user or password; next attempt in 42 s");
  assert.equal(reasonOf(refused, 161_000), "wrong user or password; next attempt now");
  assert.equal(reasonOf(refused, 90_000), "wrong user or password; next attempt in 60 s");
  assert.equal(reasonOf(status("It is away. Next attempt in 0.5 s."), 100_000), "It is away. Next attempt in 1 s.");
  assert.equal(reasonOf(status("connection refused"), 100_000), "connection refused");
  assert.equal(reasonOf(null), "");
  assert.equal(withoutWait("wrong user or password; next attempt in 60.0 s"), "wrong user or password");
  assert.equal(withoutWait("Check that it is on. Next attempt in 0.5 s."), "Check that it is on.");
});
