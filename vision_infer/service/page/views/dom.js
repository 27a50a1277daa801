// Making elements. Text goes in as text only: nothing that the service sends can become markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button.primary", { onclick: f, "aria-label": "…" }, "text", child, [children], null)
export function h(what, props, ...children) {
  return fill(document.createElement(what.split(".")[0]), what, props, children);
}

export function svg(what, props, ...children) {
  return fill(document.createElementNS(SVG, what.split(".")[0]), what, props, children);
}

function fill(element, what, props, children) {
  const classes = what.split(".").slice(1);
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

// Set a text only where it is another one: what does not change is not announced, and not laid out again.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function flag(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

// A labelled control of a form.
export function field(label, control, hint = "") {
  const id = (control.id ||= `f${++count}`);
  const told = hint ? h("small", { id: `${id}-hint` }, hint) : null;
  if (told) control.setAttribute("aria-describedby", told.id);
  return h("div.field", null, h("label", { htmlFor: id }, label), control, told);
}
let count = 0;

export function check(label, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label.check", null, box, h("span", null, label));
}

// Ask before something is lost. Resolves to true where it shall be done.
export function confirm(question, yes) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog.ask",
      { onclose: () => (resolve(dialog.returnValue === "yes"), dialog.remove()) },
      h("p", null, question),
      h(
        "div.buttons",
        null,
        h("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel"),
        h("button.danger", { type: "button", onclick: () => dialog.close("yes") }, yes),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
