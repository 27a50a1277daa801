// @ts-check
// The page: the header, the router, and what all views share.

import { applyTheme, preferences, setPreferences } from "./state/preferences.js";
import { Store } from "./state/store.js";
import { allEvents } from "./views/all_events.js";
import { cost } from "./views/cost.js";
import { h, setText } from "./views/dom.js";
import { engines } from "./views/engines.js";
import { find } from "./views/find.js";
import { login } from "./views/login.js";
import { nodes } from "./views/nodes.js";
import { streamForm } from "./views/stream_form.js";
import { stream } from "./views/stream.js";
import { tryOut } from "./views/try.js";
import { wall } from "./views/wall.js";
import { clockTime } from "./views/words.js";

const NAV = [
  ["#/", "Cameras"],
  ["#/events", "Events"],
  ["#/engines", "Engines"],
  ["#/cost", "Cost"],
  ["#/try", "Try"],
  ["#/nodes", "Nodes"], // last: it appears once the service is known to run on a cluster
];
const store = new Store();
/** @import { View } from "./transport/api.js" */
/** @type {View | null} */
let view = null;
let shown = "";

const links = NAV.map(([href, text]) => h("a", { href }, text));
const version = h("span.version");
const user = h("span.user", { hidden: true });
const logOutButton = h(
  "button.plain",
  { type: "button", hidden: true, onclick: () => store.logOut().catch(() => store.refresh()) },
  "Log out",
);
const theme = h(
  "select",
  {
    "aria-label": "Theme",
    onchange: () => {
      setPreferences({ theme: theme.value });
      applyTheme();
      dispatchEvent(new Event("theme"));
    },
  },
  [
    ["auto", "Auto"],
    ["light", "Light"],
    ["dark", "Dark"],
  ].map(([value, text]) => h("option", { value, selected: preferences.theme === value }, text)),
);
const banner = h("div.banner", { role: "alert", hidden: true });
const content = h("main", { id: "main", tabIndex: -1 });

// Colors that canvases read. Registration makes getComputedStyle() return the color of the theme, not the text "light-dark(…)".
const CANVAS_COLORS = ["--line", "--accent", "--good", "--idle", "--warn", "--bad"];

function build() {
  for (const name of CANVAS_COLORS)
    CSS.registerProperty({ name, syntax: "<color>", inherits: true, initialValue: "transparent" });
  applyTheme();
  const logo = h(
    "a.logo",
    { href: "#/" },
    h("img", { src: "page/icon.svg", alt: "", width: 26, height: 26 }),
    h("span", null, "vision-infer"),
  );
  const skip = h(
    "a.skip",
    { href: "#main", onclick: (/** @type {Event} */ event) => (event.preventDefault(), content.focus()) },
    "Skip to content",
  );
  document.body.append(
    skip,
    h(
      "header",
      null,
      logo,
      h("nav", { "aria-label": "Pages" }, links),
      h("div.tools", null, h("a.docs", { href: "docs" }, "API"), version, user, theme, logOutButton),
    ),
    banner,
    content,
  );
}

/** The key of a view, and a function that creates it. @returns {[string, () => View]} */
function route() {
  if (store.needsLogin) return ["login", () => login(store)];
  if (store.session === null) return ["wait", waiting];
  const [page, name, part] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  if (page === "stream" && name && part === "edit") return [`edit ${name}`, () => streamForm(store, name)];
  if (page === "stream" && name) return [`stream ${name}`, () => stream(store, name)];
  if (page === "add") return ["add", () => streamForm(store, null)];
  if (page === "find") return ["find", () => find(store)];
  if (page === "events") return ["events", () => allEvents(store)];
  if (page === "nodes") return ["nodes", () => nodes(store)];
  if (page === "engines") return ["engines", () => engines(store)];
  if (page === "cost") return ["cost", () => cost()];
  if (page === "try") return ["try", () => tryOut()];
  return ["wall", () => wall(store)];
}

/** @param {string} part */
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function waiting() {
  return { element: h("p.waiting", null, "Connecting to the service…"), title: "", close() {} };
}

function show() {
  const [key, make] = route();
  if (key !== shown) {
    const moved = shown !== "" && shown !== "wait";
    shown = key;
    view?.close();
    const next = (view = make());
    content.replaceChildren(next.element);
    document.title = next.title ? `${next.title} · vision-infer` : "vision-infer";
    scrollTo(0, 0);
    if (moved) content.focus({ preventScroll: true });
  }
  const page = location.hash.replace(/^#\/?/, "").split("/")[0];
  links.forEach((link, index) => {
    const here = NAV[index][0] === `#/${page}` || (index === 0 && ["stream", "add", "find"].includes(page));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (NAV[index][0] === "#/nodes") link.hidden = !store.cluster || !store.seesAll;
    if (NAV[index][0] === "#/cost") link.hidden = !store.seesAll;
  });
  document.body.classList.toggle("locked", store.session === null);
  logOutButton.hidden = !store.session?.expires_s;
  setText(version, store.version ? `${store.version}${store.session?.role === "view" ? " · view only" : ""}` : "");
  user.hidden = !store.session?.expires_s;
  setText(user, store.session ? `${store.session.user} · ${store.session.role_name}` : "");
}

function connection() {
  const since = store.unavailableSince;
  banner.hidden = since === null;
  if (since)
    setText(
      banner,
      `${store.unavailableReason[0].toUpperCase()}${store.unavailableReason.slice(1)}, since ${clockTime(since)}. Trying again…`,
    );
  document.body.classList.toggle("gone", !banner.hidden);
}

build();
addEventListener("hashchange", show);
store.addEventListener("session", show);
store.addEventListener("connection", connection);
show();
store.start();
