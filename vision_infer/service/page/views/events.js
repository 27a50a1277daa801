// What happened at a stream, the newest first: at its zones and lines, with clips; its own states; how it gives way.

import { getJson } from "../transport/http.js";
import { showClip } from "./clip.js";
import { h } from "./dom.js";
import { clockTime, count, wayWord } from "./words.js";

const MOST = 100;
const POLL_MS = 2000;
const SAME_MS = 50; // times of changes are told to some milliseconds
const SETTLED = new Set(["ready", "none", "missing", "failed", "removed"]);

export class Events {
  constructor(stream) {
    this.stream = stream;
    this.clips = false; // whether the stream makes any
    this.items = []; // { at, id, clip, element, … }, the newest first
    this.dialog = null;
    this.asks = 2; // for what happened before: once more, since some happens before this page listens
    this.closed = false;
    this.list = h("ol.events", { "aria-label": "Events" });
    this.none = h("p.quiet", null, "Nothing yet.");
    this.element = h("div", null, this.none, this.list);
    this.#poll();
  }

  // clips: whether the stream makes any now
  update(clips) {
    this.clips = clips;
  }

  // row: a result
  row(row) {
    for (const event of [...(row.skipped_events ?? []), ...(row.events ?? [])]) this.#scene(row.captured_at, event);
  }

  // change: of the stream's state, or of how it gives way
  change(change) {
    if (change.type === "state") this.#add({ at: change.at, kind: "state", text: [change.state.replaceAll("_", " "), change.reason].filter(Boolean).join(": ") });
    else if (change.type === "degraded") this.#add({ at: change.at, kind: "load", text: wayWords(change) });
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.dialog?.close();
  }

  #read(query) {
    return getJson(`/api/v1/events?${new URLSearchParams({ ...query, stream: this.stream, limit: MOST })}`);
  }

  // Ask for what happened before, and then for what became of clips that are not done yet.
  async #poll() {
    const open = this.items.filter((one) => one.id && !SETTLED.has(one.clip?.state));
    try {
      if (this.asks) {
        for (const change of await this.#read({})) this.change(change);
        for (const event of await this.#read({ type: "scene" })) this.#scene(event.at, event);
        this.asks -= 1;
      } else if (this.clips && open.length && !document.hidden) {
        const told = new Map((await this.#read({ type: "scene", from: open.at(-1).at })).map((one) => [one.id, one.clip]));
        for (const item of open) this.#clip(item, told.get(item.id) ?? { state: "none" });
      }
    } catch {
      // the service is away, which is told elsewhere
    }
    if (!this.closed) this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  #scene(at, event) {
    const known = event.id && this.items.find((one) => one.id === event.id);
    if (known) return event.clip && this.#clip(known, event.clip);
    const item = this.#add({ at: at ?? new Date().toISOString(), kind: event.kind, text: words(event), id: event.id });
    if (item && event.clip) this.#clip(item, event.clip);
  }

  // Where its time belongs: what is told late may be older than what is there.
  #add({ at, kind, text, id = null }) {
    const when = new Date(at);
    const same = (one) => one.text === text && Math.abs(Date.parse(one.at) - when) < SAME_MS;
    if (!id && this.items.some(same)) return null; // told twice: asked for, and as it happened
    this.none.hidden = true;
    const note = h("span.clip");
    const element = h(
      "li",
      null,
      h("time", { dateTime: when.toISOString(), title: when.toLocaleString("en-GB") }, clockTime(when)),
      h("span.kind", { "data-kind": kind }, kind),
      h("span", null, text, " ", note),
    );
    const item = { at, text, id, element, note, clip: null };
    const place = this.items.findIndex((one) => Date.parse(one.at) <= when.getTime());
    const index = place < 0 ? this.items.length : place;
    this.list.insertBefore(element, this.items[index]?.element ?? null);
    this.items.splice(index, 0, item);
    while (this.items.length > MOST) this.items.pop().element.remove();
    return item;
  }

  #clip(item, clip) {
    const state = item.clip?.state;
    item.clip = clip;
    if (state !== clip.state) item.note.replaceChildren(...this.#about(item));
  }

  #about(item) {
    const { state, reason, url, seconds } = item.clip;
    if (state === "recording") return [h("span.quiet", null, "clip is being written…")];
    if (state === "ready") {
      const length = `${count(Math.round(seconds))} s`;
      const open = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in a tab or window of its own
        event.preventDefault();
        this.dialog = showClip(`${clockTime(new Date(item.at))}: ${item.text}`, item.clip);
      };
      return [h("a", { href: url, "aria-label": `Clip, ${length}: ${item.text}`, onclick: open }, `Clip, ${length}`)];
    }
    if (state === "none") return [];
    return [h("details", null, h("summary", null, state === "removed" ? "clip is gone" : "no clip"), reason || "It could not be made.")];
  }
}

function words(event) {
  const who = `${event.label} #${event.track_id}`;
  const seconds = typeof event.seconds === "number" ? `${event.seconds.toFixed(1)} s` : "";
  if (event.kind === "cross") return `${who} crosses ${event.place} ${event.direction} (${event.counts.in} in, ${event.counts.out} out)`;
  if (event.kind === "enter") return `${who} enters ${event.place}`;
  if (event.kind === "dwell") return `${who} has been in ${event.place} for ${seconds}`;
  return `${who} leaves ${event.place} after ${seconds}`;
}

function wayWords({ step, before, reason }) {
  if (step === "none") return `has what it wants again, before: ${wayWord(before)} (${reason})`;
  return `gives way: ${wayWord(step)}${before === "none" ? "" : `, before: ${wayWord(before)}`} (${reason})`;
}
