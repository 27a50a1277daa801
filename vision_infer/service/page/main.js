// The page: its head, which view the address names, and what all views share.

import { applyTheme, choices, choose } from "/page/state/choices.js";
import { Store } from "/page/state/store.js";
import { cost } from "/page/views/cost.js";
import { h, say } from "/page/views/dom.js";
import { engines } from "/page/views/engines.js";
import { login } from "/page/views/login.js";
import { streamForm } from "/page/views/stream_form.js";
import { stream } from "/page/views/stream.js";
import { tryOut } from "/page/views/try.js";
import { wall } from "/page/views/wall.js";
import { clockTime } from "/page/views/words.js";

const NAV = [
  ["#/", "Cameras"],
  ["#/engines", "Engines"],
  ["#/cost", "Cost"],
  ["#/try", "Try"],
];
const store = new Store();
let view = null;
let shown = "";

const links = NAV.map(([href, text]) => h("a", { href }, text));
const version = h("span.version");
const leave = h("button.plain", { type: "button", hidden: true, onclick: () => store.logOut().catch(() => store.refresh()) }, "Log out");
const theme = h(
  "select",
  {
    "aria-label": "Colours",
    onchange: () => {
      choose({ theme: theme.value });
      applyTheme();
      dispatchEvent(new Event("theme"));
    },
  },
  [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) => h("option", { value, selected: choices.theme === value }, text)),
);
const banner = h("div.banner", { role: "alert", hidden: true });
const place = h("main", { id: "main", tabIndex: -1 });

function build() {
  applyTheme();
  const logo = h("a.logo", { href: "#/" }, h("img", { src: "/page/icon.svg", alt: "", width: 26, height: 26 }), h("span", null, "vision-infer"));
  const skip = h("a.skip", { href: "#main", onclick: (event) => (event.preventDefault(), place.focus()) }, "Skip to the content");
  document.body.append(
    skip,
    h("header", null, logo, h("nav", { "aria-label": "Pages" }, links), h("div.tools", null, version, theme, leave)),
    banner,
    place,
  );
}

function route() {
  if (store.needsLogin) return ["login", () => login(store)];
  if (store.session === null) return ["wait", waiting];
  const [page, name, part] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  if (page === "stream" && name && part === "edit") return [`edit ${name}`, () => streamForm(store, name)];
  if (page === "stream" && name) return [`stream ${name}`, () => stream(store, name)];
  if (page === "add") return ["add", () => streamForm(store, null)];
  if (page === "engines") return ["engines", () => engines(store)];
  if (page === "cost") return ["cost", () => cost()];
  if (page === "try") return ["try", () => tryOut(store)];
  return ["wall", () => wall(store)];
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function waiting() {
  return { element: h("p.waiting", null, "Asking the service…"), title: "", close() {} };
}

function show() {
  const [key, make] = route();
  if (key !== shown) {
    const moved = shown !== "" && shown !== "wait";
    shown = key;
    view?.close();
    view = make();
    place.replaceChildren(view.element);
    document.title = view.title ? `${view.title} · vision-infer` : "vision-infer";
    scrollTo(0, 0);
    if (moved) place.focus({ preventScroll: true });
  }
  const page = location.hash.replace(/^#\/?/, "").split("/")[0];
  links.forEach((link, index) => {
    const here = NAV[index][0] === `#/${page}` || (index === 0 && ["stream", "add"].includes(page));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.body.classList.toggle("locked", store.session === null);
  leave.hidden = !store.session?.expires_s;
  say(version, store.version ? `${store.version}${store.session?.role === "view" ? " · view only" : ""}` : "");
}

function connection() {
  banner.hidden = store.goneSince === null;
  if (!banner.hidden) say(banner, `${store.gone[0].toUpperCase()}${store.gone.slice(1)}, since ${clockTime(store.goneSince)}. Trying again…`);
  document.body.classList.toggle("gone", !banner.hidden);
}

build();
addEventListener("hashchange", show);
store.addEventListener("session", show);
store.addEventListener("connection", connection);
show();
store.start();
