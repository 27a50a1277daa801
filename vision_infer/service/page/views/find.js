// @ts-check
// Finds cameras in the local network. The user logs in to one, sees its image and its streams, and adds it.

import { hostOf } from "../state/camera_url.js";
import { messageOf, send } from "../transport/http.js";
import { field, h, setText } from "./dom.js";
import { FoundDevice } from "./found_device.js";

/** @import { Store } from "../state/store.js" */
/** @import { Device, Login, View } from "../transport/api.js" */

const SEARCH_S = 3;

/** @param {Store} store @returns {View} */
export function find(store) {
  if (!store.canAdd) {
    const element = h(
      "section.view",
      null,
      h("h1", null, "Find cameras"),
      h("p.empty", null, "Your role does not allow this search."),
    );
    return { element, title: "Find cameras", close() {} };
  }
  const view = new Find(store);
  return { element: view.element, title: "Find cameras", close: () => view.close() };
}

class Find {
  /** @param {Store} store */
  constructor(store) {
    this.store = store;
    this.leaving = new AbortController();
    /** @type {Map<string, FoundDevice>} by the URL of the service: several devices may share an address */
    this.devices = new Map();
    /** @type {Map<string, Login>} the last login of each maker: in memory only, until this view is closed */
    this.logins = new Map();
    this.summary = h("p.summary", { role: "status" });
    this.again = h("button", { type: "button", onclick: () => this.#search() }, "Search again");
    this.errorText = h("p.error", { role: "alert" });
    this.list = h("ul.devices", { "aria-label": "Found cameras", hidden: true });
    this.none = h("section.card", { hidden: true }, ...nothingFound());
    this.address = h("input", {
      type: "text",
      required: true,
      maxLength: 512,
      inputMode: "url",
      spellcheck: false,
      autocomplete: "off",
      placeholder: "192.168.1.20",
    });
    this.element = h(
      "section.view",
      null,
      h("div.head", null, h("h1", null, "Find cameras"), this.summary, h("div.buttons", null, this.again)),
      this.errorText,
      this.list,
      this.none,
      h(
        "form.card",
        {
          onsubmit: (/** @type {Event} */ event) => (
            event.preventDefault(),
            this.#addByHand(/** @type {HTMLFormElement} */ (event.target))
          ),
        },
        field(
          "Address of a camera",
          this.address,
          "For a camera that the search does not find: its host, and the port if it is not 80.",
        ),
        h("div.buttons", null, h("button", { type: "submit" }, "Add to the list")),
      ),
      h("p.quiet", null, "A camera without ONVIF can be ", h("a", { href: "#/add" }, "added by its URL"), "."),
    );
    this.updating = () => this.#each((device) => device.update());
    store.addEventListener("streams", this.updating);
    this.#search();
  }

  close() {
    this.leaving.abort();
    this.store.removeEventListener("streams", this.updating);
    this.logins.clear();
  }

  async #search() {
    this.again.disabled = true;
    setText(this.errorText, "");
    setText(this.summary, `Searching for ${SEARCH_S} seconds…`);
    try {
      const options = { json: { wait_s: SEARCH_S }, timeoutMs: 60000, signal: this.leaving.signal };
      /** @type {Device[]} */
      const found = await (await send("POST", "api/v1/cameras/find", options)).json();
      for (const device of found) this.#show(device);
      this.none.hidden = found.length > 0;
      setText(this.summary, found.length === 1 ? "1 camera found" : `${found.length || "no"} cameras found`);
    } catch (error) {
      setText(this.summary, "");
      if (!this.leaving.signal.aborted) setText(this.errorText, messageOf(error));
    } finally {
      this.again.disabled = false;
    }
  }

  /** @param {Device} device @returns {FoundDevice} */
  #show(device) {
    let shown = this.devices.get(device.service);
    if (!shown) {
      shown = new FoundDevice(this.store, device, this.leaving.signal, (makers, login) => this.#loggedIn(makers, login));
      for (const maker of shown.makers) shown.offer(this.logins.get(maker));
      this.devices.set(device.service, shown);
      this.list.append(shown.element);
      this.list.hidden = false;
    }
    return shown;
  }

  /** @param {HTMLFormElement} form */
  #addByHand(form) {
    const service = this.address.value.trim();
    const host = hostOf(service.includes("://") ? service : `rtsp://${service}`) || service;
    this.#show({ address: host, service, name: "", hardware: "", location: "", credentials: false }).focus();
    form.reset();
  }

  /** Offer a login for other cameras of the same maker. @param {string[]} makers @param {Login} login */
  #loggedIn(makers, login) {
    for (const maker of makers) this.logins.set(maker, login);
    this.#each((device) => {
      if (device.makers.some((maker) => makers.includes(maker))) device.offer(login);
    });
  }

  /** @param {(device: FoundDevice) => void} action */
  #each(action) {
    for (const device of this.devices.values()) action(device);
  }
}

function nothingFound() {
  return [
    h("h2", null, "No camera answered"),
    h(
      "ul.hints",
      null,
      [
        "The search uses multicast, which does not pass routers: the service and the cameras must be in the same network.",
        "In Docker, run the container with host networking (network_mode: host).",
        "Many cameras answer only after ONVIF is enabled in their own settings, some only with a separate ONVIF user.",
        "Otherwise, enter the address of the camera below.",
      ].map((text) => h("li", null, text)),
    ),
  ];
}
