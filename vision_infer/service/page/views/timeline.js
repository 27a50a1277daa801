// @ts-check
// The outcomes of a stream's frames over time, and an explanation for a selected moment.

import { bars, kindOf, minutesOf, Seconds, SPANS, totals } from "../state/timeline.js";
import { getJson, messageOf, streamPath } from "../transport/http.js";
import { h, setText } from "./dom.js";
import { clockTime, count, OUTCOMES } from "./words.js";

/** @import { PastFrame } from "../state/history.js" */
/** @import { Bar, Outcomes } from "../state/timeline.js" */

const POLL_MS = 2000;
const MINUTES_POLL_MS = 20000;
const UNSETTLED_MS = 5000; // the outcome of newer frames may still change
const MAX_FRAMES = 4096;
const KINDS = ["good", "skipped", "lost", "failed"]; // from bottom to top
/** @type {Record<string, string>} */
const COLORS = { good: "--good", skipped: "--idle", lost: "--warn", failed: "--bad" };

export class Timeline {
  /** @param {string} name @param {(frames: PastFrame[], aheadMs: number) => void} onPast called once with the recorded frames */
  constructor(name, onPast) {
    this.onPast = onPast;
    this.path = streamPath(name);
    this.span = "2 minutes";
    this.seconds = new Seconds();
    /** @type {Map<number, Outcomes>} */
    this.minutes = new Map();
    this.requested = 0; // when the minutes were last requested
    this.ahead = 0; // the offset of the service's clock to the local one, ms
    /** @type {number | null} the selected moment, ms of the service's clock; null: now */
    this.selected = null;
    /** @type {Bar[]} */
    this.all = [];
    this.running = false;
    this.leaving = new AbortController();
    this.canvas = h("canvas");
    this.strip = h(
      "div.strip",
      {
        tabIndex: 0,
        role: "slider",
        "aria-label": "Selected moment",
        onclick: (/** @type {MouseEvent} */ event) => this.#click(event),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
      },
      this.canvas,
    );
    this.from = h("span");
    this.to = h("span");
    this.legend = h("ul.outcomes", { "aria-label": "Frames" });
    this.explanation = h("p.explanation", { role: "status" });
    this.hint = h("p.quiet");
    this.choice = h(
      "select",
      { "aria-label": "Time range", onchange: () => this.#setSpan(this.choice.value) },
      Object.keys(SPANS).map((value) => h("option", { value }, value)),
    );
    this.element = h(
      "div.timeline",
      null,
      h(
        "div.line",
        null,
        h("span.quiet.grow", null, "Select a moment to see the outcomes of its frames and the reason."),
        this.choice,
      ),
      this.strip,
      h("div.ends", null, this.from, this.to),
      this.legend,
      this.explanation,
      this.hint,
    );
    this.resized = new ResizeObserver(() => this.#draw());
    this.resized.observe(this.strip);
    this.onTheme = () => this.#draw();
    addEventListener("theme", this.onTheme);
    this.colors = matchMedia("(prefers-color-scheme: dark)");
    this.colors.addEventListener("change", this.onTheme);
  }

  /** @param {boolean} running whether the stream runs; if not, nothing is requested */
  update(running) {
    if (running === this.running) return;
    this.running = running;
    clearTimeout(this.timer);
    if (running) this.#explain().then(() => this.#poll());
  }

  close() {
    this.update(false);
    clearTimeout(this.explaining);
    this.leaving.abort();
    this.resized.disconnect();
    removeEventListener("theme", this.onTheme);
    this.colors.removeEventListener("change", this.onTheme);
  }

  get #now() {
    return Date.now() + this.ahead;
  }

  /** @param {string} what @param {Record<string, any>} times */
  async #get(what, times) {
    const query = new URLSearchParams(
      Object.entries(times).map(([key, value]) => [key, value instanceof Date ? value.toISOString() : value]),
    );
    return getJson(`${this.path}/${what}${query.size ? "?" : ""}${query}`, { signal: this.leaving.signal });
  }

