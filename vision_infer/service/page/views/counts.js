// @ts-check
// The counts of a camera's lines and zones: totals, with a reset, and a chart and table of intervals.

import { getJson, messageOf, send, streamPath } from "../transport/http.js";
import { confirm, h, setText, svg } from "./dom.js";
import { count } from "./words.js";

/** @typedef {{ in: number, out: number }} InOut */
/** @typedef {{ start: string, places: Record<string, InOut> }} Interval */
/** @typedef {{ lines: Record<string, InOut>, zones: Record<string, number>, intervals: Interval[] }} Answer */

const POLL_MS = 5000;
/** @type {Record<string, string>} */
const INTERVALS = { 60: "per minute", 900: "per 15 minutes", 3600: "per hour", 86400: "per day" };
const LIMIT = 24;
const NONE = { in: 0, out: 0 };
const [BAR, HALF] = [10, 30]; // the width of a bar and the height of a half of the chart, in units of the image

export class Counts {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    this.path = `${streamPath(name)}/counts`;
    this.running = false;
    this.shown = "";
    this.interval = h(
      "select",
      { "aria-label": "Interval", onchange: () => this.#poll() },
      Object.entries(INTERVALS).map(([value, text]) => h("option", { value, selected: value === "3600" }, text)),
    );
    this.reset = h("button", { type: "button", onclick: () => this.#reset() }, "Reset counts");
    this.errorText = h("p.error", { role: "alert" });
    this.places = h("div.places");
    this.rows = h("tbody");
    this.columns = h("tr");
    this.table = h(
      "details.more",
      null,
      h("summary", null, "Table"),
      h("div.scroll", null, h("table", null, h("thead", null, this.columns), this.rows)),
    );
    this.element = h(
      "section.card",
      null,
      h("div.buttons", null, h("h2.grow", null, "Counts"), this.interval, this.reset),
      this.errorText,
      this.places,
      this.table,
    );
    this.element.hidden = true;
  }

  /** @param {boolean} running whether the camera runs and has lines or zones @param {boolean} canEdit */
  update(running, canEdit) {
    this.element.hidden = !running;
    this.reset.hidden = !canEdit;
    if (running === this.running) return;
    this.running = running;
    if (running) this.#poll();
    else clearTimeout(this.timer);
  }

  close() {
    this.running = false;
    clearTimeout(this.timer);
  }

  async #poll() {
    clearTimeout(this.timer);
    const seconds = this.interval.value;
    try {
      const answer = document.hidden ? null : await getJson(`${this.path}?interval_s=${seconds}&limit=${LIMIT}`);
      if (answer && this.running && seconds === this.interval.value) this.#show(answer);
      setText(this.errorText, "");
    } catch (error) {
      if (this.running) setText(this.errorText, messageOf(error));
    }
    clearTimeout(this.timer);
    if (this.running) this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  async #reset() {
    const question = `Set the crossings of all lines of ${this.name} to zero? The counts of the intervals stay.`;
    if (!(await confirm(question, "Reset"))) return;
    try {
      await send("POST", `${this.path}/reset`);
      await this.#poll();
    } catch (error) {
      setText(this.errorText, messageOf(error));
    }
  }

  /** @param {Answer} answer */
  #show({ lines, zones, intervals }) {
    const seen = JSON.stringify([lines, zones, intervals]);
    if (seen === this.shown) return; // an open tooltip stays
    this.shown = seen;
    const totals = [
      ...Object.entries(lines).map(([name, total]) => [name, `${count(total.in)} in, ${count(total.out)} out`]),
      ...Object.entries(zones).map(([name, inside]) => [name, `${count(inside)} inside now`]),
    ];
    this.places.replaceChildren(
      ...totals.map(([name, text]) => h("div", null, h("h3", null, name), h("p", null, text), chart(name, intervals))),
    );
    const names = totals.map(([name]) => name);
    this.columns.replaceChildren(
      h("th", null, "From"),
      ...names.flatMap((name) => [h("th", null, `${name} in`), h("th", null, "out")]),
    );
    this.rows.replaceChildren(
      ...intervals.toReversed().map(({ start, places }) => {
        const figures = names.flatMap((name) => [(places[name] ?? NONE).in, (places[name] ?? NONE).out]);
        return h("tr", null, h("th", null, when(start)), ...figures.map((figure) => h("td.figure", null, count(figure))));
      }),
    );
  }
}

/**
 * Bars for each interval: in upwards, out downwards.
 * @param {string} name @param {Interval[]} intervals
 */
function chart(name, intervals) {
  const values = intervals.map(({ start, places }) => ({ start, ...(places[name] ?? NONE) }));
  const max = Math.max(1, ...values.flatMap((value) => [value.in, value.out]));
  const sum = (/** @type {"in" | "out"} */ way) => count(values.reduce((total, value) => total + value[way], 0));
  const bars = values.map((value, index) => {
    const x = (LIMIT - values.length + index) * BAR;
    const [up, down] = [(value.in / max) * (HALF - 1), (value.out / max) * (HALF - 1)];
    return svg(
      "g",
      null,
      svg("title", null, `${when(value.start)}: ${value.in} in, ${value.out} out`),
      svg("rect.ground", { x, y: 0, width: BAR, height: 2 * HALF }),
      svg("rect.in", { x: x + 1, y: HALF - up, width: BAR - 2, height: up }),
      svg("rect.out", { x: x + 1, y: HALF, width: BAR - 2, height: down }),
    );
  });
  const label = `${name}, last ${values.length} ${values.length === 1 ? "interval" : "intervals"}: ${sum("in")} in, ${sum("out")} out`;
  const axis = svg("line", { x1: 0, x2: LIMIT * BAR, y1: HALF, y2: HALF });
  const box = `0 0 ${LIMIT * BAR} ${2 * HALF}`;
  return svg("svg.chart", { viewBox: box, preserveAspectRatio: "none", role: "img", "aria-label": label }, bars, axis);
}

/** @param {string} start */
function when(start) {
  const date = new Date(start);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-GB")} ${time}`;
}
