// @ts-check
// Snapshots of a stream, one after the other: slower than WebRTC, but they pass through any proxy.

import { messageOf, send, streamPath } from "./http.js";

const MAX_WAIT_MS = 10000;

export class Snapshots {
  /**
   * @param {string} name
   * @param {number} everyMs the minimum interval
   * @param {{ image: (bitmap: ImageBitmap, capturedMs: number) => void, failed: (reason: string) => void }} handlers
   */
  constructor(name, everyMs, handlers) {
    this.name = name;
    this.everyMs = everyMs;
    this.handlers = handlers;
    this.leaving = new AbortController();
  }

  async open() {
    let waitMs = this.everyMs;
    while (!this.leaving.signal.aborted) {
      const began = performance.now();
      try {
        const answer = await send("GET", `${streamPath(this.name)}/snapshot.jpg`, { signal: this.leaving.signal });
        const captured = Date.parse(answer.headers.get("X-Captured-At") ?? "");
        const bitmap = await createImageBitmap(await answer.blob()).catch(() => {
          throw new Error("the snapshot is not a valid image");
        });
        if (this.leaving.signal.aborted) return;
        this.handlers.image(bitmap, captured);
        waitMs = this.everyMs;
      } catch (error) {
        if (this.leaving.signal.aborted) return;
        this.handlers.failed(messageOf(error));
        waitMs = Math.min(Math.max(1000, waitMs * 2), MAX_WAIT_MS);
      }
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, waitMs - (performance.now() - began))));
    }
  }

  close() {
    this.leaving.abort();
  }
}
