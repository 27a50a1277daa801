// What the page knows of the service: who asks, whether it answers, its streams. Views are told of each change.

import { ApiError, getJson, send, streamPath } from "../transport/http.js";

const POLL_MS = 1000;
const HIDDEN_POLL_MS = 5000;

export class Store extends EventTarget {
  constructor() {
    super();
    this.session = null; // { role, expires_s }; null: not known, or nobody is logged in
    this.needsLogin = false;
    this.goneSince = null; // Date since which the service does not answer
    this.gone = ""; // why
    this.epoch = 0; // counts how often the service came back
    this.streams = null; // null until they are known
    this.version = "";
    this.timer = 0;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh();
    });
  }

  get mayChange() {
    return this.session?.role === "admin";
  }

  stream(name) {
    return this.streams?.find((one) => one.name === name) ?? null;
  }

  async start() {
    await this.refresh();
  }

  // Ask now, and then again and again.
  async refresh() {
    clearTimeout(this.timer);
    const turn = (this.turn = {});
    try {
      if (this.session === null) await this.#greet();
      const streams = await getJson("/api/v1/streams", { timeoutMs: 8000 });
      if (this.turn !== turn) return;
      this.#answered();
      this.streams = streams;
      this.#tell("streams");
    } catch (error) {
      if (this.turn !== turn) return;
      if (!(error instanceof ApiError)) throw error;
      this.#failed(error);
    } finally {
      if (this.turn === turn && !this.needsLogin) {
        this.timer = setTimeout(() => this.refresh(), document.hidden ? HIDDEN_POLL_MS : POLL_MS);
      }
    }
  }

  async logIn(token) {
    this.session = await (await send("POST", "/api/v1/session", { json: { token } })).json();
    this.needsLogin = false;
    this.#tell("session");
    this.#askVersion();
    await this.refresh();
  }

  async logOut() {
    await send("DELETE", "/api/v1/session");
    this.#loggedOut();
  }

  async put(name, settings) {
    await send("PUT", streamPath(name), { json: settings, timeoutMs: 120000 }); // a model may be loaded for it
    await this.refresh();
  }

  async remove(name) {
    await send("DELETE", streamPath(name));
    await this.refresh();
  }

  // What a WebSocket has told of a stream, before it is asked for again.
  changed({ type, stream: name, at, state, step, reason }) {
    const stream = this.stream(name);
    if (!stream?.status) return;
    if (type === "state") Object.assign(stream.status, { state, reason, since: at });
    else if (type === "degraded") Object.assign(stream.status, { degraded: step, degraded_reason: reason, degraded_since: at });
    this.#tell("streams");
  }

  async #greet() {
    this.session = await getJson("/api/v1/session");
    this.needsLogin = false;
    this.#tell("session");
    this.#askVersion();
  }

  #askVersion() {
    getJson("/api/v1/version").then(
      (answer) => {
        this.version = answer.version;
        this.#tell("session");
      },
      () => {},
    );
  }

  #answered() {
    if (this.goneSince === null) return;
    this.goneSince = null;
    this.gone = "";
    this.epoch += 1;
    this.#tell("connection");
  }

  #failed(error) {
    if (error.status === 401) {
      this.#loggedOut();
    } else if (this.goneSince === null || this.gone !== error.message) {
      this.goneSince ??= new Date();
      this.gone = error.message;
      this.#tell("connection");
    }
  }

  #loggedOut() {
    clearTimeout(this.timer);
    this.session = null;
    this.streams = null;
    this.needsLogin = true;
    this.#answered();
    this.#tell("session");
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}
