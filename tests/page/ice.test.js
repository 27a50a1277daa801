// @ts-check
// ICE servers from the Link header, and the explanation of a connection that failed.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError } from "../../vision_infer/service/page/transport/http.js";
import { candidatesOf, iceServersOf, whyUnconnected } from "../../vision_infer/service/page/transport/ice.js";
import { refused } from "../../vision_infer/service/page/transport/whep.js";

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

const pair = { type: "candidate-pair", responsesReceived: 0, state: "in-progress" };
const STATE = { iceState: "checking", reports: [pair, pair, { type: "transport" }], servers: [] };
const SESSION = { mode: "passthrough", transport: null, checks: 0 };
/** @param {string} address */
const on = (address) =>
  candidatesOf(
    `v=0\r\na=candidate:1 1 udp 2130706431 ${address} 8189 typ host\r\na=candidate:2 1 TCP 1671430143 ${address} 8189 typ host tcptype passive\r\n`,
  );
const TAIL =
  " If that is not possible, set a TURN server in preview.ice_servers. (ICE: checking, 0 of 2 address pairs responded)";
const OPEN = "Open port 8189 (UDP and TCP) in the firewall of the service.";

test("the candidates of an answer are read", () => {
  assert.deepEqual(on("2001:DB8::7"), [
    { address: "2001:db8::7", port: 8189, protocol: "udp", type: "host" },
    { address: "2001:db8::7", port: 8189, protocol: "tcp", type: "host" },
  ]);
  assert.deepEqual(candidatesOf("a=candidate:3 2 udp 1 10.0.0.1 9 typ host\r\nm=video 9 RTP 0"), [], "component 2 is RTCP");
});

test("no packet reached the right address: the port is closed", () => {
  const why = whyUnconnected({ ...STATE, session: SESSION, announced: on("192.0.2.7"), host: "192.0.2.7" });
  const text = "no WebRTC packet of this browser reached the service. It announced 192.0.2.7, which is the address of this page.";
  assert.equal(why, `${text} ${OPEN}${TAIL}`);
  const six = whyUnconnected({ ...STATE, session: SESSION, announced: on("2001:db8::7"), host: "[2001:db8::7]" });
  assert.match(six, /which is the address of this page/);
  const local = whyUnconnected({ ...STATE, session: SESSION, announced: on("127.0.0.1"), host: "localhost" });
  assert.match(local, /which is the address of this page/);
});

test("a wrong address: those announced, that of the page, and the setting", () => {
  const why = whyUnconnected({ ...STATE, session: SESSION, announced: on("172.17.0.2"), host: "192.0.2.7" });
  assert.equal(
    why,
    "no WebRTC packet of this browser reached the service. It announced 172.17.0.2, but this page was loaded from 192.0.2.7. " +
      `Set an address that this browser can reach, such as preview.addresses: [192.0.2.7]. ${OPEN}${TAIL}`,
  );
  const six = whyUnconnected({ ...STATE, session: SESSION, announced: on("172.17.0.2"), host: "[2001:db8::7]" });
  assert.match(six, /such as preview\.addresses: \["2001:db8::7"\]/);
  const named = whyUnconnected({ ...STATE, session: SESSION, announced: on("10.0.0.5"), host: "cameras.example" });
  assert.match(
    named,
    /It announced 10\.0\.0\.5, which is a private address\. If this browser is in another network, set a public address, such as preview\.addresses: \[cameras\.example\]/,
  );
  const open = whyUnconnected({ ...STATE, session: SESSION, announced: on("203.0.113.7"), host: "cameras.example" });
  assert.match(open, /It announced 203\.0\.113\.7\. Open port 8189 \(UDP and TCP\)/);
  const many = [1, 2, 3, 4, 5].flatMap((number) => on(`203.0.113.${number}`));
  assert.match(
    whyUnconnected({ ...STATE, session: null, announced: many, host: "cameras.example" }),
    /It announced 203\.0\.113\.1, 203\.0\.113\.2, 203\.0\.113\.3 and 2 more\./,
  );
});

test("a service on loopback behind a proxy announces addresses for the same machine only", () => {
  for (const host of ["192.0.2.7", "cameras.example"]) {
    const announced = [...on("127.0.0.1"), ...on("192.0.2.7")];
    assert.match(
      whyUnconnected({ ...STATE, session: SESSION, announced, host }),
      new RegExp(
        `the same machine only, because service\\.host is a loopback address\\. .* such as preview\\.addresses: \\[${host}\\]`,
      ),
    );
  }
});

test("no address, random ports, answers that do not come back, and DTLS", () => {
  const known = { ...STATE, session: SESSION, host: "192.0.2.7" };
  assert.match(whyUnconnected({ ...known, announced: [] }), /announced no address for WebRTC\. Set preview\.addresses/);
  const random = candidatesOf(
    "a=candidate:1 1 udp 1 192.0.2.7 40001 typ host\r\na=candidate:2 1 udp 1 10.0.0.7 40002 typ host\r\n",
  );
  assert.match(
    whyUnconnected({ ...known, announced: random }),
    /Open the UDP ports of the service \(one port suffices with preview/,
  );
  const oneWay = whyUnconnected({ ...known, session: { ...SESSION, checks: 12 }, announced: on("192.0.2.7") });
  assert.match(
    oneWay,
    /^12 WebRTC packets of this browser reached the service, but no answer came back\. Allow outgoing packets from port/,
  );
  const dtls = whyUnconnected({ ...known, iceState: "connected", session: { ...SESSION, dtls: "connecting" }, announced: [] });
  assert.match(dtls, /the encryption handshake \(DTLS\) did not finish \(connecting\)/);
});

test("a TURN server that gave no address is named; one that works is not", () => {
  const servers = [{ urls: "stun:s.example" }, { urls: "turn:t.example", username: "u", credential: "secret" }];
  const known = { ...STATE, session: SESSION, host: "192.0.2.7", announced: on("192.0.2.7"), servers };
  const why = whyUnconnected(known);
  assert.match(why, /The TURN server turn:t\.example gave this browser no address; check preview\.ice_servers\./);
  assert.doesNotMatch(why, /secret/);
  const relayed = whyUnconnected({ ...known, reports: [{ type: "local-candidate", candidateType: "relay" }] });
  assert.doesNotMatch(relayed, /TURN/);
  assert.match(relayed, /no address pair to try/);
});

test("a rejected offer: a limit with its setting, no codec, no WebRTC", () => {
  const limit = "front: the limit of 4 encoders is reached. See preview.max_encoders.";
  assert.equal(refused(new ApiError(503, limit)), `WebRTC request rejected: ${limit}`);
  assert.equal(refused(new ApiError(406, "front: …")), "this browser and the service have no codec in common: front: …");
  assert.equal(refused(new ApiError(404, "not found")), "this service does not offer WebRTC");
  assert.equal(refused(new ApiError(0, "the service does not respond")), "the service does not respond");
});
