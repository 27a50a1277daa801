// @ts-check
// The state of the service: the session, the connection, the streams. Dispatches an event on each change.

import { ApiError, getJson, send, streamPath } from "../transport/http.js";

/** @import { Change, Session, Settings, Stream } from "../transport/api.js" */

const POLL_MS = 1000;
const HIDDEN_POLL_MS = 5000;

export class Store extends EventTarget {
  constructor() {
    super();
    /** @type {Session | null} null: unknown, or not logged in */
    this.session = null;
    this.needsLogin = false;
    this.loginPath = ""; // of single sign-on; empty without it
    /** @type {Date | null} when the service stopped responding */
    this.unavailableSince = null;
    this.unavailableReason = "";
    this.epoch = 0; // the number of reconnects to the service
    /** @type {Stream[] | null} null until the first response */
    this.streams = null;
    this.version = "";
    this.cluster = false; // whether the service runs on the nodes of a cluster
    this.timer = 0;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh();
    });
  }

  get canEdit() {
    return this.session?.role === "admin";
  }

  get canOperate() {
    return this.canEdit || this.session?.role === "operator";
  }

  /** Whether the role sees all cameras, and what concerns the whole service. */
  get seesAll() {
    return this.session?.cameras === null;
  }

  get canAdd() {
    return this.canEdit && this.seesAll;
  }

  /** @param {string} name */
  stream(name) {
    return this.streams?.find((stream) => stream.name === name) ?? null;
  }

  async start() {
    await this.refresh();
  }

  // Poll now, and then at regular intervals.
  async refresh() {
    clearTimeout(this.timer);
    const turn = (this.turn = {});
    try {
      if (this.session === null) await this.#loadSession();
      const streams = await getJson("api/v1/streams", { timeoutMs: 8000 });
      if (this.turn !== turn) return;
      this.#connected();
      this.streams = streams;
      this.#notify("streams");
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

  /** @param {string} token */
  async logIn(token) {
    this.session = await (await send("POST", "api/v1/session", { json: { token } })).json();
    this.needsLogin = false;
    this.#notify("session");
    this.#loadVersion();
    await this.refresh();
  }

  async logOut() {
    await send("DELETE", "api/v1/session");
    this.loginPath = this.session?.login ?? "";
    this.#loggedOut();
  }

  /** @param {string} name @param {Settings} settings */
  async put(name, settings) {
    await send("PUT", streamPath(name), { json: settings, timeoutMs: 120000 }); // the service may have to load a model
    await this.refresh();
  }

  /** @param {string} name */
  async remove(name) {
    await send("DELETE", streamPath(name));
    await this.refresh();
  }

  /** Apply a change that arrived over the WebSocket, before the next poll. @param {Change} change */
  changed({ type, stream: name, at, state, step, reason }) {
    const stream = this.stream(name);
    if (!stream?.status) return;
    if (type === "state") Object.assign(stream.status, { state, reason, since: at });
    else if (type === "degraded") Object.assign(stream.status, { degraded: step, degraded_reason: reason, degraded_since: at });
    this.#notify("streams");
  }

  async #loadSession() {
    this.session = await getJson("api/v1/session");
    this.needsLogin = false;
    this.#notify("session");
    this.#loadVersion();
  }

  #loadVersion() {
    getJson("api/v1/version").then(
      (answer) => {
        this.version = answer.version;
        this.cluster = answer.cluster;
        this.#notify("session");
      },
      () => {},
    );
  }

  #connected() {
    if (this.unavailableSince === null) return;
    this.unavailableSince = null;
    this.unavailableReason = "";
    this.epoch += 1;
    this.#notify("connection");
  }

  /** @param {ApiError} error */
  #failed(error) {
    if (error.status === 401) {
      this.loginPath = error.problem.login ?? "";
      this.#loggedOut();
    } else if (this.unavailableSince === null || this.unavailableReason !== error.message) {
      this.unavailableSince ??= new Date();
      this.unavailableReason = error.message;
      this.#notify("connection");
    }
  }

  #loggedOut() {
    clearTimeout(this.timer);
    this.session = null;
    this.streams = null;
    this.needsLogin = true;
    this.#connected();
    this.#notify("session");
  }

  /** @param {string} type */
  #notify(type) {
    this.dispatchEvent(new Event(type));
  }
}
