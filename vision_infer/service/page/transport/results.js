// @ts-check
// Result rows over one WebSocket, which reconnects automatically.

/** @import { Change, Row } from "./api.js" */

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 8000;
const MASK_HEIGHT = 270; // pixels: more would not be visible, because models return small masks
const SETTLE_MS = 300; // scrolling changes the visible streams many times

export class Results {
  /**
   * @param {(row: Row) => void} onRow
   * @param {(change: Change) => void} onChange called with a change of a stream's state or degradation
   */
  constructor(onRow, onChange) {
    this.onRow = onRow;
    this.onChange = onChange;
    this.wanted = "";
    /** @type {WebSocket | null} */
    this.socket = null;
    this.waitMs = FIRST_WAIT_MS;
    /** @type {number | undefined} */
    this.timer = undefined;
  }

  /** @param {string[]} names the streams to subscribe to; without names, the connection is closed */
  want(names) {
    const wanted = [...new Set(names)].sort().join(",");
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    this.#later(SETTLE_MS);
  }

  // reconnect now: the service responds again
  reconnect() {
    this.waitMs = FIRST_WAIT_MS;
    if (this.wanted && !this.socket) this.#later(0);
  }

  close() {
    this.wanted = "";
    clearTimeout(this.timer);
    this.#drop();
  }

  /** @param {number} ms */
  #later(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#open(), ms);
  }

  #drop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  #open() {
    this.#drop();
    if (!this.wanted) return;
    const url = new URL("api/v1/results", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("streams", this.wanted);
    url.searchParams.set("states", "true");
    url.searchParams.set("mask_height", String(MASK_HEIGHT));
    const socket = (this.socket = new WebSocket(url));
    socket.onopen = () => (this.waitMs = FIRST_WAIT_MS);
    socket.onmessage = (message) => {
      const row = JSON.parse(message.data);
      if (row.type === undefined) this.onRow(row);
      else if (row.stream) this.onChange(row); // engine events are ignored
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.#later(this.waitMs * (0.5 + Math.random() / 2));
      this.waitMs = Math.min(this.waitMs * 2, MAX_WAIT_MS);
    };
  }
}
