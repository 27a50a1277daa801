// @ts-check
// The form for a camera's settings, new or existing. The URL can be tested before saving.

import { getJson, messageOf, send } from "../transport/http.js";
import { field, h, setText } from "./dom.js";
import { explainName, rate } from "./words.js";

/** @import { Store } from "../state/store.js" */
/** @import { Settings, View } from "../transport/api.js" */

/** @param {Store} store @param {string | null} name @returns {View} */
export function streamForm(store, name) {
  const form = new StreamForm(store, name);
  return { element: form.element, title: name ? `${name}: settings` : "Add a camera", close: () => form.close() };
}

class StreamForm {
  /** @param {Store} store @param {string | null} name null: a new stream */
  constructor(store, name) {
    this.store = store;
    this.existing = name;
    this.leaving = new AbortController();
    this.content = h("div");
    this.element = h("section.view.narrow", null, h("h1", null, name ? `${name}: settings` : "Add a camera"), this.content);
    this.filling = () => this.#fill();
    store.addEventListener("streams", this.filling);
    this.#fill();
  }

  close() {
    this.leaving.abort();
    this.store.removeEventListener("streams", this.filling);
  }

  // Fill the form once, as soon as the current settings are known: user input is not overwritten.
  #fill() {
    if (this.store.streams === null || this.form) return;
    const stream = this.existing ? this.store.stream(this.existing) : null;
    if (!this.store.canEdit) return this.content.replaceChildren(h("p.empty", null, "Your role does not allow changes."));
    if (this.existing && !stream) return this.content.replaceChildren(h("p.empty", null, "There is no camera with this name."));
    if (stream?.origin === "file")
      return this.content.replaceChildren(h("p.empty", null, "This camera is defined in the configuration file. Edit it there."));
    /** @type {Settings} */
    this.before = stream?.settings ?? {};
    this.form = this.#build(this.before);
    this.content.replaceChildren(this.form);
    (this.existing ? this.url : this.name).focus();
    this.#models();
  }

  /** @param {Settings} settings */
  #build(settings) {
    /** @param {string | null | undefined} value @param {object} more */
    const text = (value, more) =>
      h("input", { type: "text", value: value ?? "", spellcheck: false, autocomplete: "off", ...more });
    /** @param {number | null | undefined} value @param {object} more */
    const number = (value, more) => h("input", { type: "number", step: "any", value: value ?? "", ...more });
    this.name = text(this.existing, {
      required: true,
      pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}",
      disabled: this.existing !== null,
      maxLength: 64,
      oninput: () => explainName(this.name),
    });
    this.url = text(settings.detect, {
      required: true,
      maxLength: 4096,
      inputMode: "url",
      placeholder: "rtsp://user:password@10.0.0.5/sub",
    });
    this.maker = h("select", { onchange: () => this.#propose() }, h("option", { value: "" }, "other"));
    this.host = text("", { inputMode: "url", placeholder: "10.0.0.5", maxLength: 255, oninput: () => this.#propose() });
    this.channel = number(1, { min: 1, max: 999, step: 1, onchange: () => this.#makers() });
    this.view = text(settings.view, { maxLength: 4096, inputMode: "url", placeholder: "same as URL" });
    this.model = h("select", null, h("option", { value: settings.model ?? "" }, settings.model ?? "default model"));
    this.fps = number(settings.fps, { min: 0, placeholder: "all" });
    this.confidence = number(settings.confidence, { min: 0, max: 1, placeholder: "model default" });
    this.classes = text(settings.classes?.join(", "), { placeholder: "all" });
    this.weight = number(settings.weight ?? 1, { min: 0, required: true });
    this.transport = h(
      "select",
      null,
      ["tcp", "udp"].map((value) => h("option", { value, selected: settings.transport === value }, value)),
    );
    const box = (/** @type {unknown} */ checked) => h("input", { type: "checkbox", checked: Boolean(checked) });
    this.track = box(settings.track);
    this.gate = box(settings.gate);
    this.clips = box(settings.clips);
    this.bestEffort = box(settings.best_effort);
    this.fallbackUrl = text(settings.degrade_detect, { maxLength: 4096, inputMode: "url", placeholder: "none" });
    this.fallbackModel = h(
      "select",
      null,
      h("option", { value: settings.degrade_model ?? "" }, settings.degrade_model ?? "none"),
    );
    this.testResult = h("div.tested", { role: "status" });
    this.testButton = h("button", { type: "button", onclick: () => this.#test() }, "Test this URL");
    this.saveButton = h("button.primary", { type: "submit" }, this.existing ? "Save" : "Add");
    this.errorText = h("p.error", { role: "alert" });
    const back = this.existing ? `#/stream/${encodeURIComponent(this.existing)}` : "#/";
    return h(
      "form.card",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#save()) },
      field("Name", this.name, "Letters, digits, “.”, “_” and “-”."),
      this.existing ? null : this.#address(),
      field("URL", this.url, "Used for inference. A low-resolution substream reduces the decoding cost."),
      h("div.buttons", null, this.testButton),
      this.testResult,
      field("URL of the main stream", this.view, "Used for viewing only; opened while a client watches."),
      h("div.pair", null, field("Model", this.model), field("Classes", this.classes, "Separate class names with commas.")),
      h("div.pair", null, field("Maximum results/s", this.fps), field("Minimum confidence, 0–1", this.confidence)),
      h(
        "div.pair",
        null,
        field("Weight", this.weight, "Relative share of engine time."),
        field("RTSP transport", this.transport),
      ),
      ticked(this.track, "Track objects (always on with zones and lines)"),
      ticked(this.gate, "Infer only during motion"),
      ticked(this.clips, "Record a clip of each zone and line event"),
      this.#overload(settings),
      this.errorText,
      h("div.buttons", null, h("a.button", { href: back }, "Cancel"), this.saveButton),
    );
  }

  /** What the URLs of a new camera can be made from. */
  #address() {
    this.#makers();
    return h(
      "div.trio",
      null,
      field("Maker", this.maker, "Fills in the URLs."),
      field("Host", this.host, "The camera's address or name."),
      field("Channel", this.channel, "1, except at a recorder."),
    );
  }

  /** Read the paths of all makers for this channel. */
  async #makers() {
    const channel = this.channel.valueAsNumber || 1;
    const makers = await getJson(`api/v1/cameras/makers?channel=${channel}`).catch(() => []);
    if (channel !== (this.channel.valueAsNumber || 1)) return; // changed meanwhile
    const chosen = this.maker.value;
    this.paths = new Map(makers.map((/** @type {any} */ maker) => [maker.name, maker]));
    this.maker.replaceChildren(
      h("option", { value: "" }, "other"),
      ...[...this.paths.keys()].map((name) => h("option", null, name)),
    );
    this.maker.value = this.paths.has(chosen) ? chosen : "";
    this.#propose();
  }

  /** Fill in the URLs of the chosen maker's camera. */
  #propose() {
    const paths = this.paths?.get(this.maker.value);
    const host = this.host.value.trim();
    if (!paths || !host) return;
    this.url.value = `rtsp://${host}${paths.sub || paths.main}`;
    this.view.value = paths.sub ? `rtsp://${host}${paths.main}` : "";
  }

  /** Settings for overload. Collapsed unless one of them is set. @param {Settings} settings */
  #overload({ degrade_detect, degrade_model, best_effort }) {
    return h(
      "details.more",
      { open: Boolean(degrade_detect || degrade_model || best_effort) },
      h("summary", null, "Under overload"),
      ticked(this.bestEffort, "Add anyway if capacity is insufficient (best effort)"),
      field("Fallback URL", this.fallbackUrl, "A lower-resolution stream for inference while the machine is overloaded."),
      field("Fallback model", this.fallbackModel, "A faster model, used if the fallback URL does not free enough capacity."),
    );
  }

  async #models() {
    const models = await getJson("api/v1/models").catch(() => []);
    for (const [select, none] of [
      [this.model, "default model"],
      [this.fallbackModel, "none"],
    ]) {
      const chosen = select.value;
      const names = new Set([...models.map((/** @type {any} */ model) => model.name), chosen].filter(Boolean));
      select.replaceChildren(h("option", { value: "" }, none), ...[...names].map((name) => h("option", { value: name }, name)));
      select.value = chosen;
    }
  }

  async #test() {
    if (!this.url.reportValidity()) return;
    this.testButton.disabled = true;
    this.testResult.replaceChildren(h("p.quiet", null, "Opening the stream and measuring for two seconds…"));
    try {
      const json = { url: this.url.value.trim(), transport: this.transport.value, stream: this.existing };
      const answer = await send("POST", "api/v1/probe", { json, timeoutMs: 30000, signal: this.leaving.signal });
      this.testResult.replaceChildren(...probeFacts(await answer.json()));
    } catch (error) {
      if (!this.leaving.signal.aborted) this.testResult.replaceChildren(h("p.bad", null, messageOf(error)));
    } finally {
      this.testButton.disabled = false;
    }
  }

  async #save() {
    const optional = (/** @type {HTMLInputElement} */ input) => (input.value === "" ? null : Number(input.value));
    const labels = this.classes.value
      .split(",")
      .map((/** @type {string} */ label) => label.trim())
      .filter(Boolean);
    const settings = {
      ...this.before,
      detect: this.url.value.trim(),
      view: this.view.value.trim() || null,
      model: this.model.value || null,
      fps: optional(this.fps),
      confidence: optional(this.confidence),
      classes: labels.length ? labels : null,
      weight: Number(this.weight.value),
      transport: this.transport.value,
      track: this.track.checked,
      gate: this.gate.checked ? "motion" : null,
      clips: this.clips.checked ? (this.before.clips ?? {}) : null,
      best_effort: this.bestEffort.checked,
      degrade_detect: this.fallbackUrl.value.trim() || null,
      degrade_model: this.fallbackModel.value || null,
    };
    const name = this.existing ?? this.name.value.trim();
    setText(this.errorText, "");
    if (!this.existing && this.store.stream(name)) return setText(this.errorText, `A camera named ${name} already exists.`);
    this.saveButton.disabled = true;
    try {
      await this.store.put(name, settings);
      location.hash = `#/stream/${encodeURIComponent(name)}`;
    } catch (error) {
      setText(this.errorText, messageOf(error));
    } finally {
      this.saveButton.disabled = false;
    }
  }
}

