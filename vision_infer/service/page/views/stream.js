// One camera: its picture with what was found, where the time goes, what happens, what it is set to.

import { choices, choose } from "../state/choices.js";
import { History } from "../state/history.js";
import { Results } from "../transport/results.js";
import { check, confirm, h, say } from "./dom.js";
import { ShapeEditor } from "./shape_editor.js";
import { Events } from "./events.js";
import { Player } from "./player.js";
import { StagesPlot } from "./stages_plot.js";
import { Timeline } from "./timeline.js";
import { clockTime, count, drops, milliseconds, rate, rates, since, stateOf, wayOf } from "./words.js";

const SWITCHES = [["boxes", "Boxes"], ["labels", "Labels"], ["scores", "Scores"], ["trails", "Trails"], ["zones", "Zones"], ["counts", "Counts"]];

export function stream(store, name) {
  const view = new StreamView(store, name);
  return { element: view.element, title: name, close: () => view.close() };
}

class StreamView {
  constructor(store, name) {
    this.store = store;
    this.name = name;
    this.editor = null;
    this.history = new History(1000, 300);
    this.events = new Events(name);
    this.plot = new StagesPlot(this.history);
    this.timeline = new Timeline(name);
    this.past = h("section.card", null, h("h2", null, "Timeline"), this.timeline.element);
    this.transport = h("p.via", { role: "status" });
    this.player = new Player(name, { told: ({ detail }) => say(this.transport, detail) });
    this.results = new Results(
      (row) => this.#row(row),
      (change) => this.#changed(change),
    );
    this.state = h("span.state");
    this.since = h("span.quiet.for");
    this.reason = h("p.reason");
    this.way = h("span.state", { "data-tone": "warn", hidden: true });
    this.waySays = h("p.way", { role: "status", hidden: true });
    this.actions = h("div.buttons");
    this.wrong = h("p.wrong", { role: "alert" });
    this.facts = h("dl.facts");
    this.under = h("div.under", null, this.#switches(), this.transport);
    this.screen = h("div.screen", null, this.player.element, this.under);
    this.missing = h("p.empty", { hidden: true }, "There is no stream of this name.");
    this.body = h(
      "div.columns",
      null,
      h(
        "div.main",
        null,
        this.screen,
        this.past,
        h("section.card", null, h("h2", null, "Latency by stage"), this.plot.element),
      ),
      h("div.side", null, h("section.card", null, h("h2", null, "Now"), this.waySays, this.reason, this.facts), h("section.card", null, h("h2", null, "Events"), this.events.element)),
    );
    this.element = h(
      "section.view",
      null,
      h("div.head", null, h("h1", null, name), this.state, this.since, this.way, this.actions),
      this.wrong,
      this.missing,
      this.body,
    );
    this.updating = () => this.update();
    this.back = () => this.#back();
    store.addEventListener("streams", this.updating);
    store.addEventListener("connection", this.back);
    this.results.want([name]);
    this.player.start();
    this.timer = setInterval(() => this.plot.update(Date.now()), 1000);
    this.update();
  }

  update() {
    const stream = this.store.stream(this.name);
    this.missing.hidden = stream !== null || this.store.streams === null;
    this.body.hidden = !this.missing.hidden;
    this.past.hidden = !stream?.status;
    this.timeline.update(!this.past.hidden);
    if (!stream) {
      if (!this.missing.hidden) this.player.close(true);
      this.actions.replaceChildren();
      return;
    }
    const { word, tone } = stateOf(stream);
    say(this.state, word);
    this.state.dataset.tone = tone;
    say(this.since, stream.status?.since ? `for ${since(stream.status.since)}` : "");
    say(this.reason, stream.status?.reason ?? "");
    this.reason.hidden = !this.reason.textContent;
    this.#giveWay(stream);
    this.events.update(Boolean(stream.settings.clips));
    this.player.update(stream);
    this.#act(stream);
    this.#tell(stream);
  }

  close() {
    clearInterval(this.timer);
    this.store.removeEventListener("streams", this.updating);
    this.store.removeEventListener("connection", this.back);
    this.results.close();
    this.player.close();
    this.plot.close();
    this.timeline.close();
    this.events.close();
  }

  // What it does without while the machine is too small. No running time in it: it is read out when it changes.
  #giveWay(stream) {
    const way = wayOf(stream);
    this.way.hidden = this.waySays.hidden = way === null;
    say(this.way, way ? `gives way: ${way.short}` : "");
    const when = way?.since ? ` since ${clockTime(new Date(way.since))}` : "";
    say(this.waySays, way ? `The machine is too small for all streams. This one gives way${when}: ${way.long}. Measured then: ${way.measured}.` : "");
  }

