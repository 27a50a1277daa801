// @ts-check
// Creates elements. Text is set as text only: nothing from the service can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Record<string, any> | null} Props */

/**
 * Create an element: h("button.primary", { onclick: f, "aria-label": "…" }, "text", child, [children], null)
 * @param {string} tag the tag name and the classes
 * @param {Props} [props]
 * @param {any[]} children
 * @returns {any} the element; its type depends on the tag
 */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag.split(".")[0]), tag, props, children);
}

/** @param {string} tag @param {Props} [props] @param {any[]} children @returns {any} */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag.split(".")[0]), tag, props, children);
}

/** @param {any} element @param {string} tag @param {Props | undefined} props @param {any[]} children */
function fill(element, tag, props, children) {
  const classes = tag.split(".").slice(1);
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && element.namespaceURI !== SVG && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Set the text if it differs: screen readers do not announce unchanged text, and the layout is kept.
 * @param {Node} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {Element} element @param {string} name @param {boolean} on */
export function flag(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

/**
 * A labeled control of a form.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} hint
 * @returns {HTMLElement}
 */
export function field(label, control, hint = "") {
  const id = (control.id ||= `f${++count}`);
  const note = hint ? h("small", { id: `${id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", null, h("label", { htmlFor: id }, label), control, note);
}
let count = 0;

/** @param {string} label @param {boolean} checked @param {(on: boolean) => void} onchange @returns {HTMLElement} */
export function check(label, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label.check", null, box, h("span", null, label));
}

/** Shown with cameras of the command line, for those who may change them. @returns {HTMLElement} */
export function saveNote() {
  const link = h("a", { href: "api/v1/cameras.yaml", download: "cameras.yaml" }, "Save as cameras.yaml");
  return h("p.quiet", { hidden: true }, "Changes to cameras from the command line last until the service stops. ", link);
}

/** Ask for confirmation. @param {string} question @param {string} action @returns {Promise<boolean>} whether the user confirms */
export function confirm(question, action) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog.ask",
      { onclose: () => (resolve(dialog.returnValue === "yes"), dialog.remove()) },
      h("p", null, question),
      h(
        "div.buttons",
        null,
        h("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel"),
        h("button.danger", { type: "button", onclick: () => dialog.close("yes") }, action),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
