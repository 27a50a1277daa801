// Creates elements. Text is set as text only: nothing from the service can become markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button.primary", { onclick: f, "aria-label": "…" }, "text", child, [children], null)
export function h(tag, props, ...children) {
  return fill(document.createElement(tag.split(".")[0]), tag, props, children);
}

export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag.split(".")[0]), tag, props, children);
}

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

// Set the text if it differs: screen readers do not announce unchanged text, and the layout is kept.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function flag(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

// A labelled control of a form.
export function field(label, control, hint = "") {
  const id = (control.id ||= `f${++count}`);
  const note = hint ? h("small", { id: `${id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", null, h("label", { htmlFor: id }, label), control, note);
}
let count = 0;

export function check(label, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label.check", null, box, h("span", null, label));
}

// Ask for confirmation. Resolves to true if the user confirms.
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