/** @param {HTMLElement} box @param {string} label */
function ticked(box, label) {
  return h("label.check", null, box, h("span", null, label));
}

/** @param {any} answer */
function probeFacts(answer) {
  if (!answer.works) return [h("p.bad", null, answer.reason)];
  const { size, codec, profile } = answer;
  const facts = [
    ["Video", `${codec}${profile ? ` (${profile})` : ""}, ${size.width}×${size.height}`],
    ...(answer.ingest_reason ? [["Read by", `FFmpeg: ${answer.ingest_reason}`]] : []),
    [
      "Rate",
      [
        answer.frame_rate ? `${rate(answer.frame_rate)} frames/s` : "",
        answer.bit_rate ? `${rate(answer.bit_rate / 1000)} kbit/s` : "",
      ]
        .filter(Boolean)
        .join(", ") || "–",
    ],
    [
      "First frame",
      `after ${Math.round(answer.first_frame_ms)} ms${answer.key_interval_s ? `, one key frame every ${answer.key_interval_s.toFixed(1)} s` : ""}`,
    ],
    [
      "In browsers",
      answer.untouched ? `passthrough for ${answer.players}` : `transcoded for viewers: ${answer.untouched_reason}`,
    ],
  ];
  return [
    h("p.good", null, "The camera works."),
    h(
      "dl.facts",
      null,
      facts.map(([key, value]) => h("div", null, h("dt", null, key), h("dd", null, value))),
    ),
  ];
}
