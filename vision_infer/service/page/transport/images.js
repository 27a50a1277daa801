// @ts-check
// Images of a stream without WebRTC: MJPEG, else snapshots, one after the other. Both pass through any proxy.

import { messageOf, send, streamPath } from "./http.js";

/** @typedef {"mjpeg" | "snapshots"} Mode */
/** @typedef {{ jpeg: Uint8Array<ArrayBuffer>, captured: number }} Image captured: the capture time in ms; NaN if it is not known */

const MAX_WAIT_MS = 10000;
const SILENT_MS = 15000; // the service ends the video itself after 10 s without a frame
const VIDEO_AGAIN_MS = 30000;
const VIDEO_MS = 24 * 3600 * 1000;
const MAX_HEAD = 4096;
const MAX_JPEG = 32 << 20;

// Each MJPEG video keeps a connection open. Browsers open six to a host, for all windows together, unless it speaks HTTP/2.
const MAX_VIDEOS = /^h[23]/.test(protocol()) ? 64 : 2;
let videos = 0;

export class Images {
  /**
   * @param {string} name
   * @param {boolean} small a tile of the wall
   * @param {{ image: (bitmap: ImageBitmap, capturedMs: number, mode: Mode) => void, failed: (reason: string) => void }} handlers
   */
  constructor(name, small, handlers) {
    this.name = name;
    this.handlers = handlers;
    this.everyMs = small ? 1000 : 300;
    this.fps = small ? 5 : 10;
    this.leaving = new AbortController();
    this.videoProblem = ""; // why the images are snapshots
  }

  async open() {
    let waitMs = this.everyMs;
    let videoAt = 0;
    while (!this.leaving.signal.aborted) {
      if (document.hidden) {
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
        continue;
      }
      const began = performance.now();
      if (began >= videoAt && videos < MAX_VIDEOS) {
        await this.#video();
        videoAt = document.hidden ? 0 : performance.now() + VIDEO_AGAIN_MS;
        continue;
      }
      if (videos >= MAX_VIDEOS) this.videoProblem = `without HTTP/2, this page shows at most ${MAX_VIDEOS} cameras as MJPEG`;
      try {
        const answer = await send("GET", `${streamPath(this.name)}/snapshot.jpg`, { signal: this.leaving.signal });
        await this.#show(await answer.blob(), Date.parse(answer.headers.get("X-Captured-At") ?? ""), "snapshots");
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

  // Show the MJPEG video until it ends or fails, or the page is hidden.
  async #video() {
    videos += 1;
    const silent = new AbortController();
    document.addEventListener("visibilitychange", () => silent.abort(), { signal: silent.signal });
    const watch = () => setTimeout(() => silent.abort(), SILENT_MS);
    let timer = watch();
    try {
      const signal = AbortSignal.any([this.leaving.signal, silent.signal]);
      const answer = await send("GET", `${streamPath(this.name)}/video.mjpeg?fps=${this.fps}`, { signal, timeoutMs: VIDEO_MS });
      const reader = answer.body?.getReader();
      for await (const { jpeg, captured } of imagesOf(async () => (await reader?.read()) ?? { done: true })) {
        clearTimeout(timer);
        timer = watch();
        await this.#show(new Blob([jpeg]), captured, "mjpeg");
      }
      this.videoProblem = "the MJPEG video has ended";
    } catch (error) {
      this.videoProblem = silent.signal.aborted ? "the MJPEG video stopped" : messageOf(error);
    } finally {
      clearTimeout(timer);
      silent.abort();
      videos -= 1;
    }
  }

  /** @param {Blob} blob @param {number} captured @param {Mode} mode */
  async #show(blob, captured, mode) {
    const bitmap = await createImageBitmap(blob).catch(() => {
      throw new Error("the image is not valid");
    });
    if (!this.leaving.signal.aborted) this.handlers.image(bitmap, captured, mode);
  }
}

function protocol() {
  const [page] = globalThis.performance?.getEntriesByType?.("navigation") ?? [];
  return /** @type {PerformanceNavigationTiming | undefined} */ (page)?.nextHopProtocol ?? "";
}

/**
 * The images of a multipart response whose parts have a Content-Length.
 * @param {() => Promise<{ done: boolean, value?: Uint8Array }>} read returns the next bytes
 * @returns {AsyncGenerator<Image, void>}
 */
export async function* imagesOf(read) {
  let bytes = new Uint8Array(0);
  for (;;) {
    const end = endOfHead(bytes);
    const head = new TextDecoder().decode(bytes.subarray(0, end));
    const length = Number(/^content-length: *(\d+)/im.exec(head)?.[1] ?? NaN);
    if (end > 0 && bytes.length >= end + length) {
      yield { jpeg: bytes.slice(end, end + length), captured: Date.parse(/^x-captured-at: *(\S+)/im.exec(head)?.[1] ?? "") };
      bytes = bytes.slice(end + length);
      continue;
    }
    if (end > 0 ? !(length <= MAX_JPEG) : bytes.length > MAX_HEAD) throw new Error("the response is not a valid MJPEG video");
    const { done, value = new Uint8Array(0) } = await read();
    if (done) return;
    const joined = new Uint8Array(bytes.length + value.length);
    joined.set(bytes);
    joined.set(value, bytes.length);
    bytes = joined;
  }
}

/** The position after the empty line that ends the headers; 0 if it has not arrived. @param {Uint8Array} bytes */
function endOfHead(bytes) {
  for (let at = 3; at < Math.min(bytes.length, MAX_HEAD); at++) {
    if (bytes[at] === 10 && bytes[at - 1] === 13 && bytes[at - 2] === 10 && bytes[at - 3] === 13) return at + 1;
  }
  return 0;
}
