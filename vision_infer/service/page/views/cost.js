// What each stream takes of the machine, what that costs, and how many more would fit.

import { getJson } from "../transport/http.js";
import { field, h, say } from "./dom.js";
import { rate } from "./words.js";

const POLL_MS = 3000;

export function cost() {
  const view = new Cost();
  return { element: view.element, title: "Cost", close: () => view.close() };
}

class Cost {
  constructor() {
    this.closed = false;
    this.says = h("p.says", { role: "status" });
    this.wrong = h("p.wrong", { role: "alert" });
    this.meter = h("meter", { min: 0, max: 1, low: 0.75, high: 0.85, optimum: 0, "aria-label": "Machine in use" });
    this.used = h("strong");
    this.note = h("p.quiet");
    this.fps = h("input", { type: "number", min: 0.1, max: 1000, step: "any", placeholder: "as it is", oninput: () => this.#soon() });
    this.head = h("tr");
    this.rows = h("tbody");
    this.table = h("table.costs", { hidden: true }, h("thead", null, this.head), this.rows);
    this.none = h("p.quiet", { hidden: true }, "No stream runs.");
    this.element = h(
      "section.view",
      null,
      h("h1", null, "Cost"),
      this.wrong,
      h("section.card", null, this.says, h("div.line.use", null, h("span.key", null, "in use"), this.meter, this.used), this.note),
      h("section.card", null, h("h2", null, "Streams"), h("div.rate", null, field("At another rate, results a second", this.fps)), h("div.scroll", null, this.table), this.none),
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
      const answer = document.hidden ? null : await getJson(`/api/v1/cost${fps === null ? "" : `?fps=${fps}`}`);
      if (this.closed || this.turn !== turn) return;
      say(this.wrong, "");
      if (answer) this.#show(answer, fps);
    } catch (error) {
      if (this.closed || this.turn !== turn) return;
      say(this.wrong, error.message);
    }
    this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  #show(answer, fps) {
    const priced = answer.machine_per_hour !== null;
    const money = (value) => (value === null ? "–" : value.toLocaleString("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 }));
    say(this.says, answer.says);
    this.meter.value = answer.busy;
    say(this.used, percent(answer.busy));
    say(
      this.note,
      priced
        ? `The machine is set to ${answer.machine_per_hour} ${answer.currency} an hour; what no stream uses, other programs included, comes to ${money(answer.unused_per_month)} ${answer.currency} a month.`
        : "Set cost.machine_per_hour in the file of settings to see prices.",
    );
    const names = ["Stream", "Results a second", "CPU cores", answer.accelerator === null ? null : "Engine", "Of the machine", priced ? `${answer.currency} a month` : null];
    if (fps !== null) names.push(`At ${fps} a second`, priced ? `${answer.currency} a month then` : null);
    const told = answer.streams.map((one) => {
      const cells = [
        one.name,
        rate(one.result_fps),
        (one.decode_cores + one.shared_cores).toFixed(2),
        answer.accelerator === null ? null : percent(one.accelerator),
        percent(one.share),
        priced ? money(one.per_month) : null,
      ];
      if (fps !== null) cells.push(percent(one.share_at_fps), priced ? money(one.per_month_at_fps) : null);
      return cells.filter((cell) => cell !== null);
    });
    put(this.head, names.filter((name) => name !== null), (text) => h("th", { scope: "col" }, text));
    while (this.rows.children.length > told.length) this.rows.lastChild.remove();
    told.forEach((cells, index) => {
      if (!this.rows.children[index]) this.rows.append(h("tr"));
      put(this.rows.children[index], cells, (text, first) => h(first ? "th" : "td", first ? { scope: "row" } : null, text));
    });
    this.table.hidden = told.length === 0;
    this.none.hidden = told.length > 0;
  }
}

function put(row, texts, make) {
  while (row.children.length > texts.length) row.lastChild.remove();
  texts.forEach((text, index) => {
    if (row.children[index]) say(row.children[index], text);
    else row.append(make(text, index === 0));
  });
}

function percent(part) {
  if (part === null || part === undefined) return "–";
  return `${part < 0.0995 ? (part * 100).toFixed(1) : Math.round(part * 100)} %`;
}
