// @ts-check
// Formats values as text.

import { kindOf } from "../state/timeline.js";

/** @import { Quantiles, SessionFacts, Settings, Status, Stream } from "../transport/api.js" */

/** @type {Record<string, string>} */
const STATES = {
  waiting: "waiting",
  pending: "pending",
  opening: "opening",
  running: "running",
  connecting: "connecting",
  live: "live",
  stalled: "stalled",
  backing_off: "reconnecting",
  refused: "refused",
  ended: "ended",
  stopped: "stopped",
  failed: "failed",
  paused: "paused",
};
/** @type {Record<string, string>} */
const TONES = { live: "good", running: "good", refused: "bad", failed: "bad", paused: "quiet", ended: "quiet", stopped: "quiet" };

/** The state of a stream with its word and tone; a disabled stream is paused. @param {Stream} stream */
export function stateOf(stream) {
  const state = stream.status?.state ?? "paused";
  return { state, word: stateWord(state), tone: TONES[state] ?? "warn" };
}

/** @param {string} state */
export const stateWord = (state) => STATES[state] ?? state.replaceAll("_", " ");

/** @type {Record<string, [string, (model: string) => string]>} */
const DEGRADATIONS = {
  rate: ["lower rate", () => "fewer frames are inferred than requested, in proportion to its weight"],
  substream: ["fallback stream", () => "the lower-resolution stream is inferred (degrade_detect)"],
  model: ["fallback model", (model) => `the fallback model ${model} runs (degrade_model)`],
};

/** How a stream is degraded under overload; null if it is not. @param {Stream} stream */
export function degradationOf({ status }) {
  const texts = DEGRADATIONS[status?.degraded ?? ""];
  return status && texts
    ? { short: texts[0], long: texts[1](status.model), since: status.degraded_since, measured: status.degraded_reason }
    : null;
}

/** @param {string} step */
export const degradationWord = (step) => DEGRADATIONS[step]?.[0] ?? "none";

/** @param {number | null | undefined} value */
export const milliseconds = (value) =>
  value === undefined || value === null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toString();
/** @param {Quantiles} values */
export const quantiles = ({ p50, p95, p99 }) => [p50, p95, p99].map(milliseconds).join(" / ");
/** @param {number | null | undefined} value */
export const rate = (value) =>
  value === undefined || value === null ? "–" : value >= 9.95 ? Math.round(value).toString() : value.toFixed(1);
/** The frame rates of a stream. @param {Status | null | undefined} status */
export function rates(status) {
  const wanted = status?.wanted_fps ?? null;
  return `inferred ${rate(status?.result_fps)}${wanted === null ? "" : ` of ${Number(wanted.toFixed(1))}`}, decoded ${rate(status?.decoded_fps)}`;
}
/** @param {number} value */
export const count = (value) => value.toLocaleString("en-GB");

/** @param {number} value */
export function bytes(value) {
  if (!value) return "–";
  const units = ["B", "kB", "MB", "GB"];
  let index = 0;
  while (value >= 1000 && index < 3) {
    value /= 1000;
    index++;
  }
  return `${value < 10 && index ? value.toFixed(1) : Math.round(value)} ${units[index]}`;
}

/** The time since a moment: 12 s, 4 min, 3 h, 2 d. @param {string} iso */
export function since(iso, nowMs = Date.now()) {
  if (!iso) return "";
  return span(Math.max(0, (nowMs - Date.parse(iso)) / 1000));
}

/** A duration: 12 s, 4 min, 3 h, 2 d. @param {number} seconds */
export function span(seconds) {
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A reason without the time until the next attempt, for a text that screen readers announce. @param {string} reason */
export const withoutWait = (reason) => reason.replace(/;? next attempt in [\d.]+ s\.?$/i, "");

const NEXT = /\bnext attempt in ([\d.]+) s/i;

/** The reason of a stream's state, with the time that remains until the next attempt. @param {Status | null | undefined} status */
export function reasonOf(status, nowMs = Date.now()) {
  const reason = status?.reason ?? "";
  const wait = NEXT.exec(reason);
  if (!status || !wait) return reason;
  const left = Math.ceil(Number(wait[1]) - Math.max(0, nowMs - Date.parse(status.since)) / 1000);
  return reason.replace(wait[0], wait[0].replace(/ in [\d.]+ s/, left > 0 ? ` in ${left} s` : " now"));
}

/** @param {Date} date */
export const clockTime = (date) => date.toLocaleTimeString("en-GB");

/** @param {string} iso */
export function moment(iso) {
  return iso ? clockTime(new Date(iso)) : "";
}

/** A valid name of a camera that is like a text; empty if there is none. @param {string} text */
export const nameLike = (text) =>
  text
    .normalize("NFKD")
    .replace(/\p{Mark}/gu, "") // ü becomes u
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[._-]+|[._-]+$/g, "")
    .slice(0, 64);

