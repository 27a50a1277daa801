// @ts-check
// The share of the machine that each stream uses, what it costs, and the remaining capacity.

import { getJson, messageOf } from "../transport/http.js";
import { field, h, setText } from "./dom.js";
import { rate } from "./words.js";

const POLL_MS = 3000;

/** @returns {import("../transport/api.js").View} */
export function cost() {
  const view = new Cost();
  return { element: view.element, title: "Cost", close: () => view.close() };
}

class Cost {
  constructor() {
    this.closed = false;
    this.summary = h("p.explanation", { role: "status" });
    this.errorText = h("p.error", { role: "alert" });
    this.meter = h("meter", { min: 0, max: 1, low: 0.75, high: 0.85, optimum: 0, "aria-label": "Machine load" });
    this.used = h("strong");
    this.note = h("p.quiet");
    this.fps = h("input", {
      type: "number",
      min: 0.1,
      max: 1000,
      step: "any",
      placeholder: "current rate",
      oninput: () => this.#soon(),
    });
    this.head = h("tr");
    this.rows = h("tbody");
    this.table = h("table.costs", { hidden: true }, h("thead", null, this.head), this.rows);
    this.none = h("p.quiet", { hidden: true }, "No cameras are running.");
    this.element = h(
      "section.view",
      null,
      h("h1", null, "Cost"),
      this.errorText,
      h(
        "section.card",
        null,
        this.summary,
        h("div.line.use", null, h("span.key", null, "load"), this.meter, this.used),
        this.note,
      ),
      h(
        "section.card",
        null,
        h("h2", null, "Cameras"),
        h("div.rate", null, field("Estimate for a rate, results/s", this.fps)),
        h("div.scroll", null, this.table),
        this.none,
      ),
    );
    this.#poll();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  #soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#poll(), 250);
  }

  async #poll() {
    const turn = (this.turn = {});
    const fps = this.fps.validity.valid && this.fps.value ? Number(this.fps.value) : null;
    try {
      const answer = document.hidden ? null : await getJson(`api/v1/cost${fps === null ? "" : `?fps=${fps}`}`);
      if (this.closed || this.turn !== turn) return;
      setText(this.errorText, "");
      if (answer) this.#show(answer, fps);
    } catch (error) {
      if (this.closed || this.turn !== turn) return;
      setText(this.errorText, messageOf(error));
    }
    this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  /** @param {any} answer @param {number | null} fps */
  #show(answer, fps) {
    const priced = answer.machine_per_hour !== null;
    /** @param {number | null} value */
    const money = (value) =>
      value === null ? "–" : value.toLocaleString("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
    setText(this.summary, answer.summary);
    this.meter.value = answer.busy;
    setText(this.used, percent(answer.busy));
    setText(
      this.note,
      priced
        ? `The configured price of the machine is ${answer.machine_per_hour} ${answer.currency} per hour. Capacity that no camera uses, including other programs, costs ${money(answer.unused_per_month)} ${answer.currency} per month.`
        : "Set cost.machine_per_hour in the configuration file to show prices.",
    );
    const names = [
      "Camera",
      "Results/s",
      "CPU cores",
      answer.accelerator === null ? null : "Engine",
      "Share of machine",
      priced ? `${answer.currency} per month` : null,
    ];
    if (fps !== null) names.push(`Share at ${fps}/s`, priced ? `${answer.currency} per month at ${fps}/s` : null);
    /** @type {string[][]} */
    const streams = answer.streams.map((/** @type {any} */ stream) => {
      const cells = [
        stream.name,
        rate(stream.result_fps),
        (stream.decode_cores + stream.shared_cores).toFixed(2),
        answer.accelerator === null ? null : percent(stream.accelerator),
        percent(stream.share),
        priced ? money(stream.per_month) : null,
      ];
      if (fps !== null) cells.push(percent(stream.share_at_fps), priced ? money(stream.per_month_at_fps) : null);
      return cells.filter((cell) => cell !== null);
    });
    put(
      this.head,
      names.filter((name) => name !== null),
      (text) => h("th", { scope: "col" }, text),
    );
    while (this.rows.children.length > streams.length) this.rows.lastChild.remove();
    streams.forEach((cells, index) => {
      if (!this.rows.children[index]) this.rows.append(h("tr"));
      put(this.rows.children[index], cells, (text, first) => h(first ? "th" : "td", first ? { scope: "row" } : null, text));
    });
    this.table.hidden = streams.length === 0;
    this.none.hidden = streams.length > 0;
  }
}

/** @param {any} row @param {string[]} texts @param {(text: string, first: boolean) => HTMLElement} make */
function put(row, texts, make) {
  while (row.children.length > texts.length) row.lastChild.remove();
  texts.forEach((text, index) => {
    if (row.children[index]) setText(row.children[index], text);
    else row.append(make(text, index === 0));
  });
}

/** @param {number | null | undefined} share */
function percent(share) {
  if (share === null || share === undefined) return "–";
  return `${share < 0.0995 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
}
