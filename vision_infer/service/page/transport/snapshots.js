// Pictures of a stream one after the other, where WebRTC does not come through: slower, and through any proxy.

import { send, streamPath } from "./http.js";

const LONGEST_WAIT_MS = 10000;

export class Snapshots {
  // everyMs: least time from one picture to the next; heard: { picture(bitmap, capturedMs), failed(reason) }
  constructor(name, everyMs, heard) {
    this.name = name;
    this.everyMs = everyMs;
    this.heard = heard;
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
          throw new Error("the snapshot is no picture");
        });
        if (this.leaving.signal.aborted) return;
        this.heard.picture(bitmap, captured);
        waitMs = this.everyMs;
      } catch (error) {
        if (this.leaving.signal.aborted) return;
        this.heard.failed(error.message);
        waitMs = Math.min(Math.max(1000, waitMs * 2), LONGEST_WAIT_MS);
      }
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, waitMs - (performance.now() - began))));
    }
  }

  close() {
    this.leaving.abort();
  }
}