  async #poll() {
    if (!this.running) return;
    try {
      if (!document.hidden) await this.#fetch();
    } catch {
      // the banner or the state reports that the service or the stream is unavailable
    }
    if (!this.running) return;
    this.#draw();
    this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  async #fetch() {
    const now = this.#now;
    const start = Math.max(now - SPANS["2 minutes"].ms, (this.fetched ?? 0) - UNSETTLED_MS);
    const { frames } = await this.#get("frames", { from: new Date(start), limit: MAX_FRAMES });
    // if the list is truncated, the second of its first frame is incomplete
    this.seconds.put(frames.length < MAX_FRAMES ? start : Date.parse(frames[0].captured ?? frames[0].at) + 1000, frames);
    this.seconds.forget(now - SPANS["2 minutes"].ms);
    if (this.fetched === undefined) this.onPast(frames, this.ahead);
    this.fetched = now;
    if (this.span === "2 minutes" || now - this.requested < MINUTES_POLL_MS) return;
    this.requested = now;
    const { minutes } = await this.#get("frames", { from: new Date(now - SPANS["24 hours"].ms), limit: 1 });
    this.minutes = minutesOf(minutes);
  }

  /** @param {string} span */
  #setSpan(span) {
    this.span = span;
    this.requested = 0;
    clearTimeout(this.timer);
    this.#poll();
  }

  // Explain why there were results at the selected moment, or none.
  async #explain() {
    const turn = (this.turn = {});
    try {
      const verdict = await this.#get("why", this.selected === null ? {} : { at: new Date(this.selected) });
      if (this.turn !== turn) return;
      const at = new Date(verdict.at);
      if (this.selected === null) this.ahead = at.getTime() - Date.now();
      setText(this.explanation, `${this.selected === null ? "Now" : clockTime(at)}: ${verdict.explanation}`);
      setText(this.hint, verdict.hint);
    } catch (error) {
      if (this.turn !== turn || !this.running) return;
      setText(this.explanation, messageOf(error));
      setText(this.hint, "");
    }
  }

  /** @param {number} at */
  #select(at) {
    const now = this.#now;
    this.selected = at >= now ? null : Math.max(at, now - SPANS[this.span].ms);
    this.#draw();
    clearTimeout(this.explaining);
    this.explaining = setTimeout(() => this.#explain(), 120); // not for each repeat of a key
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const { left, width } = this.strip.getBoundingClientRect();
    const index = Math.min(this.all.length - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * this.all.length)));
    if (this.all.length) this.#select(this.all[index].at + SPANS[this.span].step / 2);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { step, ms } = SPANS[this.span];
    /** @type {Record<string, number>} */
    const steps = {
      ArrowLeft: -step,
      ArrowDown: -step,
      ArrowRight: step,
      ArrowUp: step,
      PageUp: 10 * step,
      PageDown: -10 * step,
    };
    if (steps[event.key]) this.#select((this.selected ?? this.#now) + steps[event.key]);
    else if (event.key === "Home") this.#select(this.#now - ms);
    else if (event.key === "End") this.#select(Infinity);
    else return;
    event.preventDefault();
  }

  #draw() {
    const span = SPANS[this.span];
    const buckets = this.span === "2 minutes" ? this.seconds.buckets : this.minutes;
    this.all = bars(buckets, this.#now, span);
    this.#legend();
    setText(this.from, clockTime(new Date(this.all[0].at)));
    setText(this.to, "now");
    const shown = this.selected === null ? "now" : clockTime(new Date(this.selected));
    const values = {
      "aria-valuemin": this.all[0].at,
      "aria-valuemax": this.#now,
      "aria-valuenow": this.selected ?? this.#now,
      "aria-valuetext": shown,
    };
    for (const [key, value] of Object.entries(values))
      this.strip.setAttribute(key, typeof value === "number" ? Math.round(value / 1000) : value);
    this.#paint(span);
  }

  /** @param {{ ms: number, step: number }} span */
  #paint(span) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.strip);
    const barWidth = width / this.all.length;
    const max = Math.max(1, ...this.all.map(({ outcomes }) => Object.values(outcomes).reduce((sum, number) => sum + number, 0)));
    this.all.forEach(({ outcomes }, index) => {
      let bottom = height;
      for (const kind of KINDS) {
        const number = Object.entries(outcomes).reduce(
          (sum, [outcome, frames]) => sum + (kindOf(outcome) === kind ? frames : 0),
          0,
        );
        const barHeight = (number / max) * (height - 2);
        context.fillStyle = style.getPropertyValue(COLORS[kind]);
        context.fillRect(index * barWidth, bottom - barHeight, Math.max(1, barWidth - 1), barHeight);
        bottom -= barHeight;
      }
    });
    if (this.selected === null) return;
    const x = ((this.selected - this.all[0].at) / span.step) * barWidth;
    context.fillStyle = style.getPropertyValue("--accent");
    context.fillRect(Math.min(width - 2, Math.max(0, x - 1)), 0, 2, height);
  }

  #legend() {
    const entries = totals(this.all);
    while (this.legend.children.length > entries.length) this.legend.lastChild.remove();
    entries.forEach(([outcome, number], index) => {
      if (!this.legend.children[index]) this.legend.append(h("li", null, h("span.dot"), h("span")));
      const item = this.legend.children[index];
      item.dataset.kind = kindOf(outcome);
      item.title = OUTCOMES[outcome] ?? "";
      setText(item.lastChild, `${outcome === "result" ? "with a result" : outcome.replaceAll("_", " ")} ${count(number)}`);
    });
  }
}
