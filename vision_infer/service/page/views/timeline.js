// What became of a stream's frames over time, and why it had results at a moment, or had none.

import { bars, kindOf, minutesOf, Seconds, SPANS, totals } from "../state/timeline.js";
import { getJson, streamPath } from "../transport/http.js";
import { h, say } from "./dom.js";
import { clockTime, count, FATES } from "./words.js";

const POLL_MS = 2000;
const MINUTES_POLL_MS = 20000;
const UNSETTLED_MS = 5000; // younger frames may still get another outcome
const MOST_FRAMES = 4096;
const KINDS = ["good", "wanted", "lost", "failed"]; // from the bottom up
const COLOURS = { good: "--good", wanted: "--idle", lost: "--warn", failed: "--bad" };

export class Timeline {
  constructor(name) {
    this.path = streamPath(name);
    this.span = "2 minutes";
    this.seconds = new Seconds();
    this.minutes = new Map();
    this.asked = 0; // when minutes were asked for
    this.ahead = 0; // by how much the service's clock is ahead of this one, ms
    this.chosen = null; // moment, ms of the service's clock; null: now
    this.all = [];
    this.running = false;
    this.leaving = new AbortController();
    this.canvas = h("canvas");
    this.strip = h(
      "div.strip",
      {
        tabIndex: 0,
        role: "slider",
        "aria-label": "Moment",
        onclick: (event) => this.#click(event),
        onkeydown: (event) => this.#key(event),
      },
      this.canvas,
    );
    this.from = h("span");
    this.to = h("span");
    this.legend = h("ul.outcomes", { "aria-label": "Frames" });
    this.says = h("p.says", { role: "status" });
    this.hint = h("p.quiet");
    this.choice = h(
      "select",
      { "aria-label": "How far back", onchange: () => this.#look(this.choice.value) },
      Object.keys(SPANS).map((value) => h("option", { value }, value)),
    );
    this.element = h(
      "div.timeline",
      null,
      h("div.line", null, h("span.quiet.grow", null, "Choose a moment: what became of its frames, and why."), this.choice),
      this.strip,
      h("div.ends", null, this.from, this.to),
      this.legend,
      this.says,
      this.hint,
    );
    this.resized = new ResizeObserver(() => this.#draw());
    this.resized.observe(this.strip);
    this.onTheme = () => this.#draw();
    addEventListener("theme", this.onTheme);
    this.colours = matchMedia("(prefers-color-scheme: dark)");
    this.colours.addEventListener("change", this.onTheme);
  }

  // running: the stream is; else there is nothing to ask for
  update(running) {
    if (running === this.running) return;
    this.running = running;
    clearTimeout(this.timer);
    if (running) this.#ask().then(() => this.#poll());
  }

  close() {
    this.update(false);
    clearTimeout(this.asking);
    this.leaving.abort();
    this.resized.disconnect();
    removeEventListener("theme", this.onTheme);
    this.colours.removeEventListener("change", this.onTheme);
  }

  get #now() {
    return Date.now() + this.ahead;
  }

  async #get(what, times) {
    const query = new URLSearchParams(Object.entries(times).map(([key, value]) => [key, value instanceof Date ? value.toISOString() : value]));
    return getJson(`${this.path}/${what}${query.size ? "?" : ""}${query}`, { signal: this.leaving.signal });
  }

