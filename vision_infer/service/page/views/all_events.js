// @ts-check
// The events of all cameras, by camera and kind, and the rules for messages to people.

import { Events } from "./events.js";
import { ApiError, getJson } from "../transport/http.js";
import { field, h } from "./dom.js";

/** @import { Store } from "../state/store.js" */
/** @import { View } from "../transport/api.js" */
/** @typedef {{ name: string, rule: string | null, sent: number, dropped: Record<string, number>, error: string | null }} Sink */

const POLL_MS = 5000;

const KINDS = {
  "": "All",
  cross: "Line crossed",
  enter: "Zone entered",
  leave: "Zone left",
  dwell: "Long stay in a zone",
  state: "State of a camera",
  load: "Overload",
  engine: "Engines",
};

/** @param {Store} store @returns {View} */
export function allEvents(store) {
  const stream = h("select", { onchange: () => show() });
  const kind = h(
    "select",
    { onchange: () => show() },
    Object.entries(KINDS).map(([value, text]) => h("option", { value }, text)),
  );
  const list = h("section.card");
  const rules = messageRules();
  /** @type {Events | null} */
  let events = null;

  function show() {
    events?.close();
    events = new Events(stream.value, kind.value, true);
    list.replaceChildren(events.element);
  }

  function update() {
    const names = ["", ...(store.streams ?? []).map(({ name }) => name)];
    if (names.join("\n") === [...stream.options].map(({ value }) => value).join("\n")) return;
    const chosen = stream.value;
    stream.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === chosen }, name || "All")));
  }

  store.addEventListener("streams", update);
  update();
  show();
  return {
    element: h(
      "section.view",
      null,
      h("div.head", null, h("h1", null, "Events")),
      h("div.pair.filters", null, field("Camera", stream), field("Type", kind)),
      list,
      rules.element,
    ),
    title: "Events",
    close() {
      store.removeEventListener("streams", update);
      events?.close();
      rules.close();
    },
  };
}

const LOST = { quiet_hours: "quiet hours", rate_limit: "rate limit", too_old: "too old", failed: "failed" };

/** The rules for messages with what became of their messages; hidden if there are none. */
function messageRules() {
  const rows = h("tbody");
  const head = ["Rule", "Messages", "Sent", "Not sent", "Problem"].map((text) => h("th", { scope: "col" }, text));
  const table = h("table.costs", null, h("thead", null, h("tr", null, head)), rows);
  const element = h("section.card", { hidden: true }, h("h2", null, "Messages"), h("div.scroll", null, table));
  /** @type {number | undefined} */
  let timer = undefined;
  let closed = false;

  async function poll() {
    const sinks = document.hidden ? null : await getJson("api/v1/sinks").catch((error) => error);
    if (closed || (sinks instanceof ApiError && sinks.status === 403)) return; // a role with some of the cameras
    if (Array.isArray(sinks)) {
      const found = sinks.filter((/** @type {Sink} */ sink) => sink.rule !== null);
      element.hidden = found.length === 0;
      rows.replaceChildren(...found.map(ruleRow));
    }
    timer = setTimeout(poll, POLL_MS);
  }

  poll();
  return {
    element,
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

/** @param {Sink} sink */
function ruleRow({ name, rule, sent, dropped, error }) {
  const lost = Object.entries(dropped).map(
    ([reason, count]) => `${/** @type {Record<string, string>} */ (LOST)[reason] ?? reason}: ${count}`,
  );
  return h("tr", null, ...[name, rule ?? "", String(sent), lost.join(", "), error ?? ""].map((text) => h("td", null, text)));
}
