// @ts-check
// Plots the latency of a stream's results by stage, for the last two minutes.

import { STAGES } from "../state/history.js";
import { h } from "./dom.js";

/** @import { Bucket, History } from "../state/history.js" */

/** @type {Record<string, string>} */
const COLORS = {
  decode: "#38bdf8",
  queue: "#f59e0b",
  preprocess: "#a78bfa",
  inference: "#34d399",
  postprocess: "#f472b6",
  secondary: "#fb7185",
};
const POINTS = 120;
const HEIGHT = 220;

/** @param {number} at */
const time = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
/** @param {unknown} _ @param {number[]} all */
const times = (_, all) => all.map(time);
/** @param {unknown} _ @param {number[]} all */
const durations = (_, all) => all.map((ms) => (ms >= 1000 ? `${ms / 1000} s` : `${ms} ms`));

export class StagesPlot {
  /** @param {History} history */
  constructor(history) {
    this.history = history;
    this.shown = STAGES.filter((stage) => stage !== "then");
    this.element = h("div.plot", { role: "img", "aria-label": "Latency by stage over the last two minutes" });
    this.resized = new ResizeObserver(() => this.plot?.setSize({ width: this.element.clientWidth, height: HEIGHT }));
    this.onTheme = () => this.#make();
    addEventListener("theme", this.onTheme);
    this.colors = matchMedia("(prefers-color-scheme: dark)");
    this.colors.addEventListener("change", this.onTheme);
    import("../vendor/uplot.js").then(({ default: UPlot }) => {
      /** @type {any} the class has no types */
      this.UPlot = UPlot;
      this.#make();
      this.resized.observe(this.element);
    });
  }

  /** @param {number} nowMs */
  update(nowMs) {
    this.nowMs = nowMs;
    if (!this.plot) return;
    if (!this.shown.includes("secondary") && this.history.buckets.some((bucket) => bucket.stages.secondary > 0)) {
      this.shown = STAGES;
      this.#make();
      return;
    }
    this.#put();
  }

  close() {
    this.closed = true;
    removeEventListener("theme", this.onTheme);
    this.colors.removeEventListener("change", this.onTheme);
    this.resized.disconnect();
    this.plot?.destroy();
  }

  #put() {
    const data = this.#data();
    this.plot.setData(data);
    if (this.plot.cursor.idx === null || this.plot.cursor.left < 0)
      this.plot.setLegend({ idx: data[1].findLastIndex((value) => value !== null) });
  }

  #data() {
    const series = this.history.series(this.nowMs ?? Date.now(), POINTS);
    /** @param {(bucket: Bucket) => number} value */
    const of = (value) => series.map(({ bucket }) => (bucket ? value(bucket) : null));
    return [
      series.map(({ at }) => at / 1000),
      of((bucket) => bucket.age),
      ...this.shown.map((stage) => of((bucket) => bucket.stages[stage] ?? 0)),
    ];
  }

  #make() {
    if (this.closed || !this.UPlot || !this.element.isConnected) return;
    this.plot?.destroy();
    const style = getComputedStyle(this.element);
    const [text, grid] = [style.color, style.getPropertyValue("--line")];
    const axis = {
      stroke: text,
      grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1 },
      font: `12px ${style.fontFamily}`,
    };
    /** @param {unknown} _ @param {number | null | undefined} value */
    const format = (_, value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} ms`);
    this.plot = new this.UPlot(
      {
        width: this.element.clientWidth,
        height: HEIGHT,
        series: [
          { label: "time", value: (/** @type {unknown} */ _, /** @type {number} */ at) => (at ? time(at) : "–") },
          { label: "age", stroke: text, width: 2, value: format },
          ...this.shown.map((stage) => ({ label: stage, stroke: COLORS[stage], width: 1.5, value: format })),
        ],
        axes: [
          { ...axis, space: 90, values: times },
          { ...axis, size: 58, values: durations },
        ],
        scales: {
          y: {
            range: (/** @type {unknown} */ _, /** @type {number} */ __, /** @type {number | null} */ max) => [
              0,
              Math.max(10, (max ?? 10) * 1.1),
            ],
          },
        },
        cursor: { points: { size: 6 } },
      },
      this.#data(),
      this.element,
    );
    this.#put();
  }
}