  async #poll() {
    if (!this.running) return;
    try {
      if (!document.hidden) await this.#fetch();
    } catch {
      // the service is away, or the stream: both are told elsewhere
    }
    if (!this.running) return;
    this.#draw();
    this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  async #fetch() {
    const now = this.#now;
    const known = Math.max(now - SPANS["2 minutes"].ms, (this.fetched ?? 0) - UNSETTLED_MS);
    const { frames } = await this.#get("frames", { from: new Date(known), limit: MOST_FRAMES });
    // where there were more, what is older than the first of them is not whole
    this.seconds.put(frames.length < MOST_FRAMES ? known : Date.parse(frames[0].captured ?? frames[0].at) + 1000, frames);
    this.seconds.forget(now - SPANS["2 minutes"].ms);
    this.fetched = now;
    if (this.span === "2 minutes" || now - this.asked < MINUTES_POLL_MS) return;
    this.asked = now;
    const { minutes } = await this.#get("frames", { from: new Date(now - SPANS["24 hours"].ms), limit: 1 });
    this.minutes = minutesOf(minutes);
  }

  #look(span) {
    this.span = span;
    this.asked = 0;
    clearTimeout(this.timer);
    this.#poll();
  }

  // Why there were results at the chosen moment, or none.
  async #ask() {
    const turn = (this.turn = {});
    try {
      const verdict = await this.#get("why", this.chosen === null ? {} : { at: new Date(this.chosen) });
      if (this.turn !== turn) return;
      const at = new Date(verdict.at);
      if (this.chosen === null) this.ahead = at - Date.now();
      say(this.says, `${this.chosen === null ? "Now" : clockTime(at)}: ${verdict.says}`);
      say(this.hint, verdict.hint);
    } catch (error) {
      if (this.turn !== turn || !this.running) return;
      say(this.says, error.message);
      say(this.hint, "");
    }
  }

  #choose(at) {
    const now = this.#now;
    this.chosen = at >= now ? null : Math.max(at, now - SPANS[this.span].ms);
    this.#draw();
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.#ask(), 120); // not for each step of a key that is held
  }

  #click(event) {
    const { left, width } = this.strip.getBoundingClientRect();
    const index = Math.min(this.all.length - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * this.all.length)));
    if (this.all.length) this.#choose(this.all[index].at + SPANS[this.span].step / 2);
  }

  #key(event) {
    const { step, ms } = SPANS[this.span];
    const steps = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageUp: 10 * step, PageDown: -10 * step }[event.key];
    if (steps) this.#choose((this.chosen ?? this.#now) + steps);
    else if (event.key === "Home") this.#choose(this.#now - ms);
    else if (event.key === "End") this.#choose(Infinity);
    else return;
    event.preventDefault();
  }

  #draw() {
    const span = SPANS[this.span];
    const buckets = this.span === "2 minutes" ? this.seconds.buckets : this.minutes;
    this.all = bars(buckets, this.#now, span);
    this.#legend();
    say(this.from, clockTime(new Date(this.all[0].at)));
    say(this.to, "now");
    const shown = this.chosen === null ? "now" : clockTime(new Date(this.chosen));
    const values = { "aria-valuemin": this.all[0].at, "aria-valuemax": this.#now, "aria-valuenow": this.chosen ?? this.#now, "aria-valuetext": shown };
    for (const [key, value] of Object.entries(values)) this.strip.setAttribute(key, typeof value === "number" ? Math.round(value / 1000) : value);
    this.#paint(span);
  }

  #paint(span) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.strip);
    const each = width / this.all.length;
    const most = Math.max(1, ...this.all.map(({ outcomes }) => Object.values(outcomes).reduce((sum, number) => sum + number, 0)));
    this.all.forEach(({ outcomes }, index) => {
      let bottom = height;
      for (const kind of KINDS) {
        const number = Object.entries(outcomes).reduce((sum, [outcome, some]) => sum + (kindOf(outcome) === kind ? some : 0), 0);
        const tall = (number / most) * (height - 2);
        context.fillStyle = style.getPropertyValue(COLOURS[kind]);
        context.fillRect(index * each, bottom - tall, Math.max(1, each - 1), tall);
        bottom -= tall;
      }
    });
    if (this.chosen === null) return;
    const x = ((this.chosen - this.all[0].at) / span.step) * each;
    context.fillStyle = style.getPropertyValue("--accent");
    context.fillRect(Math.min(width - 2, Math.max(0, x - 1)), 0, 2, height);
  }

  #legend() {
    const told = totals(this.all);
    while (this.legend.children.length > told.length) this.legend.lastChild.remove();
    told.forEach(([outcome, number], index) => {
      if (!this.legend.children[index]) this.legend.append(h("li", null, h("span.dot"), h("span")));
      const item = this.legend.children[index];
      item.dataset.kind = kindOf(outcome);
      item.title = FATES[outcome] ?? "";
      say(item.lastChild, `${outcome === "emitted" ? "with a result" : outcome.replaceAll("_", " ")} ${count(number)}`);
    });
  }
}
