// @ts-check
// The form for one zone or line in the editor.

import { field, h } from "./dom.js";

/** @import { Shape } from "../transport/api.js" */

/**
 * @param {Shape} shape changed in place
 * @param {Record<"renamed" | "focused" | "reversed" | "remove", () => void>} handlers
 * @returns {HTMLElement}
 */
export function shapeRow(shape, handlers) {
  const name = h("input", {
    value: shape.name,
    maxLength: 64,
    "aria-label": `Name of the ${shape.kind}`,
    oninput: () => ((shape.name = name.value), handlers.renamed()),
    onfocus: handlers.focused,
  });
  const classes = h("input", {
    value: (shape.settings.classes ?? []).join(", "),
    placeholder: "all",
    onchange: () => {
      const labels = classes.value.split(",").map((/** @type {string} */ label) => label.trim());
      const named = labels.filter(Boolean);
      shape.settings = { ...shape.settings, classes: named.length ? named : null };
    },
  });
  const reverse = () => {
    shape.points.reverse();
    handlers.reversed();
  };
  const dwell = h("input", {
    type: "number",
    min: 0,
    step: "any",
    value: shape.settings.dwell_s ?? "",
    placeholder: "never",
    onchange: () => (shape.settings = { ...shape.settings, dwell_s: dwell.value === "" ? null : Number(dwell.value) }),
  });
  return h(
    "div.shape-row",
    { role: "group", "aria-label": `${shape.kind} ${shape.name}` },
    h("span.kind", { "data-kind": shape.kind }, shape.kind),
    field("Name", name),
    field("Classes", classes),
    shape.kind === "zone"
      ? field("Dwell alert after, s", dwell)
      : h("button", { type: "button", onclick: reverse }, "Reverse direction"),
    h("button.danger", { type: "button", "aria-label": `Remove ${shape.name}`, onclick: handlers.remove }, "Remove"),
  );
}
