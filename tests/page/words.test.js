// @ts-check
// Texts of the page.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  fallbackWords,
  ingestFacts,
  nameLike,
  noFrameWords,
  reasonOf,
  sessionWords,
  transportWord,
  withoutWait,
} from "../../vision_infer/service/page/views/words.js";

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

test("what reads a camera, and what the network lost", () => {
  const rtp = { ingest: "rtp", ingest_reason: "", rtp_packets: { received: 9900, lost: 100 }, damaged: 5 };
  const facts = (/** @type {object} */ status, detect = "rtsp://camera/1") =>
    ingestFacts({ detect }, /** @type {Status} */ (/** @type {unknown} */ (status)));
  assert.deepEqual(facts(rtp), [
    ["Read by", "vision-infer, over RTP"],
    ["Packets lost", "100 of 10,000 (1.00 %)"],
    ["Damaged frames", "5"],
  ]);
  const ffmpeg = { ingest: "ffmpeg", ingest_reason: "the codec vp9 is not supported over RTP", rtp_packets: {}, damaged: 0 };
  assert.deepEqual(facts(ffmpeg), [
    ["Read by", "FFmpeg: the codec vp9 is not supported over RTP"],
    ["Damaged frames", "0"],
  ]);
  assert.deepEqual(facts({ ...rtp, ingest: null }), []);
  assert.deepEqual(facts(ffmpeg, "/clip.mp4"), []);
});

test("how the video arrives, and why it is not WebRTC", () => {
  const facts = { mode: "passthrough", codec: "H264", transport: "udp", packets: 0 };
  assert.equal(sessionWords(null), "WebRTC");
  assert.equal(sessionWords(facts), "WebRTC, H264 passthrough");
  assert.equal(
    sessionWords({ ...facts, mode: "encoded", reason: "the stream is MJPEG" }),
    "WebRTC, H264 transcoded: the stream is MJPEG",
  );
  assert.match(sessionWords({ ...facts, transport: "tcp" }), /^WebRTC over TCP, H264 passthrough: lost packets delay/);
  const words = [
    ["webrtc", facts],
    ["webrtc", { ...facts, transport: "tcp" }],
    ["mjpeg", null],
    ["snapshots", null],
    ["none", null],
  ];
  assert.deepEqual(
    words.map(([mode, one]) => transportWord(/** @type {string} */ (mode), /** @type {typeof facts} */ (one))),
    ["WebRTC", "WebRTC over TCP", "MJPEG", "snapshots", ""],
  );
  assert.equal(fallbackWords("mjpeg", "no way"), "MJPEG: no way");
  assert.equal(
    fallbackWords("snapshots", "no way", "the limit is reached."),
    "Snapshots (no MJPEG: the limit is reached): no way",
  );
  assert.equal(fallbackWords(null, "no way"), "No image yet: no way");
  assert.match(
    noFrameWords({ mime: "video/H264", received: 3 }, null),
    /could decode none of the 3 received frames \(video\/H264\)/,
  );
  assert.match(noFrameWords(null, facts), /waits for a key frame/);
  assert.match(
    noFrameWords(null, { ...facts, packets: 9 }),
    /no frame arrived from the 9 packets that the service sent: check the/,
  );
});

test("a name is proposed from any text", () => {
  assert.equal(nameLike(" Front door (Süd) "), "Front-door-Sud");
  assert.equal(nameLike("...-"), "");
  assert.equal(nameLike("x".repeat(100)).length, 64);
});
