// @ts-check
// The token is exchanged for a cookie that no script can read; the page does not store it.

import { messageOf } from "../transport/http.js";
import { field, h, setText } from "./dom.js";

/** @import { Store } from "../state/store.js" */
/** @import { View } from "../transport/api.js" */

/** @param {Store} store @returns {View} */
export function login(store) {
  const token = h("input", {
    type: "password",
    name: "token",
    autocomplete: "current-password",
    required: true,
    maxLength: 1024,
    spellcheck: false,
  });
  const errorText = h("p.error", { role: "alert" });
  const button = h("button.primary", { type: "submit" }, "Log in");
  const signOn = store.loginPath
    ? h("p", null, h("a.button.primary", { href: store.loginPath }, "Log in with your account"))
    : null;
  const form = h(
    "form.card.login",
    {
      onsubmit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        button.disabled = true;
        setText(errorText, "");
        try {
          await store.logIn(token.value);
        } catch (error) {
          setText(errorText, messageOf(error));
          token.select();
        } finally {
          button.disabled = false;
        }
      },
    },
    h("h1", null, "Log in"),
    signOn,
    h(
      "p",
      null,
      signOn
        ? "Or enter a token."
        : "This service requires a token. It was printed when the service first started, or is set in its configuration file.",
    ),
    field("Token", token),
    errorText,
    h("div.buttons", null, button),
  );
  queueMicrotask(() => (signOn?.querySelector("a") ?? token).focus());
  return { element: form, title: "Log in", close() {} };
}
