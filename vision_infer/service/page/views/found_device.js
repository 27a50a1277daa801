// @ts-check
// A camera that was found: the login, then its image and its streams, and a button that adds it.

import { hostOf, withLogin } from "../state/camera_url.js";
import { messageOf, send } from "../transport/http.js";
import { field, h, setText } from "./dom.js";
import { explainName, nameLike, rate, span } from "./words.js";

/** @import { Store } from "../state/store.js" */
/** @import { Camera, Device, Login, Profile } from "../transport/api.js" */

const MAX_CLOCK_OFFSET_S = 5;
const IMAGE_WIDTH = 640;

export class FoundDevice {
  /**
   * @param {Store} store
   * @param {Device} device
   * @param {AbortSignal} leaving
   * @param {(makers: string[], login: Login) => void} onLogin called with the makers of a camera that accepted a login
   */
  constructor(store, device, leaving, onLogin) {
    this.store = store;
    this.device = device;
    this.leaving = leaving;
    this.onLogin = onLogin;
    /** @type {string[]} the possible names of the maker, in lower case */
    this.makers = [makerOf(device.name)].filter(Boolean);
    const placeholder = device.credentials ? "from the configuration file" : "";
    const input = (/** @type {object} */ more) => h("input", { maxLength: 128, spellcheck: false, placeholder, ...more });
    this.user = input({ type: "text", autocomplete: "off", autocapitalize: "none" });
    this.password = input({ type: "password", autocomplete: "new-password" });
    this.loginButton = h("button.primary", { type: "submit" }, "Log in");
    this.status = h("p.quiet", { role: "status" });
    this.errorText = h("p.error", { role: "alert" });
    this.known = h("p.good", { hidden: true });
    this.shownNames = "";
    this.image = h("canvas.image", { role: "img", "aria-label": `Image of ${this.label}` });
    this.stage = h("div.stage", { hidden: true }, this.image);
    this.facts = h("p.quiet");
    this.#describe(device.hardware);
    this.body = h(
      "form.login-to",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#logIn()) },
      h("div.pair", null, field("User", this.user), field("Password", this.password)),
      h("div.buttons", null, this.loginButton),
    );
    this.element = h(
      "li.card.device",
      null,
      this.stage,
      h("div.about", null, h("h2", null, this.label), this.facts, this.known, this.body, this.status, this.errorText),
    );
    this.update();
  }

  get label() {
    return this.device.name || this.device.address;
  }

  focus() {
    this.user.focus();
  }

  /** Fill in a login that another camera of this maker accepted. @param {Login | undefined} login */
  offer(login) {
    if (!login || this.camera || this.user.value || this.password.value) return;
    this.user.value = login.user;
    this.password.value = login.password;
  }

  // Mark a device that is configured already.
  update() {
    const streams = (this.store.streams ?? []).filter(({ settings }) =>
      [settings.detect, settings.view].some((url) => hostOf(url ?? "") === this.device.address),
    );
    const names = streams.map(({ name }) => name).join(" ");
    if (names === this.shownNames) return;
    this.shownNames = names;
    this.known.hidden = streams.length === 0;
    const links = streams.flatMap(({ name }) => [" ", h("a", { href: `#/stream/${encodeURIComponent(name)}` }, name)]);
    this.known.replaceChildren("Already added:", ...links);
  }

