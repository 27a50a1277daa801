// @ts-check
// Events of a stream, newest first: zone and line events with their clips, state changes, degradation.

import { getJson } from "../transport/http.js";
import { showClip } from "./clip.js";
import { h } from "./dom.js";
import { clockTime, count, degradationWord } from "./words.js";

/** @import { Change, Clip, Row, SceneEvent } from "../transport/api.js" */
/**
 * @typedef {{ at: string, text: string, id: string | null, element: HTMLElement, note: HTMLElement, clip: Partial<Clip> | null }} Item
 */

const MAX_ITEMS = 100;
const POLL_MS = 2000;
const SAME_MS = 50; // the times of changes are precise to a few milliseconds
const SETTLED = new Set(["ready", "none", "missing", "failed", "removed"]);

export class Events {
  /** @param {string} stream */
  constructor(stream) {
    this.stream = stream;
    this.clips = false; // whether the stream records clips
    /** @type {Item[]} newest first */
    this.items = [];
    this.dialog = null;
    this.asks = 2; // requests for past events: the second covers the time before the WebSocket opened
    this.closed = false;
    this.list = h("ol.events", { "aria-label": "Events" });
    this.none = h("p.quiet", null, "No events yet.");
    this.element = h("div", null, this.none, this.list);
    this.#poll();
  }

  /** @param {boolean} clips whether the stream records clips */
  update(clips) {
    this.clips = clips;
  }

  /** @param {Row} row */
  row(row) {
    for (const event of [...(row.skipped_events ?? []), ...(row.events ?? [])]) this.#scene(row.captured_at, event);
  }

  /** @param {Change} change */
  change(change) {
    if (change.type === "state")
      this.#add({
        at: change.at,
        kind: "state",
        text: [change.state.replaceAll("_", " "), change.reason].filter(Boolean).join(": "),
      });
    else if (change.type === "degraded") this.#add({ at: change.at, kind: "load", text: degradationText(change) });
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.dialog?.close();
  }

  /** @param {Record<string, string>} query */
  #read(query) {
    return getJson(`api/v1/events?${new URLSearchParams({ ...query, stream: this.stream, limit: `${MAX_ITEMS}` })}`);
  }

  // Load past events, then poll the state of clips that are not finished.
  async #poll() {
    const open = this.items.filter((item) => item.id && !SETTLED.has(item.clip?.state ?? ""));
    try {
      if (this.asks) {
        for (const change of await this.#read({})) this.change(change);
        for (const event of await this.#read({ type: "scene" })) this.#scene(event.at, event);
        this.asks -= 1;
      } else if (this.clips && open.length && !document.hidden) {
        /** @type {SceneEvent[]} */
        const events = await this.#read({ type: "scene", from: open[open.length - 1].at });
        const clips = new Map(events.map((event) => [event.id, event.clip]));
        for (const item of open) this.#clip(item, clips.get(item.id ?? "") ?? { state: "none" });
      }
    } catch {
      // the banner reports that the service does not respond
    }
    if (!this.closed) this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  /** @param {string | null | undefined} at @param {SceneEvent} event */
  #scene(at, event) {
    const known = event.id && this.items.find((item) => item.id === event.id);
    if (known) return event.clip && this.#clip(known, event.clip);
    const item = this.#add({ at: at ?? new Date().toISOString(), kind: event.kind, text: words(event), id: event.id });
    if (item && event.clip) this.#clip(item, event.clip);
  }

  /**
   * Insert by time: an event that arrives late may be older than others in the list.
   * @param {{ at: string, kind: string, text: string, id?: string | null }} event
   */
  #add({ at, kind, text, id = null }) {
    const when = new Date(at);
    /** @param {Item} item */
    const same = (item) => item.text === text && Math.abs(Date.parse(item.at) - when.getTime()) < SAME_MS;
    if (!id && this.items.some(same)) return null; // received twice: by request and over the WebSocket
    this.none.hidden = true;
    const note = h("span.clip");
    const element = h(
      "li",
      null,
      h("time", { dateTime: when.toISOString(), title: when.toLocaleString("en-GB") }, clockTime(when)),
      h("span.kind", { "data-kind": kind }, kind),
      h("span", null, text, " ", note),
    );
    /** @type {Item} */
    const item = { at, text, id, element, note, clip: null };
    const place = this.items.findIndex((item) => Date.parse(item.at) <= when.getTime());
    const index = place < 0 ? this.items.length : place;
    this.list.insertBefore(element, this.items[index]?.element ?? null);
    this.items.splice(index, 0, item);
    while (this.items.length > MAX_ITEMS) this.items.pop()?.element.remove();
    return item;
  }

  /** @param {Item} item @param {Partial<Clip>} clip */
  #clip(item, clip) {
    const state = item.clip?.state;
    item.clip = clip;
    if (state !== clip.state) item.note.replaceChildren(...this.#about(item, clip));
  }

  /** @param {Item} item @param {Partial<Clip>} clip */
  #about(item, clip) {
    const { state, reason, seconds = 0 } = clip;
    if (state === "recording") return [h("span.quiet", null, "recording clip…")];
    if (state === "ready") {
      const length = `${count(Math.round(seconds))} s`;
      const url = `api/v1/events/${item.id}/clip.mp4`;
      const open = (/** @type {MouseEvent} */ event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens in a new tab or window
        event.preventDefault();
        this.dialog = showClip(`${clockTime(new Date(item.at))}: ${item.text}`, /** @type {Clip} */ ({ ...clip, url }));
      };
      return [h("a", { href: url, "aria-label": `Clip, ${length}: ${item.text}`, onclick: open }, `Clip, ${length}`)];
    }
    if (state === "none") return [];
    return [
      h(
        "details",
        null,
        h("summary", null, state === "removed" ? "clip deleted" : "no clip"),
        reason || "The clip could not be recorded.",
      ),
    ];
  }
}

/** @param {SceneEvent} event */
function words(event) {
  const object = `${event.label} #${event.track_id}`;
  const seconds = typeof event.seconds === "number" ? `${event.seconds.toFixed(1)} s` : "";
  if (event.kind === "cross")
    return `${object} crosses ${event.place} ${event.direction} (${event.counts.in} in, ${event.counts.out} out)`;
  if (event.kind === "enter") return `${object} enters ${event.place}`;
  if (event.kind === "dwell") return `${object} has been in ${event.place} for ${seconds}`;
  return `${object} leaves ${event.place} after ${seconds}`;
}

/** @param {Change} change */
function degradationText({ step, before, reason }) {
  if (step === "none") return `no longer degraded, previously ${degradationWord(before)} (${reason})`;
  return `degraded: ${degradationWord(step)}${before === "none" ? "" : `, previously ${degradationWord(before)}`} (${reason})`;
}
