// @ts-check
// Runs inference on an image that the user provides.

import { skeletonOf } from "../state/skeletons.js";
import { getJson, messageOf, send } from "../transport/http.js";
import { field, h, setText } from "./dom.js";
import { colorOf, drawOverlay } from "./overlay.js";
import { milliseconds } from "./words.js";

const KINDS = ["image/jpeg", "image/png", "image/webp"];
const OPTIONS = { boxes: true, details: true, labels: true, scores: true, trails: false, zones: false, counts: false };

/** @import { Detection, View } from "../transport/api.js" */

/** @returns {View} */
export function tryOut() {
  const view = new TryOut();
  return { element: view.element, title: "Try", close: () => view.close() };
}

class TryOut {
  constructor() {
    /** @type {File | null} */
    this.file = null;
    /** @type {any} */
    this.result = null;
    this.leaving = new AbortController();
    this.input = h("input", { type: "file", accept: KINDS.join(","), onchange: () => this.#take(this.input.files[0]) });
    this.model = h("select", { onchange: () => this.#infer() }, h("option", { value: "" }, "default model"));
    this.confidence = h("input", {
      type: "number",
      min: 0,
      max: 1,
      step: 0.05,
      placeholder: "model default",
      onchange: () => this.#infer(),
    });
    this.image = h("canvas.image", { width: 16, height: 9 });
    this.overlay = h("canvas.overlay", { "aria-hidden": "true" });
    this.stage = h("div.stage.still", { hidden: true }, this.image, this.overlay);
    this.errorText = h("p.error", { role: "alert" });
    this.summary = h("p", { role: "status" });
    this.found = h("ul.found");
    this.area = { width: 0, height: 0 };
    this.resized = new ResizeObserver(([{ contentRect }]) => {
      this.area = { width: contentRect.width, height: contentRect.height };
      this.#draw();
    });
    this.resized.observe(this.overlay);
    this.element = h(
      "section.view",
      {
        ondragover: (/** @type {DragEvent} */ event) => event.preventDefault(),
        ondrop: (/** @type {DragEvent} */ event) => (event.preventDefault(), this.#take(event.dataTransfer?.files[0])),
      },
      h("h1", null, "Try an image"),
      h(
        "p.quiet",
        null,
        "Choose, drop or paste a JPEG, PNG or WebP image. It runs through the same pipeline as camera frames and is not stored.",
      ),
      h(
        "div.card.trying",
        null,
        field("Image", this.input),
        field("Model", this.model),
        field("Minimum confidence", this.confidence),
      ),
      this.errorText,
      this.summary,
      h("div.columns", null, h("div.main", null, this.stage), h("div.side", null, this.found)),
    );
    this.onPaste = (/** @type {ClipboardEvent} */ event) => this.#take(event.clipboardData?.files[0]);
    document.addEventListener("paste", this.onPaste);
    getJson("api/v1/models").then(
      (models) =>
        this.model.append(
          ...models
            .filter((/** @type {any} */ { loaded }) => loaded)
            .map((/** @type {any} */ { name }) => h("option", { value: name }, name)),
        ),
      () => {},
    );
  }

  close() {
    document.removeEventListener("paste", this.onPaste);
    this.resized.disconnect();
    this.leaving.abort();
  }

  /** @param {File | undefined} file */
  async #take(file) {
    if (!file) return;
    if (!KINDS.includes(file.type)) return setText(this.errorText, `${file.name}: choose a JPEG, PNG or WebP image`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
      this.file = this.result = null;
      this.stage.hidden = true;
      this.#showResult();
      return setText(this.errorText, `${file.name}: this browser cannot read the image`);
    }
    this.file = file;
    this.result = null;
    Object.assign(this.image, { width: bitmap.width, height: bitmap.height });
    this.image.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.stage.hidden = false;
    this.#draw();
    await this.#infer();
  }

  async #infer() {
    if (!this.file) return;
    const query = new URLSearchParams();
    if (this.model.value) query.set("model", this.model.value);
    if (this.confidence.value) query.set("confidence", this.confidence.value);
    setText(this.errorText, "");
    setText(this.summary, "Running inference…");
    try {
      const answer = await send("POST", `api/v1/infer?${query}`, {
        body: this.file,
        type: this.file.type,
        timeoutMs: 60000,
        signal: this.leaving.signal,
      });
      this.result = await answer.json();
    } catch (error) {
      this.result = null;
      if (!this.leaving.signal.aborted) setText(this.errorText, messageOf(error));
    }
    this.#showResult();
    this.#draw();
  }

  #showResult() {
    /** @type {Detection[]} */
    const found = this.result?.detections ?? [];
    const latency = this.result?.latency_ms;
    setText(
      this.summary,
      this.result
        ? `${this.result.model} (${this.result.engine}): ${found.length} detections in ${milliseconds(latency.total)} ms, of which inference ${milliseconds(latency.inference)} ms`
        : "",
    );
    const sorted = [...found].sort((a, b) => b.score - a.score);
    this.found.replaceChildren(
      ...sorted.map((detection) => {
        const swatch = h("span.swatch");
        swatch.style.backgroundColor = colorOf(detection.class_id);
        return h(
          "li",
          null,
          swatch,
          h("span", null, detection.label),
          h("span.figure", null, `${Math.round(detection.score * 100)} %`),
        );
      }),
    );
  }

  #draw() {
    if (this.stage.hidden) return;
    const size = this.result
      ? { width: this.result.width, height: this.result.height }
      : { width: this.image.width, height: this.image.height };
    /** @type {import("../transport/api.js").DrawnDetection[]} */
    const found = (this.result?.detections ?? []).map((/** @type {Detection} */ detection) => ({ ...detection, alpha: 1 }));
    const skeleton = found.some(({ keypoints }) => keypoints) ? skeletonOf(this.result.model, () => this.#draw()) : [];
    const none = { trails: new Map(), shapes: [], region: { look: [], ignore: [] } };
    const segments = this.result?.segments ?? [];
    drawOverlay(this.overlay, { size, found, segments, ...none, options: OPTIONS, small: false, skeleton }, this.area);
  }
}
