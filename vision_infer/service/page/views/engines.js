// @ts-check
// The loaded engines: their utilization, batch sizes and benchmark records (passports).

import { getJson, messageOf } from "../transport/http.js";
import { h, setText } from "./dom.js";
import { shadowPanel } from "./shadow.js";
import { bytes, count, milliseconds, quantiles, rate } from "./words.js";

const POLL_MS = 2000;

/** @import { Store } from "../state/store.js" */
/** @import { Quantiles, Size, View } from "../transport/api.js" */
/**
 * @typedef {{
 *   name: string, node: string | null, engine: string, model: string, input_size: Size, utilization: number, frames: number, padded: number, flying: number,
 *   in_flight: number, waiting: number, buffer_bytes: number, inference_ms: Quantiles, batches: Record<string, number>,
 *   error: string | null, failing: boolean, replicas: Replica[]
 * }} Engine
 * @typedef {{ device: string, utilization: number, batches: number, removed: string | null }} Replica
 */

/** @param {Store} store @returns {View} */
export function engines(store) {
  /** @type {Map<string, EngineCard>} */
  const cards = new Map();
  const list = h("div.engines");
  const shadow = shadowPanel(store);
  const models = h("tbody");
  const errorText = h("p.error", { role: "alert" });
  const table = h(
    "table.models",
    null,
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        ["Model", "Task", "Input", "Labels", "License", ""].map((text) => h("th", { scope: "col" }, text)),
      ),
    ),
    models,
  );
  const element = h(
    "section.view",
    null,
    h("h1", null, "Engines"),
    errorText,
    shadow.element,
    list,
    h("section.card", null, h("h2", null, "Models"), h("div.scroll", null, table)),
  );
  let closed = false;
  /** @type {number | undefined} */
  let timer;

  async function poll() {
    try {
      const engines = await getJson("api/v1/engines");
      if (closed) return;
      setText(errorText, "");
      show(engines);
      if (store.seesAll) await shadow.poll();
    } catch (error) {
      setText(errorText, messageOf(error));
    }
    if (!closed) timer = setTimeout(poll, POLL_MS);
  }

  /** @param {Engine[]} engines */
  function show(engines) {
    /** @type {Record<string, number>} */
    const same = {};
    const keys = engines
      .map(({ node, name, engine }) => `${node} ${name} ${engine}`)
      .map((key) => `${key} ${(same[key] = (same[key] ?? 0) + 1)}`);
    const names = new Set(keys);
    for (const [name, card] of cards) {
      if (names.has(name)) continue;
      card.element.remove();
      cards.delete(name);
    }
    engines.forEach((engine, index) => {
      const key = keys[index];
      const card = cards.get(key) ?? new EngineCard(engine);
      if (!cards.has(key)) list.append(card.element);
      cards.set(key, card);
      card.update(engine);
    });
  }

  poll();
  getJson("api/v1/models").then(
    (all) => models.replaceChildren(...all.map(modelRow)),
    () => {},
  );
  return {
    element,
    title: "Engines",
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

/** @param {any} model */
function modelRow(model) {
  const cells = [
    model.name,
    model.task,
    `${model.input_size.width}×${model.input_size.height}`,
    count(model.labels.length),
    model.license,
    model.loaded ? "loaded" : "",
  ];
  return h(
    "tr",
    null,
    cells.map((text, index) => (index ? h("td", null, text) : h("th", { scope: "row" }, text))),
  );
}

/**
 * @param {Replica} replica
 * @returns {[string, string]}
 */
function onDevice({ device, utilization, batches, removed }) {
  const used = `${Math.round(utilization * 100)} %, ${count(batches)} batches`;
  return [`On ${device}`, removed ? `not used: ${removed}` : used];
}

class EngineCard {
  /** @param {Engine} engine */
  constructor(engine) {
    /** @type {{ frames: number, at: number } | null} */
    this.before = null;
    this.meter = h("meter", { min: 0, max: 1, low: 0.75, high: 0.9, optimum: 0, "aria-label": "Utilization" });
    this.used = h("strong");
    this.facts = h("dl.facts");
    this.bars = h("div.bars", { role: "img" });
    this.failure = h("p.bad", { hidden: true });
    this.passport = h("div", null, h("p.quiet", null, "Loading…"));
    this.element = h(
      "article.card.engine",
      null,
      h("h2", null, engine.name),
      h("p.quiet", null, `${engine.engine}${engine.node ? ` on node ${engine.node}` : ""}`),
      this.failure,
      h("div.line", null, h("span.key", null, "utilization"), this.meter, this.used),
      this.facts,
      h("h3", null, "Batches by size"),
      this.bars,
      h("h3", null, "Passport"),
      this.passport,
    );
    getJson(`api/v1/engines/${encodeURIComponent(engine.name)}/passport`).then(
      (passport) =>
        this.passport.replaceChildren(
          ...(passport ? factsOf(passport) : [h("p.quiet", null, "None: this engine has not been measured on this machine.")]),
        ),
      (error) => this.passport.replaceChildren(h("p.quiet", null, error.message)),
    );
  }

  /** @param {Engine} engine */
  update(engine) {
    const now = performance.now();
    const before = this.before;
    const fps = before ? ((engine.frames - before.frames) * 1000) / (now - before.at) : null;
    this.before = { frames: engine.frames, at: now };
    this.meter.value = engine.utilization;
    setText(this.used, `${Math.round(engine.utilization * 100)} %`);
    this.failure.hidden = !engine.error;
    setText(this.failure, engine.error ? `${engine.failing ? "Failing" : "Last failure"}: ${engine.error}` : "");
    const [runtime, device, precision] = engine.engine.split("-");
    put(this.facts, [
      ["Throughput", fps === null ? "…" : `${rate(fps)} frames/s`],
      ["Batch p50 / p95 / p99", `${quantiles(engine.inference_ms)} ms`],
      ["Model", engine.model],
      ["Runtime", runtime],
      ["Device", device],
      ["Precision", precision],
      ["Input", `${engine.input_size.width}×${engine.input_size.height}`],
      ["Batches in flight", `${engine.flying} of ${engine.in_flight}`],
      ["Frames waiting", count(engine.waiting)],
      ["Frames processed", count(engine.frames)],
      ["Padded batch slots", count(engine.padded)],
      ["Buffers", bytes(engine.buffer_bytes)],
      ...(engine.replicas.length > 1 ? engine.replicas.map(onDevice) : []),
    ]);
    this.#batches(engine.batches);
  }

  /** @param {Record<string, number>} batches */
  #batches(batches) {
    const all = Object.entries(batches);
    const max = Math.max(1, ...all.map(([, number]) => number));
    this.bars.setAttribute("aria-label", all.map(([size, number]) => `${number} of size ${size}`).join(", ") || "No batches yet");
    const rows = all.map(([size, number]) =>
      h("div.bar", null, h("span", null, size), h("progress", { max, value: number }), h("span", null, count(number))),
    );
    this.bars.replaceChildren(...(rows.length ? rows : [h("p.quiet", null, "No batches yet")]));
  }
}

