// How values are written.

import { kindOf } from "../state/timeline.js";

const STATES = {
  waiting: "waiting",
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
const TONES = { live: "good", running: "good", refused: "bad", failed: "bad", paused: "quiet", ended: "quiet", stopped: "quiet" };

// state: of a stream's status, or null where it is not enabled
export function stateOf(stream) {
  const state = stream.status?.state ?? "paused";
  return { state, word: STATES[state] ?? state, tone: TONES[state] ?? "warn" };
}

const WAYS = {
  rate: ["fewer results", () => "fewer of its frames are inferred than it wants, as many as its weight gives it"],
  substream: ["smaller picture", () => "the camera's smaller picture is inferred (degrade_detect)"],
  model: ["cheaper model", (model) => `a cheaper model infers, ${model} (degrade_model)`],
};

// How a stream gives way while the machine is too small: { short, long, since, measured }; null where it does not
export function wayOf({ status }) {
  const way = WAYS[status?.degraded];
  return way ? { short: way[0], long: way[1](status.model), since: status.degraded_since, measured: status.degraded_reason } : null;
}

export const wayWord = (step) => WAYS[step]?.[0] ?? "nothing";

export const milliseconds = (value) => (value === undefined || value === null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toString());
export const rate = (value) => (value === undefined || value === null ? "–" : value >= 9.95 ? Math.round(value).toString() : value.toFixed(1));
// Frames a second of a stream
export function rates(status) {
  const wanted = status?.wanted_fps ?? null;
  return `inferred ${rate(status?.result_fps)}${wanted === null ? "" : ` of ${Number(wanted.toFixed(1))}`}, decoded ${rate(status?.decoded_fps)}`;
}
export const count = (value) => value.toLocaleString("en-GB");

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

// How long ago a moment was: 12 s, 4 min, 3 h, 2 d
export function since(iso, nowMs = Date.now()) {
  if (!iso) return "";
  const seconds = Math.max(0, (nowMs - Date.parse(iso)) / 1000);
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const clockTime = (date) => date.toLocaleTimeString("en-GB");

export function moment(iso) {
  return iso ? clockTime(new Date(iso)) : "";
}

// What became of frames, for those who do not know the words
export const FATES = {
  emitted: "inferred, and told",
  paced: "left out, since the stream wants fewer a second",
  gated: "nothing moved: what was found last is repeated",
  undecoded: "the settings want it not decoded",
  hook: "the hook wanted no row of it",
  superseded: "a newer frame took its place while it waited for the engine",
  outdated: "too old when the engine had room for it",
  stale: "too old when it was decoded",
  late: "too old, as all that come: the network, or the camera's clock",
  backlogged: "as many are on their way as may be: what follows the engine is too slow",
  not_referenced: "not decoded, since decoding fell behind",
  to_keyframe: "not decoded up to the next key frame, at the beginning or since decoding fell behind",
  no_keyframe: "the camera has sent no key frame",
  failed: "the engine failed on its batch",
  stopped: "the stream ended before its turn",
};

// What was lost comes before what the settings leave out.
export function drops(dropped) {
  const all = Object.entries(dropped ?? {}).filter(([, number]) => number > 0);
  const wanted = ([reason]) => kindOf(reason) === "wanted";
  all.sort((a, b) => wanted(a) - wanted(b) || b[1] - a[1]);
  return all.map(([reason, number]) => `${reason.replaceAll("_", " ")} ${count(number)}`);
}
