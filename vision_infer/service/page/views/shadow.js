// @ts-check
// The shadow model: its agreement with the current model, and the buttons that promote and end it.

import { ApiError, getJson, messageOf, send } from "../transport/http.js";
import { confirm, h, setText } from "./dom.js";
import { count, milliseconds } from "./words.js";

const PROMOTE_MS = 120_000;

/** @import { Store } from "../state/store.js" */
/**
 * @typedef {{ latency_ms: number | null, cost_ms: number | null }} Times
 * @typedef {{
 *   frames: number, found_again: number | null, mean_iou: number | null, score_shift: number | null, count_drift: number | null,
 *   current: Times, candidate: Times
 * }} Agreement
 * @typedef {{
 *   settings: { model: string, engine: string | null, every: number }, current: string, state: string, reason: string, engine: string,
 *   skipped: Record<string, number>, recent: Agreement, total: Agreement
 * }} Trial
 */

/** @type {[string, (one: Agreement) => string][]} */
const ROWS = [
  ["Compared frames", ({ frames }) => count(frames)],
  ["Detections found again", ({ found_again: value }) => (value === null ? "–" : `${(value * 100).toFixed(1)} %`)],
  ["Mean IoU of these", ({ mean_iou: value }) => number(value)],
  ["Change of their scores", ({ score_shift: value }) => number(value)],
  ["Additional detections per frame", ({ count_drift: value }) => number(value)],
  ["Latency, current → candidate", (one) => times(one.current.latency_ms, one.candidate.latency_ms)],
  ["Engine time per frame, current → candidate", (one) => times(one.current.cost_ms, one.candidate.cost_ms)],
];

/** @param {Store} store */
export function shadowPanel(store) {
  const title = h("h2");
  const state = h("span.state");
  const reason = h("p.reason");
  const errorText = h("p.error", { role: "alert" });
  const skipped = h("p.quiet");
  const values = ROWS.map(() => [h("td"), h("td")]);
  const rows = ROWS.map(([name], index) => h("tr", null, h("th", { scope: "row" }, name), ...values[index]));
  const head = h(
    "tr",
    null,
    ["", "Last 500 frames", "All frames"].map((text) => h("th", { scope: "col" }, text)),
  );
  const promote = h("button", { type: "button", onclick: () => change(true) }, "Promote");
  const end = h("button", { type: "button", onclick: () => change(false) }, "End");
  const table = h("table.models", null, h("thead", null, head), h("tbody", null, rows));
  const element = h(
    "section.card",
    { hidden: true, "aria-label": "Shadow model" },
    h("div.head", null, title, state, h("div.buttons", null, promote, end)),
    reason,
    errorText,
    h("div.scroll", null, table),
    skipped,
  );
  /** @type {Trial | null} */
  let trial = null;

  let allowed = true;

  async function poll() {
    if (!allowed) return;
    try {
      trial = await getJson("api/v1/shadow");
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 403)) throw error;
      allowed = false; // a role with some cameras only
      return;
    }
    element.hidden = !trial;
    if (!trial) return;
    setText(title, `Shadow model: ${nameOf(trial)}, compared with ${trial.current}`);
    setText(state, trial.state);
    state.dataset.tone = { comparing: "good", failed: "bad" }[trial.state] ?? "warn";
    setText(reason, trial.reason);
    reason.hidden = !trial.reason;
    ROWS.forEach(([, text], index) => {
      if (trial) setText(values[index][0], text(trial.recent));
      if (trial) setText(values[index][1], text(trial.total));
    });
    const counts = Object.entries(trial.skipped).map(([name, number]) => `${name} ${count(number)}`);
    setText(
      skipped,
      `The candidate gets 1 of ${count(trial.settings.every)} frames. Not compared: ${counts.join(", ") || "none"}.`,
    );
    promote.hidden = end.hidden = !store.canEdit;
    promote.disabled = trial.state === "loading" || trial.state === "failed";
  }

  /** @param {boolean} promoted */
  async function change(promoted) {
    if (!trial) return;
    const [candidate, current] = [nameOf(trial), trial.current];
    const question = promoted
      ? `Run all streams of ${current} with ${candidate}? The cameras stay connected; tracks and counts start again.`
      : `End the comparison with ${candidate}?`;
    if (!(await confirm(question, promoted ? "Promote" : "End"))) return;
    setText(errorText, "");
    promote.disabled = true;
    try {
      if (promoted) await send("POST", "api/v1/shadow/promote", { timeoutMs: PROMOTE_MS });
      else await send("DELETE", "api/v1/shadow");
      await poll();
    } catch (error) {
      promote.disabled = false;
      setText(errorText, messageOf(error));
    }
  }

  return { element, poll };
}

/** @param {Trial} trial */
const nameOf = ({ settings: { model, engine } }) => (engine ? `${model} on ${engine}` : model);

/** @param {number | null} value */
const number = (value) => (value === null ? "–" : value.toFixed(3).replace("-", "\u2212"));

/** @param {number | null} before @param {number | null} after */
const times = (before, after) =>
  before === null || after === null ? "–" : `${milliseconds(before)} → ${milliseconds(after)} ms`;