  #row(row) {
    this.history.push(row, Date.now());
    this.player.push(row);
    if (row.events || row.skipped_events) this.events.row(row);
  }

  #changed(change) {
    this.events.change(change);
    this.store.changed(change);
  }

  #back() {
    if (this.store.goneSince !== null) return;
    this.results.hurry();
    this.player.again();
  }

  #switches() {
    const boxes = SWITCHES.map(([key, label]) =>
      check(label, choices.overlay[key], (on) => {
        choose({ overlay: { ...choices.overlay, [key]: on } });
        this.player.draw();
      }),
    );
    const between = h(
      "select",
      { "aria-label": "Between results", onchange: () => choose({ between: between.value }) },
      [["interpolate", "boxes move between results"], ["fade", "boxes fade between results"]].map(([value, text]) =>
        h("option", { value, selected: choices.between === value }, text),
      ),
    );
    const step = check("Picture waits for its result", choices.inStep, (on) => choose({ inStep: on }));
    step.title = "Holds the picture back by as much as results take, half a second at most, so that boxes are exact";
    return h("div.switches", { role: "group", "aria-label": "Overlay" }, boxes, between, step);
  }

  // Buttons are made anew only where others are to be there: focus stays.
  #act(stream) {
    const key = `${this.store.mayChange} ${stream.origin} ${stream.status === null} ${this.editor !== null}`;
    if (key === this.actsFor) return;
    this.actsFor = key;
    const buttons = [];
    if (this.store.mayChange && stream.origin === "file") {
      buttons.push(h("span.quiet", { title: "A stream of the file of settings is changed there; the file is watched" }, "set in the file"));
    } else if (this.store.mayChange && this.editor === null) {
      const paused = stream.status === null;
      buttons.push(
        h("button", { type: "button", onclick: () => this.#pause(paused) }, paused ? "Resume" : "Pause"),
        h("button", { type: "button", disabled: paused, onclick: () => this.#edit() }, "Zones and lines"),
        h("a.button", { href: `#/stream/${encodeURIComponent(this.name)}/edit` }, "Settings"),
        h("button.danger", { type: "button", onclick: () => this.#remove() }, "Remove"),
      );
    }
    this.actions.replaceChildren(...buttons);
  }

  async #attempt(work) {
    say(this.wrong, "");
    try {
      await work();
      return true;
    } catch (error) {
      say(this.wrong, error.message);
      return false;
    }
  }

  #pause(paused) {
    const settings = this.store.stream(this.name).settings;
    return this.#attempt(() => this.store.put(this.name, { ...settings, enabled: paused }));
  }

  async #remove() {
    if (!(await confirm(`Remove ${this.name}? Its settings are gone then.`, "Remove"))) return;
    if (await this.#attempt(() => this.store.remove(this.name))) location.hash = "#/";
  }

  #edit() {
    const stream = this.store.stream(this.name);
    const finish = () => {
      this.editor.element.remove();
      this.editor.panel.remove();
      this.editor = null;
      this.player.hidden = false;
      this.player.draw();
      this.under.hidden = false;
      this.update();
    };
    this.editor = new ShapeEditor(stream, this.player, {
      save: (settings) => this.store.put(this.name, settings).then(finish),
      cancel: finish,
    });
    this.player.hidden = true;
    this.player.draw();
    this.player.element.append(this.editor.element);
    this.screen.append(this.editor.panel);
    this.under.hidden = true;
    this.update();
    this.editor.panel.querySelector("button").focus();
  }

  #tell({ settings, status }) {
    const facts = [];
    if (status) {
      const size = status.size ? `${status.size.width}×${status.size.height}` : "–";
      facts.push(
        ["Age p50 / p95 / p99", `${["p50", "p95", "p99"].map((key) => milliseconds(status.age_ms[key])).join(" / ")} ms`],
        ["Frames a second", rates(status)],
        ["Dropped", drops(status.dropped).join(", ") || "none"],
        ["Picture", `${size} ${status.codec ?? ""} ${status.frame_rate ? `at ${rate(status.frame_rate)}` : ""}`],
        ["Model", status.model],
        ["Engine", status.engine],
        ["Clock", status.clock ?? "–"],
        ["Reconnects", count(status.reconnects)],
        ["Results", count(status.results)],
        ...Object.entries(status.occupancy).map(([zone, number]) => [`In ${zone}`, count(number)]),
        ...Object.entries(status.counts).map(([line, { in: entered, out }]) => [`Over ${line}`, `${count(entered)} in, ${count(out)} out`]),
      );
    }
    facts.push(["Source", settings.detect]);
    if (settings.view) facts.push(["Shown from", settings.view]);
    if (settings.classes) facts.push(["Classes", settings.classes.join(", ")]);
    while (this.facts.children.length > facts.length) this.facts.lastChild.remove();
    facts.forEach(([key, value], index) => {
      const known = this.facts.children[index];
      if (!known) this.facts.append(h("div", null, h("dt", null, key), h("dd", null, value)));
      else {
        say(known.firstChild, key);
        say(known.lastChild, value);
      }
    });
  }
}
