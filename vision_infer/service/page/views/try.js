// A picture of one's own, and what is found in it.

import { getJson, send } from "../transport/http.js";
import { field, h, say } from "./dom.js";
import { colourOf, drawOverlay } from "./overlay.js";
import { milliseconds } from "./words.js";

const KINDS = ["image/jpeg", "image/png", "image/webp"];
const OPTIONS = { boxes: true, labels: true, scores: true, trails: false, zones: false, counts: false };

export function tryOut() {
  const view = new TryOut();
  return { element: view.element, title: "Try", close: () => view.close() };
}

class TryOut {
  constructor() {
    this.file = null;
    this.result = null;
    this.leaving = new AbortController();
    this.input = h("input", { type: "file", accept: KINDS.join(","), onchange: () => this.#take(this.input.files[0]) });
    this.model = h("select", { onchange: () => this.#infer() }, h("option", { value: "" }, "the service's"));
    this.confidence = h("input", { type: "number", min: 0, max: 1, step: 0.05, placeholder: "the model's", onchange: () => this.#infer() });
    this.picture = h("canvas.picture", { width: 16, height: 9 });
    this.overlay = h("canvas.overlay", { "aria-hidden": "true" });
    this.stage = h("div.stage.still", { hidden: true }, this.picture, this.overlay);
    this.wrong = h("p.wrong", { role: "alert" });
    this.summary = h("p", { role: "status" });
    this.found = h("ul.found");
    this.room = { width: 0, height: 0 };
    this.resized = new ResizeObserver(([{ contentRect }]) => {
      this.room = { width: contentRect.width, height: contentRect.height };
      this.#draw();
    });
    this.resized.observe(this.overlay);
    this.element = h(
      "section.view",
      {
        ondragover: (event) => event.preventDefault(),
        ondrop: (event) => (event.preventDefault(), this.#take(event.dataTransfer.files[0])),
      },
      h("h1", null, "Try a picture"),
      h("p.quiet", null, "JPEG, PNG or WebP: choose one, drop it here, or paste it. It goes the way of all frames, and is not kept."),
      h("div.card.trying", null, field("Picture", this.input), field("Model", this.model), field("Least score", this.confidence)),
      this.wrong,
      this.summary,
      h("div.columns", null, h("div.main", null, this.stage), h("div.side", null, this.found)),
    );
    this.onPaste = (event) => this.#take([...event.clipboardData.files][0]);
    document.addEventListener("paste", this.onPaste);
    getJson("/api/v1/models").then(
      (models) => this.model.append(...models.filter((one) => one.loaded).map((one) => h("option", { value: one.name }, one.name))),
      () => {},
    );
  }

  close() {
    document.removeEventListener("paste", this.onPaste);
    this.resized.disconnect();
    this.leaving.abort();
  }

  async #take(file) {
    if (!file) return;
    if (!KINDS.includes(file.type)) return say(this.wrong, `${file.name}: choose a JPEG, PNG or WebP`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
      return say(this.wrong, `${file.name}: is no picture that this browser can read`);
    }
    this.file = file;
    this.result = null;
    Object.assign(this.picture, { width: bitmap.width, height: bitmap.height });
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
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
    say(this.wrong, "");
    say(this.summary, "Looking…");
    try {
      const answer = await send("POST", `/api/v1/infer?${query}`, { body: this.file, type: this.file.type, timeoutMs: 60000, signal: this.leaving.signal });
      this.result = await answer.json();
    } catch (error) {
      this.result = null;
      if (!this.leaving.signal.aborted) say(this.wrong, error.message);
    }
    this.#tell();
    this.#draw();
  }

  #tell() {
    const found = this.result?.detections ?? [];
    const latency = this.result?.latency_ms;
    say(
      this.summary,
      this.result ? `${found.length} found by ${this.result.model} (${this.result.engine}) in ${milliseconds(latency.total)} ms, ${milliseconds(latency.inference)} ms of it inference` : "",
    );
    const sorted = [...found].sort((a, b) => b.score - a.score);
    this.found.replaceChildren(
      ...sorted.map((one) => {
        const swatch = h("span.swatch");
        swatch.style.backgroundColor = colourOf(one.class_id);
        return h("li", null, swatch, h("span", null, one.label), h("span.figure", null, `${Math.round(one.score * 100)} %`));
      }),
    );
  }

  #draw() {
    if (this.stage.hidden) return;
    const size = this.result ? { width: this.result.width, height: this.result.height } : { width: this.picture.width, height: this.picture.height };
    const found = (this.result?.detections ?? []).map((one) => ({ ...one, alpha: 1 }));
    drawOverlay(this.overlay, { size, found, trails: new Map(), shapes: [], region: { look: [], ignore: [] }, options: OPTIONS, small: false }, this.room);
  }
}
