// A clip of an event, over the page: to be looked at, or taken along.

import { send } from "../transport/http.js";
import { h, say } from "./dom.js";
import { bytes } from "./words.js";

// title: what happened; clip: as the service tells it
export function showClip(title, clip) {
  const wrong = h("p.wrong", { role: "alert" });
  const video = h("video", { controls: true, autoplay: true, playsInline: true, muted: true, src: clip.url, "aria-label": title });
  const keep = h("a.button", { href: clip.url, download: "" }, `Download (${bytes(clip.bytes)})`);
  const dialog = h(
    "dialog.clip",
    {
      "aria-label": "Clip",
      onclose: () => {
        video.removeAttribute("src");
        video.load(); // ends the request
        dialog.remove();
      },
    },
    h("h2", null, title),
    h("p.quiet", null, [`${clip.seconds.toFixed(1)} s as the camera sent them`, clip.reason].filter(Boolean).join("; ")),
    video,
    wrong,
    h("div.buttons", null, keep, h("button.primary", { type: "button", onclick: () => dialog.close() }, "Close")),
  );
  video.addEventListener("error", async () => {
    if (!dialog.open) return;
    const why = await reason(clip.url);
    video.hidden = true;
    keep.hidden = why !== null;
    say(wrong, why ?? "This browser does not play it, as it may be with H.265. Download it, and open it with a player.");
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Why there is no clip under this address, in the service's words; null: there is one
async function reason(url) {
  try {
    await send("GET", url, { headers: { Range: "bytes=0-0" } });
    return null;
  } catch (error) {
    return error.message;
  }
}
