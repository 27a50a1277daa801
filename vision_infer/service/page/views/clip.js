// @ts-check
// A dialog that plays the clip of an event and offers it for download.

import { messageOf, send } from "../transport/http.js";
import { h, setText } from "./dom.js";
import { bytes } from "./words.js";

/** @import { Clip } from "../transport/api.js" */

/** @param {string} title the event @param {Clip} clip */
export function showClip(title, clip) {
  const errorText = h("p.error", { role: "alert" });
  const video = h("video", {
    controls: true,
    autoplay: true,
    playsInline: true,
    muted: true,
    src: clip.url,
    "aria-label": title,
  });
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
    h("p.quiet", null, [`${clip.seconds.toFixed(1)} s, unmodified camera video`, clip.reason].filter(Boolean).join("; ")),
    video,
    errorText,
    h("div.buttons", null, keep, h("button.primary", { type: "button", onclick: () => dialog.close() }, "Close")),
  );
  video.addEventListener("error", async () => {
    if (!dialog.open) return;
    const failure = await failureOf(clip.url);
    video.hidden = true;
    keep.hidden = failure !== null;
    setText(
      errorText,
      failure ??
        "This browser cannot play the clip; many browsers do not support H.265. Download it and open it in a video player.",
    );
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** The service's error message for this URL; null if the clip exists. @param {string} url */
async function failureOf(url) {
  try {
    await send("GET", url, { headers: { Range: "bytes=0-0" } });
    return null;
  } catch (error) {
    return messageOf(error);
  }
}
