// @ts-check
// ICE servers from the Link header, and the explanation of a connection that failed.

import assert from "node:assert/strict";
import { test } from "node:test";

import { iceServersOf, progressOf } from "../../vision_infer/service/page/transport/ice.js";

test("the ICE servers of a Link header are read, with credentials", () => {
  const header =
    '<stun:stun.example.org:3478>; rel="ice-server", <turn:turn.example.org?transport=tcp>; rel="ice-server"; ' +
    'username="1:vision, infer"; credential="a+b/c=="; credential-type="password", </other>; rel=next, <https://x>; rel="ice-server"';
  assert.deepEqual(iceServersOf(header), [
    { urls: "stun:stun.example.org:3478" },
    { urls: "turn:turn.example.org?transport=tcp", username: "1:vision, infer", credential: "a+b/c==" },
  ]);
  assert.deepEqual(iceServersOf(""), []);
});

test("a failed connection says how far ICE came", () => {
  const pair = { type: "candidate-pair", responsesReceived: 0, state: "in-progress" };
  assert.match(
    progressOf("checking", [pair, pair, { type: "transport" }]),
    /UDP may be blocked \(ICE: checking, 0 of 2 address pairs/,
  );
  assert.match(progressOf("new", []), /ICE: new, no address pair to try/);
  assert.match(progressOf("connected", [{ ...pair, responsesReceived: 3 }]), /handshake \(DTLS\) did not finish/);
});
