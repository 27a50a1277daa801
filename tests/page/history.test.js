// @ts-check
// The latency of results over time, and the delay of the video.

import assert from "node:assert/strict";
import { test } from "node:test";

import { History } from "../../vision_infer/service/page/state/history.js";
import { next, VideoDelay } from "../../vision_infer/service/page/state/video_delay.js";

test("the history holds the mean and the maximum age per bucket", () => {
  const history = new History(1000, 2);
  for (const age_ms of [10, 30]) history.push({ age_ms, latency_ms: { decode: age_ms / 2 } }, 1500);
  history.push({ latency_ms: {} }, 1600); // a row without an age, as of a file
  const [empty, last] = history.series(2400, 3).slice(0, 2);
  assert.equal(empty.bucket, null);
  assert.equal(last.at, 1000);
  assert.deepEqual([last.bucket?.count, last.bucket?.age, last.bucket?.oldest, last.bucket?.stages.decode], [2, 20, 30, 10]);
});

test("the history keeps a maximum number of buckets", () => {
  const history = new History(1000, 2);
  for (const second of [1, 2, 3]) history.push({ age_ms: 5, latency_ms: {} }, second * 1000);
  assert.deepEqual(
    history.buckets.map(({ at }) => at),
    [2000, 3000],
  );
});

test("the video is delayed no longer than needed", () => {
  assert.equal(next(0, [40, 40, 40, 40]), 52);
  assert.equal(next(0, [-40, -20, -20]), 0);
  assert.equal(next(100, [-60, -60, -60]), 76);
  assert.equal(next(450, [-400, -400, -400]), 400);
  assert.equal(next(450, [400, 400, 400]), 500);
  assert.equal(next(80, []), 80);
});

test("the delay is applied to the receiver once a second, and removed if it is switched off", () => {
  const receiver = { jitterBufferTarget: 0 };
  const delay = new VideoDelay(receiver, { late: () => 40 });
  /** @type {import("../../vision_infer/service/page/transport/api.js").FrameTime} */
  const time = { ms: 0, by: "pts" };
  for (let ms = 1000; ms <= 2000; ms += 100) delay.frame(time, true, ms);
  assert.equal(receiver.jitterBufferTarget, 52);
  delay.frame(time, false, 3000);
  assert.equal(receiver.jitterBufferTarget, 0);
});

test("the history begins with the frames that the service recorded", () => {
  const history = new History(1000, 10);
  history.push({ age_ms: 50, latency_ms: { decode: 5 } }, 5500);
  const since_capture_ms = {
    decode_start: 0,
    decode_end: 4,
    preprocess_start: 6,
    preprocess_end: 7,
    inference_start: 10,
    inference_end: 30,
    result: 32,
  };
  const at = (/** @type {number} */ ms) => new Date(ms).toISOString();
  const past = [
    { at: at(13200), age_ms: 32, since_capture_ms },
    { at: at(13300), age_ms: null, since_capture_ms: {} },
    { at: at(15600), age_ms: 99, since_capture_ms },
  ];
  history.fill(past, 10000);
  assert.deepEqual(
    history.buckets.map((bucket) => [bucket.at, bucket.count, bucket.age]),
    [
      [3000, 1, 32],
      [5000, 1, 50],
    ],
  );
  const { decode, queue, preprocess, inference, postprocess } = history.buckets[0].stages;
  assert.deepEqual([decode, queue, preprocess, inference, postprocess], [4, 5, 1, 20, 2]);
});