/** Explain what is wrong with a name that was entered for a stream. @param {HTMLInputElement} input */
export function explainName(input) {
  const valid = nameLike(input.value) || "front-door";
  const wrong = `A name has letters, digits, “.”, “_” and “-”, and no spaces, such as ${valid}.`;
  input.setCustomValidity(input.validity.patternMismatch ? wrong : "");
}

/** Explanations of the outcomes of frames. @type {Record<string, string>} */
export const OUTCOMES = {
  result: "inferred, with a result",
  paced: "skipped because of the stream's rate limit (fps)",
  gated: "no motion: the last result is repeated",
  undecoded: "not decoded because of the stream's settings",
  hook: "the hook returned no row for the frame",
  superseded: "replaced by a newer frame while waiting for the engine",
  outdated: "too old when the engine became free",
  damaged: "packets were lost, and it could not be decoded",
  stale: "too old after decoding",
  late: "too old on arrival: check the network and the camera's clock",
  backlogged: "the limit of frames in flight is reached: a stage after the engine is too slow",
  not_referenced: "not decoded because the decoder fell behind",
  to_keyframe: "not decoded until the next key frame, at the start or because the decoder fell behind",
  no_keyframe: "the camera has not sent a key frame",
  failed: "the engine failed on its batch",
  stopped: "the stream stopped before the frame was inferred",
};

/** Lost frames first, then frames that the settings skip. @param {Record<string, number> | undefined} dropped */
export function drops(dropped) {
  const all = Object.entries(dropped ?? {}).filter(([, number]) => number > 0);
  /** @param {[string, number]} entry */
  const skipped = ([reason]) => kindOf(reason) === "skipped";
  all.sort((a, b) => Number(skipped(a)) - Number(skipped(b)) || b[1] - a[1]);
  return all.map(([reason, number]) => `${reason.replaceAll("_", " ")} ${count(number)}`);
}

/**
 * What reads an RTSP camera, and what the network lost.
 * @param {Settings} settings @param {Status} status @returns {[string, string][]}
 */
export function ingestFacts({ detect }, { ingest, ingest_reason, rtp_packets, damaged }) {
  if (!/^rtsps?:/i.test(detect) || !ingest) return [];
  const { received = 0, lost = 0 } = rtp_packets;
  const share = lost ? ` (${((100 * lost) / (received + lost)).toFixed(2)} %)` : "";
  return [
    ["Read by", ingest === "rtp" ? "vision-infer, over RTP" : `FFmpeg${ingest_reason ? `: ${ingest_reason}` : ""}`],
    ...(received
      ? [/** @type {[string, string]} */ (["Packets lost", `${count(lost)} of ${count(received + lost)}${share}`])]
      : []),
    ["Damaged frames", count(damaged)],
  ];
}

/** How the video of a stream arrives, for its tile. @param {string} mode @param {SessionFacts | null | undefined} facts */
export function transportWord(mode, facts) {
  if (mode === "webrtc") return facts?.transport === "tcp" ? "WebRTC over TCP" : "WebRTC";
  return { mjpeg: "MJPEG", snapshots: "snapshots" }[mode] ?? "";
}

/** A WebRTC session. @param {SessionFacts | null} facts null until they are known */
export function sessionWords(facts) {
  const head = transportWord("webrtc", facts);
  if (!facts) return head;
  const { mode, codec = "", reason, transport } = facts;
  const words = `${head}, ${codec} ${mode === "passthrough" ? "passthrough" : "transcoded"}`.replace(/ +/g, " ");
  const slow = transport === "tcp" ? "lost packets delay the video. Check that preview.port is open for UDP" : "";
  return [words, reason, slow].filter(Boolean).join(": ");
}

/**
 * Images that are shown because WebRTC does not work.
 * @param {string | null | undefined} mode
 * @param {string} reason why WebRTC does not work
 * @param {string} [problem] why the images are snapshots
 */
export function fallbackWords(mode, reason, problem) {
  if (mode === "mjpeg") return `MJPEG: ${reason}`;
  if (mode === "snapshots") return `Snapshots${problem ? ` (no MJPEG: ${problem.replace(/\.$/, "")})` : ""}: ${reason}`;
  return `No image yet: ${reason}`;
}

/**
 * Why a connected session shows no frame.
 * @param {{ mime: string, received: number } | null} codec what the browser has received
 * @param {SessionFacts | null} session
 */
export function noFrameWords(codec, session) {
  if (codec?.received)
    return `WebRTC is connected, but this browser could decode none of the ${codec.received} received frames (${codec.mime})`;
  if (session?.packets === 0) return "WebRTC is connected, but the service has no frame to send yet: it waits for a key frame";
  const sent = session?.packets ? ` from the ${session.packets} packets that the service sent` : "";
  return `WebRTC is connected, but no frame arrived${sent}: check the firewall, and the MTU of a VPN or tunnel`;
}