  /** @param {string} model */
  #describe(model) {
    const { name, address, location } = this.device;
    setText(this.facts, [model, name ? address : "", location].filter(Boolean).join(" · "));
  }

  async #logIn() {
    const login = { user: this.user.value.trim(), password: this.password.value };
    setText(this.errorText, "");
    setText(this.status, "Asking the camera for its streams…");
    this.loginButton.disabled = true;
    try {
      const options = { json: { address: this.device.service, ...login }, timeoutMs: 90000, signal: this.leaving };
      const answer = await send("POST", "api/v1/cameras/inspect", options);
      this.#loggedIn(await answer.json(), login);
    } catch (error) {
      if (this.leaving.aborted) return;
      setText(this.errorText, messageOf(error));
      this.password.select();
      this.password.focus();
    } finally {
      setText(this.status, "");
      this.loginButton.disabled = false;
    }
  }

  /** @param {Camera} camera @param {Login} login */
  #loggedIn(camera, login) {
    this.camera = camera;
    this.login = login;
    const maker = makerOf(camera.manufacturer);
    if (maker && !this.makers.includes(maker)) this.makers.push(maker);
    this.#describe([camera.manufacturer, camera.model].filter(Boolean).join(" "));
    this.#showImage(camera.snapshot);
    this.#showStreams(camera);
    if (login.user) this.onLogin(this.makers, login);
  }

  /** @param {Camera} camera */
  #showStreams(camera) {
    const choices = () =>
      h(
        "select",
        null,
        camera.profiles.map((one) => h("option", { value: one.token }, words(one))),
      );
    this.detect = choices();
    this.view = choices();
    this.channel = h(
      "select",
      { onchange: () => this.#choose(camera) },
      camera.channels.map((_, index) => h("option", { value: index }, `Channel ${index + 1}`)),
    );
    this.name = h("input", {
      type: "text",
      required: true,
      pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}",
      maxLength: 64,
      spellcheck: false,
      autocomplete: "off",
      oninput: () => explainName(this.name),
    });
    this.addButton = h("button.primary", { type: "submit" }, "Add");
    const offset = camera.clock_offset_s ?? 0;
    const wrong = `The clock of the camera is ${span(Math.abs(offset))} ${offset > 0 ? "fast" : "slow"}.`;
    const form = h(
      "form.streams",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#add()) },
      camera.channels.length > 1 ? field("Channel", this.channel) : null,
      h("div.pair", null, field("Stream for detection", this.detect), field("Stream for viewing", this.view)),
      field("Name", this.name),
      camera.snapshot ? null : h("p.quiet", null, "The camera offers no image."),
      Math.abs(offset) > MAX_CLOCK_OFFSET_S ? h("p.quiet", null, wrong) : null,
      h("div.buttons", null, this.addButton),
    );
    this.#choose(camera);
    this.body.replaceWith(form);
    this.body = form;
    this.addButton.focus();
  }

  /** Propose the streams and the name of the chosen channel. @param {Camera} camera */
  #choose(camera) {
    const index = Number(this.channel.value);
    this.detect.value = camera.channels[index].detect;
    this.view.value = camera.channels[index].view;
    this.stage.hidden = !this.drawn || index > 0; // the image is that of the first channel
    this.name.value = this.#freeName(camera, camera.channels.length > 1 ? `-${index + 1}` : "");
    explainName(this.name);
  }

  /** @param {Camera} camera @param {string} end */
  #freeName(camera, end) {
    const base = nameLike(camera.name || this.device.name || camera.model).slice(0, 56) || "camera";
    let name = base + end;
    for (let number = 2; this.store.stream(name); number++) name = `${base}${end}-${number}`;
    return name;
  }

  /** @param {string | null} url a data URL, which the security policy of this page allows for no img element */
  async #showImage(url) {
    if (!url) return;
    try {
      const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (character) => character.charCodeAt(0));
      const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }), { resizeWidth: IMAGE_WIDTH });
      Object.assign(this.image, { width: bitmap.width, height: bitmap.height });
      this.image.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      this.drawn = true;
      this.stage.hidden = Number(this.channel.value) > 0;
    } catch {
      setText(this.status, "This browser cannot show the image of the camera.");
    }
  }

  // Go on to the next channel of a recorder. A camera is done.
  #added() {
    const channels = this.camera?.channels ?? [];
    this.body.hidden = channels.length === 1;
    if (!this.camera || this.body.hidden) return this.known.querySelector("a:last-child")?.focus();
    this.channel.value = String(Math.min(Number(this.channel.value) + 1, channels.length - 1));
    this.#choose(this.camera);
    this.addButton.focus();
  }

  async #add() {
    const name = this.name.value.trim();
    setText(this.errorText, "");
    if (this.store.stream(name)) return setText(this.errorText, `A camera named ${name} already exists.`);
    const url = (/** @type {string} */ token) => {
      const profile = this.camera?.profiles.find((one) => one.token === token);
      return profile && this.login ? withLogin(profile.url, this.login) : null;
    };
    const same = this.view.value === this.detect.value;
    this.addButton.disabled = true;
    setText(this.status, "Adding…");
    try {
      await this.store.put(name, { detect: url(this.detect.value), view: same ? null : url(this.view.value) });
      setText(this.status, `${name} was added.`);
      this.addButton.disabled = false;
      this.#added();
    } catch (error) {
      setText(this.status, "");
      setText(this.errorText, messageOf(error));
    } finally {
      this.addButton.disabled = false;
    }
  }
}

/** The first word of a name, which is the maker in most cameras. @param {string} name */
const makerOf = (name) =>
  name
    .trim()
    .split(/[\s_-]/)[0]
    .toLowerCase();

/** @param {Profile} profile */
function words({ name, size, frame_rate, codec, bit_rate }) {
  const facts = [
    size ? `${size.width}×${size.height}` : "",
    frame_rate ? `${rate(frame_rate)} frames/s` : "",
    codec,
    bit_rate ? `${rate(bit_rate / 1000)} kbit/s` : "",
  ];
  return [facts.filter(Boolean).join(", "), name].filter(Boolean).join(" · ");
}
