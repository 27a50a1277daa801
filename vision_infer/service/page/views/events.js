// What happened at a stream, the newest first: its zones and lines, and its own states.

import { h } from "/page/views/dom.js";
import { clockTime } from "/page/views/words.js";

const MOST = 100;

export class Events {
  constructor() {
    this.list = h("ol.events", { "aria-label": "Events" });
    this.none = h("p.quiet", null, "Nothing yet.");
    this.element = h("div", null, this.none, this.list);
  }

  // row: a result
  row(row) {
    for (const event of [...(row.skipped_events ?? []), ...(row.events ?? [])]) this.#add(new Date(row.captured_at ?? Date.now()), event.kind, words(event));
  }

  // change: of the stream's state
  state(change) {
    this.#add(new Date(change.at), "state", [change.state.replaceAll("_", " "), change.reason].filter(Boolean).join(": "));
  }

  #add(at, kind, text) {
    this.none.hidden = true;
    const item = h("li", null, h("time", { dateTime: at.toISOString() }, clockTime(at)), h("span.kind", { "data-kind": kind }, kind), h("span", null, text));
    this.list.prepend(item);
    while (this.list.children.length > MOST) this.list.lastChild.remove();
  }
}

function words(event) {
  const who = `${event.label} #${event.track_id}`;
  const seconds = event.seconds === undefined ? "" : `${event.seconds.toFixed(1)} s`;
  if (event.kind === "cross") return `${who} crosses ${event.place} ${event.direction} (${event.counts.in} in, ${event.counts.out} out)`;
  if (event.kind === "enter") return `${who} enters ${event.place}`;
  if (event.kind === "dwell") return `${who} has been in ${event.place} for ${seconds}`;
  return `${who} leaves ${event.place} after ${seconds}`;
}
