// Settings of a camera: a new one, or one that is there. Its URL can be tested before anything is saved.

import { getJson, send } from "../transport/http.js";
import { field, h, say } from "./dom.js";
import { rate } from "./words.js";

export function streamForm(store, name) {
  const form = new StreamForm(store, name);
  return { element: form.element, title: name ? `${name}: settings` : "Add a camera", close: () => form.close() };
}

class StreamForm {
  constructor(store, name) {
    this.store = store;
    this.existing = name;
    this.leaving = new AbortController();
    this.place = h("div");
    this.element = h("section.view.narrow", null, h("h1", null, name ? `${name}: settings` : "Add a camera"), this.place);
    this.filling = () => this.#fill();
    store.addEventListener("streams", this.filling);
    this.#fill();
  }

  close() {
    this.leaving.abort();
    this.store.removeEventListener("streams", this.filling);
  }

  // Once, as soon as it is known what stands there now: what is typed is not overwritten.
  #fill() {
    if (this.store.streams === null || this.form) return;
    const stream = this.existing ? this.store.stream(this.existing) : null;
    if (!this.store.mayChange) return this.place.replaceChildren(h("p.empty", null, "This token may look, not change."));
    if (this.existing && !stream) return this.place.replaceChildren(h("p.empty", null, "There is no stream of this name."));
    if (stream?.origin === "file") return this.place.replaceChildren(h("p.empty", null, "This stream belongs to the file of settings, and is changed there."));
    this.before = stream?.settings ?? {};
    this.form = this.#build(this.before);
    this.place.replaceChildren(this.form);
    (this.existing ? this.url : this.name).focus();
    this.#models();
  }

  #build(settings) {
    const text = (value, more) => h("input", { type: "text", value: value ?? "", spellcheck: false, autocomplete: "off", ...more });
    const number = (value, more) => h("input", { type: "number", step: "any", value: value ?? "", ...more });
    this.name = text(this.existing, { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}", disabled: this.existing !== null, maxLength: 64 });
    this.url = text(settings.detect, { required: true, maxLength: 4096, inputMode: "url", placeholder: "rtsp://user:password@10.0.0.5/sub" });
    this.view = text(settings.view, { maxLength: 4096, inputMode: "url", placeholder: "the same" });
    this.model = h("select", null, h("option", { value: settings.model ?? "" }, settings.model ?? "the service's"));
    this.fps = number(settings.fps, { min: 0, placeholder: "all" });
    this.confidence = number(settings.confidence, { min: 0, max: 1, placeholder: "the model's" });
    this.classes = text(settings.classes?.join(", "), { placeholder: "all" });
    this.weight = number(settings.weight ?? 1, { min: 0, required: true });
    this.transport = h("select", null, ["tcp", "udp"].map((value) => h("option", { value, selected: settings.transport === value }, value)));
    const box = (checked) => h("input", { type: "checkbox", checked: Boolean(checked) });
    this.track = box(settings.track);
    this.gate = box(settings.gate);
    this.clips = box(settings.clips);
    this.bestEffort = box(settings.best_effort);
    this.smaller = text(settings.degrade_detect, { maxLength: 4096, inputMode: "url", placeholder: "none" });
    this.cheaper = h("select", null, h("option", { value: settings.degrade_model ?? "" }, settings.degrade_model ?? "none"));
    this.tested = h("div.tested", { role: "status" });
    this.testing = h("button", { type: "button", onclick: () => this.#test() }, "Test this URL");
    this.saving = h("button.primary", { type: "submit" }, this.existing ? "Save" : "Add");
    this.wrong = h("p.wrong", { role: "alert" });
    const back = this.existing ? `#/stream/${encodeURIComponent(this.existing)}` : "#/";
    return h(
      "form.card",
      { onsubmit: (event) => (event.preventDefault(), this.#save()) },
      field("Name", this.name, "Letters, digits, “.”, “_” and “-”."),
      field("URL", this.url, "The camera's small substream saves most of the decoding."),
      h("div.buttons", null, this.testing),
      this.tested,
      field("URL of the main stream", this.view, "For looking only; opened when somebody looks."),
      h("div.pair", null, field("Model", this.model), field("Classes", this.classes, "With commas between them.")),
      h("div.pair", null, field("Most results a second", this.fps), field("Least score, 0 to 1", this.confidence)),
      h("div.pair", null, field("Weight", this.weight, "Share of the engine beside the others."), field("Transport of RTSP", this.transport)),
      ticked(this.track, "Number the objects (zones and lines do so anyway)"),
      ticked(this.gate, "Infer only while something moves"),
      ticked(this.clips, "Keep a clip of each event in zones and at lines"),
      this.#overload(settings),
      this.wrong,
      h("div.buttons", null, h("a.button", { href: back }, "Cancel"), this.saving),
    );
  }

  // What is to be done without while the machine is too small; few need it, so it is folded away unless something is set.
  #overload({ degrade_detect, degrade_model, best_effort }) {
    return h(
      "details.more",
      { open: Boolean(degrade_detect || degrade_model || best_effort) },
      h("summary", null, "When the machine is too small"),
      ticked(this.bestEffort, "Add it all the same where the machine cannot carry its rate: it takes what is left"),
      field("URL of a smaller picture", this.smaller, "Inferred instead, as long as there is too much to do."),
      field("Cheaper model", this.cheaper, "Infers instead, where the smaller picture is not enough."),
    );
  }

  async #models() {
    const models = await getJson("/api/v1/models").catch(() => []);
    for (const [select, none] of [[this.model, "the service's"], [this.cheaper, "none"]]) {
      const chosen = select.value;
      const names = new Set([...models.map((one) => one.name), chosen].filter(Boolean));
      select.replaceChildren(h("option", { value: "" }, none), ...[...names].map((name) => h("option", { value: name }, name)));
      select.value = chosen;
    }
  }

  async #test() {
    if (!this.url.reportValidity()) return;
    this.testing.disabled = true;
    this.tested.replaceChildren(h("p.quiet", null, "Opening it, and looking for two seconds…"));
    try {
      const json = { url: this.url.value.trim(), transport: this.transport.value, stream: this.existing };
      const answer = await send("POST", "/api/v1/probe", { json, timeoutMs: 30000, signal: this.leaving.signal });
      this.tested.replaceChildren(...told(await answer.json()));
    } catch (error) {
      if (!this.leaving.signal.aborted) this.tested.replaceChildren(h("p.bad", null, error.message));
    } finally {
      this.testing.disabled = false;
    }
  }

  async #save() {
    const optional = (input) => (input.value === "" ? null : Number(input.value));
    const labels = this.classes.value.split(",").map((label) => label.trim()).filter(Boolean);
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
      degrade_detect: this.smaller.value.trim() || null,
      degrade_model: this.cheaper.value || null,
    };
    const name = this.existing ?? this.name.value.trim();
    say(this.wrong, "");
    if (!this.existing && this.store.stream(name)) return say(this.wrong, `there is a stream ${name} already`);
    this.saving.disabled = true;
    try {
      await this.store.put(name, settings);
      location.hash = `#/stream/${encodeURIComponent(name)}`;
    } catch (error) {
      say(this.wrong, error.message);
    } finally {
      this.saving.disabled = false;
    }
  }
}

function ticked(box, words) {
  return h("label.check", null, box, h("span", null, words));
}

function told(answer) {
  if (!answer.works) return [h("p.bad", null, answer.reason)];
  const { size, codec, profile } = answer;
  const facts = [
    ["Video", `${codec}${profile ? ` (${profile})` : ""}, ${size.width}×${size.height}`],
    ["Rate", [answer.frame_rate ? `${rate(answer.frame_rate)} frames a second` : "", answer.bit_rate ? `${rate(answer.bit_rate / 1000)} kbit/s` : ""].filter(Boolean).join(", ") || "–"],
    ["First picture", `after ${Math.round(answer.first_frame_ms)} ms${answer.key_interval_s ? `, a key frame every ${answer.key_interval_s.toFixed(1)} s` : ""}`],
    ["In browsers", answer.untouched ? "plays untouched" : `is encoded for viewers: ${answer.untouched_reason}`],
  ];
  return [h("p.good", null, "It works."), h("dl.facts", null, facts.map(([key, value]) => h("div", null, h("dt", null, key), h("dd", null, value))))];
}
