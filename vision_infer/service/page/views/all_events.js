// @ts-check
// The events of all cameras, by camera and kind.

import { Events } from "./events.js";
import { field, h } from "./dom.js";

/** @import { Store } from "../state/store.js" */
/** @import { View } from "../transport/api.js" */

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
    ),
    title: "Events",
    close() {
      store.removeEventListener("streams", update);
      events?.close();
    },
  };
}
