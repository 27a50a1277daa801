// @ts-check
// Events of a stream or of all streams, newest first: zone and line events with their clips, state changes, degradation.

import { getJson } from "../transport/http.js";
import { showClip } from "./clip.js";
import { h } from "./dom.js";
import { clockTime, count, degradationWord, stateWord } from "./words.js";

/** @import { Change, Clip, Row, SceneEvent } from "../transport/api.js" */
/**
 * @typedef {{
 *   at: string, stream: string, text: string, id: string | null, element: HTMLElement, note: HTMLElement, clip: Partial<Clip> | null
 * }} Item
 */

const MAX_ITEMS = 100;
const POLL_MS = 2000;
const SAME_MS = 50; // the times of changes are precise to a few milliseconds
const OVERLAP_MS = 10000; // an event may arrive this late
const CHANGES = ["state", "load", "engine"];
const SETTLED = new Set(["ready", "none", "missing", "failed", "removed"]);

export class Events {
  /**
   * @param {string} stream empty: all streams, which are polled, because the WebSocket would send all of their rows
   * @param {string} kind empty: all kinds
   */
  constructor(stream, kind = "", follow = false) {
    this.stream = stream;
    this.kind = kind;
    this.follow = follow;
    this.limit = follow ? 5 * MAX_ITEMS : MAX_ITEMS;
    this.clips = false; // whether the stream records clips
    /** @type {Item[]} newest first */
    this.items = [];
    this.dialog = null;
    this.asks = 2; // requests for past events: the second covers the time before the WebSocket opened
    this.closed = false;
    this.list = h(follow ? "ol.events.all" : "ol.events", { "aria-label": "Events" });
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
    for (const event of [...(row.skipped_events ?? []), ...(row.events ?? [])]) this.#scene(row.captured_at, event, row.stream);
  }

  /** @param {Change} change */
  change(change) {
    if (change.type === "state")
      this.#add({
        at: change.at,
        stream: change.stream,
        kind: "state",
        text: [stateWord(change.state), change.reason].filter(Boolean).join(": "),
      });
    else if (change.type === "degraded")
      this.#add({ at: change.at, stream: change.stream, kind: "load", text: degradationText(change) });
    else if (change.type === "moved") this.#add({ at: change.at, stream: change.stream, kind: "state", text: movedText(change) });
    else if (change.type === "engine") this.#add({ at: change.at, stream: "", kind: "engine", text: engineText(change) });
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.dialog?.close();
  }

  /** @param {Record<string, string>} query */
  #read(query) {
    const wanted = new URLSearchParams({ ...query, limit: `${this.limit}` });
    if (this.stream) wanted.set("stream", this.stream);
    return getJson(`api/v1/events?${wanted}`);
  }

  // Load past events, then poll the state of clips that are not finished.
  async #poll() {
    const open = this.items.filter((item) => item.id && !SETTLED.has(item.clip?.state ?? ""));
    try {
      if (this.asks || (this.follow && !document.hidden)) {
        const query = this.asks ? {} : this.#recent(open);
        if (!this.kind || CHANGES.includes(this.kind)) for (const change of await this.#read(query)) this.change(change);
        if (!CHANGES.includes(this.kind))
          for (const event of await this.#read({ ...query, type: "scene" })) this.#scene(event.at, event, event.stream);
        this.asks = Math.max(0, this.asks - 1);
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

  // The time range of new events, and of those whose clip is not finished.
  /** @param {Item[]} open @returns {Record<string, string>} */
  #recent(open) {
    const [newest, oldest] = [this.items[0], open[open.length - 1]];
    if (!newest) return {};
    return { from: new Date(Math.min(Date.parse(newest.at) - OVERLAP_MS, Date.parse((oldest ?? newest).at))).toISOString() };
  }

  /** @param {string | null | undefined} at @param {SceneEvent} event @param {string} stream */
  #scene(at, event, stream) {
    const known = event.id && this.items.find((item) => item.id === event.id);
    if (known) return event.clip && this.#clip(known, event.clip);
    const item = this.#add({ at: at ?? new Date().toISOString(), stream, kind: event.kind, text: words(event), id: event.id });
    if (item && event.clip) this.#clip(item, event.clip);
  }

  /**
   * Insert by time: an event that arrives late may be older than others in the list.
   * @param {{ at: string, stream: string, kind: string, text: string, id?: string | null }} event
   */
  #add({ at, stream, kind, text, id = null }) {
    if (this.kind && kind !== this.kind) return null;
    const when = new Date(at);
    /** @param {Item} item */
    const same = (item) =>
      item.text === text && item.stream === stream && Math.abs(Date.parse(item.at) - when.getTime()) < SAME_MS;
    if (!id && this.items.some(same)) return null; // received twice: by request and over the WebSocket
    this.none.hidden = true;
    const note = h("span.clip");
    const [today, full] = [when.toDateString() === new Date().toDateString(), when.toLocaleString("en-GB")];
    const element = h(
      "li",
      null,
      h("time", { dateTime: when.toISOString(), title: full }, today || !this.follow ? clockTime(when) : full),
      h("span.kind", { "data-kind": kind }, kind),
      this.follow ? h("span", null, stream ? h("a", { href: `#/stream/${encodeURIComponent(stream)}` }, stream) : null) : null,
      h("span", null, text, " ", note),
    );
    /** @type {Item} */
    const item = { at, stream, text, id, element, note, clip: null };
    const place = this.items.findIndex((item) => Date.parse(item.at) <= when.getTime());
    const index = place < 0 ? this.items.length : place;
    this.list.insertBefore(element, this.items[index]?.element ?? null);
    this.items.splice(index, 0, item);
    while (this.items.length > this.limit) this.items.pop()?.element.remove();
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

/** @param {any} change */
function movedText({ before, node, reason }) {
  const where =
    node === before ? `started again on node ${node}` : `moved from node ${before} to ${node ? `node ${node}` : "no node"}`;
  return `${where}${node ? "; track ids and counts restart" : `: ${reason}`}`;
}

/** @param {any} change */
function engineText({ lane, change, engine, reason }) {
  return `${lane}: ${change === "swapped" ? "now uses" : change} ${engine}${reason ? ` (${reason})` : ""}`;
}
