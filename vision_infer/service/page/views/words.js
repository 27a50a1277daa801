// How values are written.

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

export const milliseconds = (value) => (value === undefined || value === null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toString());
export const rate = (value) => (value === undefined || value === null ? "–" : value >= 9.95 ? Math.round(value).toString() : value.toFixed(1));
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

export function drops(dropped) {
  const all = Object.entries(dropped ?? {}).filter(([, number]) => number > 0);
  all.sort((a, b) => b[1] - a[1]);
  return all.map(([reason, number]) => `${reason.replaceAll("_", " ")} ${count(number)}`);
}
