// @ts-check
// The view of one camera: video with detections, timeline, latency, events, status and settings.

import { preferences, setPreferences } from "../state/preferences.js";
import { History } from "../state/history.js";
import { messageOf, send, streamPath } from "../transport/http.js";
import { Results } from "../transport/results.js";
import { check, confirm, h, saveNote, setText } from "./dom.js";
import { Counts } from "./counts.js";
import { ShapeEditor } from "./shape_editor.js";
import { Events } from "./events.js";
import { Player } from "./player.js";
import { StagesPlot } from "./stages_plot.js";
import { Timeline } from "./timeline.js";
import {
  clockTime,
  count,
  degradationOf,
  drops,
  ingestFacts,
  quantiles,
  rate,
  rates,
  reasonOf,
  since,
  stateOf,
} from "./words.js";

/** @import { Store } from "../state/store.js" */
/** @import { Change, Row, Settings, Stream, Transport, View } from "../transport/api.js" */

/** @type {[keyof typeof preferences.overlay, string][]} */
const SWITCHES = [
  ["boxes", "Boxes"],
  ["details", "Masks and keypoints"],
  ["labels", "Labels"],
  ["scores", "Scores"],
  ["trails", "Trails"],
  ["zones", "Zones"],
  ["counts", "Counts"],
];

/** @param {Store} store @param {string} name @returns {View} */
export function stream(store, name) {
  const view = new StreamView(store, name);
  return { element: view.element, title: name, close: () => view.close() };
}

class StreamView {
  /** @param {Store} store @param {string} name */
  constructor(store, name) {
    this.store = store;
    this.name = name;
    /** @type {ShapeEditor | null} */
    this.editor = null;
    this.history = new History(1000, 300);
    this.events = new Events(name);
    this.plot = new StagesPlot(this.history);
    this.counts = new Counts(name);
    this.timeline = new Timeline(name, (frames, aheadMs) => this.history.fill(frames, aheadMs));
    this.past = h("section.card", null, h("h2", null, "Timeline"), this.timeline.element);
    this.transport = h("p.via", { role: "status" });
    this.player = new Player(name, ({ detail }) => setText(this.transport, detail));
    this.results = new Results(
      (row) => this.#row(row),
      (change) => this.#changed(change),
    );
    this.state = h("span.state");
    this.since = h("span.quiet.for");
    this.reason = h("p.reason");
    this.actionsFor = "";
    this.degradation = h("span.state", { "data-tone": "warn", hidden: true });
    this.degradationNote = h("p.degradation", { role: "status", hidden: true });
    this.actions = h("div.buttons");
    this.errorText = h("p.error", { role: "alert" });
    this.keep = saveNote();
    this.facts = h("dl.facts");
    this.under = h("div.under", null, this.#switches(), this.transport);
    this.screen = h("div.screen", null, this.player.element, this.under);
    this.missing = h("p.empty", { hidden: true }, "There is no camera with this name.");
    this.body = h(
      "div.columns",
      null,
      h(
        "div.main",
        null,
        this.screen,
        this.past,
        this.counts.element,
        h("section.card", null, h("h2", null, "Latency by stage"), this.plot.element),
      ),
      h(
        "div.side",
        null,
        h("section.card", null, h("h2", null, "Now"), this.degradationNote, this.reason, this.facts),
        h("section.card", null, h("h2", null, "Events"), this.events.element),
      ),
    );
    this.element = h(
      "section.view",
      null,
      h("div.head", null, h("h1", null, name), this.state, this.since, this.degradation, this.actions),
      this.keep,
      this.errorText,
      this.missing,
      this.body,
    );
    this.updating = () => this.update();
    this.reconnecting = () => this.#reconnect();
    store.addEventListener("streams", this.updating);
    store.addEventListener("connection", this.reconnecting);
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
    this.keep.hidden = !this.store.canAdd || stream.origin !== "command_line";
    const { word, tone } = stateOf(stream);
    setText(this.state, word);
    this.state.dataset.tone = tone;
    setText(this.since, stream.status?.since ? `for ${since(stream.status.since)}` : "");
    setText(this.reason, reasonOf(stream.status));
    this.reason.hidden = !this.reason.textContent;
    this.#updateDegradation(stream);
    this.events.update(Boolean(stream.settings.clips));
    const { zones, lines } = stream.settings;
    this.counts.update(stream.status !== null && Object.keys({ ...zones, ...lines }).length > 0, this.store.canOperate);
    this.player.update(stream);
    this.#updateActions(stream);
    this.#updateFacts(stream);
  }

  close() {
    clearInterval(this.timer);
    this.store.removeEventListener("streams", this.updating);
    this.store.removeEventListener("connection", this.reconnecting);
    this.results.close();
    this.player.close();
    this.plot.close();
    this.timeline.close();
    this.counts.close();
    this.events.close();
  }

  // The degradation under overload. The text has no running time: screen readers announce each change.
  /** @param {Stream} stream */
  #updateDegradation(stream) {
    const degradation = degradationOf(stream);
    this.degradation.hidden = this.degradationNote.hidden = degradation === null;
    setText(this.degradation, degradation ? `degraded: ${degradation.short}` : "");
    const when = degradation?.since ? ` since ${clockTime(new Date(degradation.since))}` : "";
    setText(
      this.degradationNote,
      degradation
        ? `The machine is overloaded. This camera is degraded${when}: ${degradation.long}. Measured: ${degradation.measured}.`
        : "",
    );
  }

