// The token is exchanged for a cookie that no script can read; it is kept nowhere here.

import { field, h, say } from "./dom.js";

export function login(store) {
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, maxLength: 1024, spellcheck: false });
  const wrong = h("p.wrong", { role: "alert" });
  const button = h("button.primary", { type: "submit" }, "Log in");
  const form = h(
    "form.card.login",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        say(wrong, "");
        try {
          await store.logIn(token.value);
        } catch (error) {
          say(wrong, error.message);
          token.select();
        } finally {
          button.disabled = false;
        }
      },
    },
    h("h1", null, "Log in"),
    h("p", null, "This service asks for a token. It was printed when the service started first, or stands in its settings."),
    field("Token", token),
    wrong,
    h("div.buttons", null, button),
  );
  queueMicrotask(() => token.focus());
  return { element: form, title: "Log in", close() {} };
}