/** @param {any} passport */
function factsOf(passport) {
  const best = passport.speed.reduce(
    (/** @type {any} */ best, /** @type {any} */ entry) => (best && best.fps >= entry.fps ? best : entry),
    null,
  );
  const facts = [
    ["Measured on", `${passport.device.name}, ${passport.date.slice(0, 10)}`],
    ["Runtime", `${passport.runtime} ${passport.runtime_version}, ${passport.compute}`],
    ...passport.accuracy.map((/** @type {any} */ loss) => [
      "Accuracy loss",
      `${signed(loss.value)} points of ${loss.metric} (95 % interval: ${signed(loss.low)} to ${signed(loss.high)}), ${loss.judged} on ${count(loss.frames)} frames of ${loss.data}`,
    ]),
    best
      ? [
          "Speed",
          `${rate(best.fps)} frames/s (batch ${best.batch}, ${best.workers} in flight), p50 ${milliseconds(best.p50_ms)} ms${best.fp32_ratio ? `, ${best.fp32_ratio.toFixed(2)} × FP32` : ""}`,
        ]
      : null,
    passport.memory_bytes ? ["Memory", bytes(passport.memory_bytes)] : null,
    ["Graph", passport.sources.graph.slice(0, 12)],
  ];
  const list = h("dl.facts");
  put(list, facts.filter(Boolean));
  return [list];
}

/** @param {number} value */
const signed = (value) => value.toFixed(2).replace("-", "\u2212");

/** @param {any} list @param {string[][]} facts */
function put(list, facts) {
  facts.forEach(([key, value], index) => {
    const known = list.children[index];
    if (!known) list.append(h("div", null, h("dt", null, key), h("dd", null, value)));
    else {
      setText(known.firstChild, key);
      setText(known.lastChild, value);
    }
  });
}