  /** @param {Row} row */
  #row(row) {
    this.history.push(row, Date.now());
    this.player.push(row);
    if (row.events || row.skipped_events) this.events.row(row);
  }

  /** @param {Change} change */
  #changed(change) {
    this.events.change(change);
    this.store.changed(change);
  }

  #reconnect() {
    if (this.store.unavailableSince !== null) return;
    this.results.reconnect();
    this.player.reconnect();
  }

  #switches() {
    const boxes = SWITCHES.map(([key, label]) =>
      check(label, preferences.overlay[key], (on) => {
        setPreferences({ overlay: { ...preferences.overlay, [key]: on } });
        this.player.draw();
      }),
    );
    const between = h(
      "select",
      { "aria-label": "Between results", onchange: () => setPreferences({ between: between.value }) },
      [
        ["interpolate", "interpolate boxes between results"],
        ["fade", "fade boxes out between results"],
      ].map(([value, text]) => h("option", { value, selected: preferences.between === value }, text)),
    );
    const step = check("Delay video until results arrive", preferences.delayVideo, (on) => setPreferences({ delayVideo: on }));
    step.title = "Delays the video by up to 0.5 s so that each frame is shown with its own boxes";
    return h("div.switches", { role: "group", "aria-label": "Display" }, boxes, between, step, this.player.sound.element);
  }

  // Re-create the buttons only if the set changes, so that the focus is kept.
  /** @param {Stream} stream */
  #updateActions(stream) {
    const key = `${this.store.canEdit} ${stream.origin} ${stream.status?.state === "live"} ${stream.status === null} ${this.editor !== null}`;
    if (key === this.actionsFor) return;
    this.actionsFor = key;
    const live = stream.status?.state === "live";
    const buttons = live
      ? [h("button", { type: "button", onclick: () => this.#attempt(() => this.#snapshot()) }, "Snapshot")]
      : [];
    if (this.store.canEdit && stream.origin === "file") {
      buttons.push(
        h(
          "span.quiet",
          { title: "This camera is defined in the configuration file. Edit the file: the service reloads it." },
          "defined in configuration file",
        ),
      );
    } else if (this.store.canEdit && this.editor === null) {
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

  /** @param {() => Promise<void>} work */
  async #attempt(work) {
    setText(this.errorText, "");
    try {
      await work();
      return true;
    } catch (error) {
      setText(this.errorText, messageOf(error));
      return false;
    }
  }

  // Download the current image with its detections.
  async #snapshot() {
    const answer = await send("GET", `${streamPath(this.name)}/snapshot.jpg?annotated=true`);
    const captured = answer.headers.get("X-Captured-At") ?? new Date().toISOString();
    const url = URL.createObjectURL(await answer.blob());
    h("a", { href: url, download: `${this.name}-${captured.replaceAll(":", "-")}.jpg` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000); // the download has begun
  }

  /** @param {boolean} paused */
  #pause(paused) {
    const settings = this.store.stream(this.name)?.settings;
    return this.#attempt(() => this.store.put(this.name, { ...settings, enabled: paused }));
  }

  async #remove() {
    const again = this.store.stream(this.name)?.origin === "command_line";
    const effect = again ? "The command line adds it again at the next start." : "This deletes its settings.";
    if (!(await confirm(`Remove ${this.name}? ${effect}`, "Remove"))) return;
    if (await this.#attempt(() => this.store.remove(this.name))) location.hash = "#/";
  }

  #edit() {
    const stream = this.store.stream(this.name);
    if (!stream) return;
    const finish = () => {
      editor.element.remove();
      editor.panel.remove();
      this.editor = null;
      this.player.hidden = false;
      this.player.draw();
      this.under.hidden = false;
      this.update();
    };
    const editor = (this.editor = new ShapeEditor(stream, this.player, {
      save: (/** @type {Settings} */ settings) => this.store.put(this.name, settings).then(finish),
      cancel: finish,
    }));
    this.player.hidden = true;
    this.player.draw();
    this.player.element.append(editor.element);
    this.screen.append(editor.panel);
    this.under.hidden = true;
    this.update();
    editor.panel.querySelector("button").focus();
  }

  /** @param {Stream} stream */
  #updateFacts({ settings, status }) {
    const facts = [];
    if (status) {
      const size = status.size ? `${status.size.width}×${status.size.height}` : "–";
      facts.push(
        ...(status.node ? [["Node", status.node]] : []),
        ["Age p50 / p95 / p99", `${quantiles(status.age_ms)} ms`],
        ["Frames/s", rates(status)],
        ["Dropped", drops(status.dropped).join(", ") || "none"],
        ["Video", `${size} ${status.codec ?? ""} ${status.frame_rate ? `at ${rate(status.frame_rate)} frames/s` : ""}`],
        ...ingestFacts(settings, status),
        ["Model", status.model],
        ["Engine", status.engine],
        ["Clock", status.clock ?? "–"],
        ["Reconnects", count(status.reconnects)],
        ["Results", count(status.results)],
        ...Object.entries(status.occupancy).map(([zone, number]) => [`In zone ${zone}`, count(number)]),
        ...Object.entries(status.counts).map(([line, { in: entered, out }]) => [
          `Crossings of ${line}`,
          `${count(entered)} in, ${count(out)} out`,
        ]),
      );
    }
    facts.push(["Source", settings.detect]);
    if (settings.view) facts.push(["Video source", settings.view]);
    if (settings.classes) facts.push(["Classes", settings.classes.join(", ")]);
    while (this.facts.children.length > facts.length) this.facts.lastChild.remove();
    facts.forEach(([key, value], index) => {
      const item = this.facts.children[index];
      if (!item) this.facts.append(h("div", null, h("dt", null, key), h("dd", null, value)));
      else {
        setText(item.firstChild, key);
        setText(item.lastChild, value);
      }
    });
  }
}
