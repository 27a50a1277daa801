// @ts-check
// The interactive documentation of the API. Requests are sent with the session of this browser.

import { preferences } from "./state/preferences.js";
import { getJson, messageOf } from "./transport/http.js";
import { h } from "./views/dom.js";

const target = /** @type {HTMLElement} */ (document.getElementById("docs"));
const dark = preferences.theme === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : preferences.theme === "dark";
document.documentElement.classList.toggle("dark-mode", dark);
document.documentElement.style.colorScheme = dark ? "dark" : "light";

try {
  const spec = await getJson("api/v1/openapi.json");
  spec.servers ??= [{ url: new URL(".", location.href).href.replace(/\/$/, "") }]; // a proxy may serve this page under any path
  /** @type {any} */ (window).SwaggerUIBundle({ spec, domNode: target, displayRequestDuration: true });
} catch (error) {
  target.append(
    h("p", null, `The API cannot be shown: ${messageOf(error)}. `, h("a", { href: "./" }, "Log in on the page"), "."),
  );
}
