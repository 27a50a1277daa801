// @ts-check
// The images of an MJPEG video.

import assert from "node:assert/strict";
import { test } from "node:test";

import { imagesOf } from "../../vision_infer/service/page/transport/images.js";

const encode = (/** @type {string} */ text) => new TextEncoder().encode(text);
const AT = "2026-11-29T12:00:00.040Z";
const part = (/** @type {string} */ body, more = "") =>
  `--frame\r\nContent-Type: image/jpeg\r\nContent-Length: ${body.length}\r\n${more}\r\n${body}\r\n`;

/** @param {string} text @param {number} size the bytes of each read */
async function read(text, size) {
  const bytes = encode(text);
  let at = 0;
  const next = async () => ({ done: at >= bytes.length, value: bytes.slice(at, (at += size)) });
  const found = [];
  for await (const { jpeg, captured } of imagesOf(next)) found.push([new TextDecoder().decode(jpeg), captured]);
  return found;
}

test("images are found, however their bytes arrive", async () => {
  const text = `${part("one\r\n\r\n--frame", `X-Captured-At: ${AT}\r\n`)}${part("two")}--frame--\r\n`;
  for (const size of [1, 3, 50, 10_000]) {
    assert.deepEqual(await read(text, size), [
      ["one\r\n\r\n--frame", Date.parse(AT)],
      ["two", NaN],
    ]);
  }
  assert.deepEqual(await read(text.slice(0, -25), 10_000), [["one\r\n\r\n--frame", Date.parse(AT)]], "a part that was cut off");
});

test("a response that is not MJPEG is refused before it fills the memory", async () => {
  for (const text of [
    "x".repeat(5000),
    "--frame\r\nContent-Type: image/jpeg\r\n\r\n",
    "--frame\r\nContent-Length: 99999999\r\n\r\n",
  ])
    await assert.rejects(read(text, 1000), /not a valid MJPEG video/);
});
