// @ts-check
// The video of one stream with its overlay: over WebRTC, or as snapshots if WebRTC fails, with the reason.

import { Matching } from "../state/matching.js";
import { regionOf, shapesOf } from "../state/shapes.js";
import { preferences } from "../state/preferences.js";
import { VideoDelay } from "../state/video_delay.js";
import { Anchors } from "../state/timing.js";
import { Snapshots } from "../transport/snapshots.js";
import { Whep } from "../transport/whep.js";
import { flag, h, setText } from "./dom.js";
import { drawOverlay } from "./overlay.js";
import { stateOf, withoutWait } from "./words.js";

/** @import { Row, SessionFacts, Size, Stream, Transport, FrameTime, Region, Shape } from "../transport/api.js" */

const SHOWN = new Set(["live", "running", "stalled"]);
const FIRST_FRAME_MS = 5000;
const RETRY_MS = 5000;
const MAX_RETRY_MS = 120000;

export class Player {
  /**
   * @param {string} name
   * @param {(transport: Transport) => void} onTransport called when the transport changes
   * @param {boolean} small a tile of the wall
   */
  constructor(name, onTransport, small = false) {
    this.name = name;
    this.small = small;
    this.onTransport = onTransport;
    this.matching = new Matching();
    /** @type {Stream | null} */
    this.stream = null;
    /** @type {Size | null} */
    this.size = null;
    this.wanted = false;
    /** @type {Whep | null} */
    this.whep = null;
    /** @type {Snapshots | null} */
    this.snapshots = null;
    this.retryMs = RETRY_MS;
    /** @type {FrameTime | null} the time of the displayed frame */
    this.time = null;
    /** @type {Shape[]} */
    this.shapes = [];
    /** @type {Region} */
    this.region = { look: [], ignore: [] };
    /** @type {string | undefined} the settings for which the shapes were computed */
    this.drawnFor = undefined;
    /** @type {string | undefined} */
    this.source = undefined;
    this.hidden = false; // hides the overlay while shapes are edited
    this.video = h("video", { muted: true, playsInline: true, autoplay: true, disablePictureInPicture: true, tabIndex: -1 });
    this.image = h("canvas.image", { hidden: true });
    this.overlay = h("canvas.overlay", { "aria-hidden": "true" });
    this.note = h("p.note", { role: "status" });
    this.element = h("div.stage", null, this.video, this.image, this.overlay, this.note);
    this.area = { width: 0, height: 0 };
    this.resized = new ResizeObserver(([{ contentRect }]) => {
      this.area = { width: contentRect.width, height: contentRect.height };
      this.draw();
    });
    this.resized.observe(this.overlay);
  }

  /** @param {Stream} stream */
  update(stream) {
    this.stream = stream;
    const size = stream.status?.size ?? null;
    const drawn = JSON.stringify([stream.settings.zones, stream.settings.lines, stream.settings.region, size]);
    if (drawn !== this.drawnFor) {
      this.drawnFor = drawn;
      this.shapes = shapesOf(stream.settings, size);
      this.region = regionOf(stream.settings, size);
    }
    this.size = size ?? this.size;
    if (size && !this.small) this.element.style.aspectRatio = `${size.width} / ${size.height}`; // tiles are all alike
    const source = `${stream.settings.detect} ${stream.settings.view}`;
    if (this.source !== undefined && this.source !== source) this.#leave(); // the source has changed
    this.source = source;
    this.#follow();
  }

  start() {
    this.wanted = true;
    this.#follow();
  }

  stop() {
    this.wanted = false;
    this.#leave();
  }

  // Reconnect after the service was unavailable.
  reconnect() {
    this.#leave(true);
    this.retryMs = RETRY_MS;
    this.#follow();
  }

  /** @param {boolean} gone whether the stream has been removed */
  close(gone = false) {
    this.wanted = false;
    this.#leave(gone);
    this.resized.disconnect();
  }

  /** @param {Row} row */
  push(row) {
    this.matching.push(row);
    if (this.snapshots && this.time) this.draw(); // the result may arrive after the snapshot
  }

  draw() {
    const time = this.hidden ? null : this.time;
    const known = time ? this.matching.at(time, preferences.between) : { row: null, exact: false, found: [] };
    const row = known.row;
    const size = row ? { width: row.width, height: row.height } : this.size;
    const scene = {
      size,
      found: known.found,
      trails: time && known.found.length && preferences.overlay.trails ? this.matching.trails(time) : new Map(),
      shapes: this.hidden ? [] : this.shapes,
      region: this.region,
      status: this.stream?.status,
      options:
        this.small && !preferences.tileLabels ? { ...preferences.overlay, labels: false, scores: false } : preferences.overlay,
      small: this.small,
    };
    drawOverlay(this.overlay, scene, this.area);
    this.element.dispatchEvent(new CustomEvent("drawn", { detail: { time: this.time, ...known } }));
  }

  // Start or stop playback according to the stream's state.
  #follow() {
    const state = this.stream ? stateOf(this.stream) : null;
    const shown = state !== null && SHOWN.has(state.state);
    flag(this.element, "dimmed", state !== null && state.state !== "live");
    if (!this.wanted || !shown) {
      this.#leave(!shown);
      if (state && !shown) this.#note([state.word, withoutWait(this.stream?.status?.reason ?? "")].filter(Boolean).join(": "));
      return;
    }
    if (this.whep || this.snapshots) return;
    this.#note("connecting…");
    this.#webrtc();
  }

  #webrtc() {
    clearTimeout(this.retry);
    const anchors = new Anchors();
    const whep = (this.whep = new Whep(this.name, {
      track: (media, receiver) => {
        if (this.whep !== whep) return;
        this.video.srcObject = media;
        this.video.play().catch(() => {}); // a muted video may always play; play() fails only if the player closes first
        this.#everyFrame(whep, anchors, new VideoDelay(receiver));
      },
      connected: () => {
        if (this.whep === whep && this.mode !== "webrtc") this.firstFrame = setTimeout(() => this.#noFrame(whep), FIRST_FRAME_MS);
      },
      anchor: (anchor) => anchors.add(anchor),
      session: (facts) => {
        if (this.whep === whep) this.onTransport({ mode: "webrtc", detail: sessionWords(facts), facts });
      },
      failed: (reason) => {
        if (this.whep === whep) this.#fallBack(reason);
      },
    }));
    whep.open();
  }

  /** @param {Whep} whep @param {Anchors} anchors @param {VideoDelay} delay */
  #everyFrame(whep, anchors, delay) {
    const video = this.video;
    /** @param {number} _ @param {VideoFrameCallbackMetadata} frame */
    const onFrame = (_, frame) => {
      if (this.whep !== whep) return;
      if (this.mode !== "webrtc") this.#firstFrame(whep);
      this.size = { width: frame.width, height: frame.height };
      this.time = frame.rtpTimestamp === undefined ? null : anchors.timeOf(frame.rtpTimestamp);
      if (this.time) delay.frame(this.matching.behind(this.time), preferences.delayVideo, performance.now());
      this.draw();
      video.requestVideoFrameCallback(onFrame);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(onFrame);
    else video.addEventListener("playing", () => this.whep === whep && this.#firstFrame(whep), { once: true });
  }

  /** @param {Whep} whep */
  #firstFrame(whep) {
    clearTimeout(this.firstFrame);
    this.snapshots?.close();
    this.snapshots = null;
    this.mode = "webrtc";
    this.retryMs = RETRY_MS;
    this.video.hidden = false;
    this.image.hidden = true;
    this.#note("");
    this.element.dataset.mode = "webrtc";
    if (!whep.session) this.onTransport({ mode: "webrtc", detail: "WebRTC" });
  }

  /** @param {Whep} whep */
  async #noFrame(whep) {
    const codec = await whep.codec().catch(() => null);
    if (this.whep !== whep || this.mode === "webrtc") return;
    const received = codec?.received
      ? `none of the ${codec.received} received frames (${codec.mime}) could be decoded`
      : "no frames arrived";
    whep.close();
    this.#fallBack(`WebRTC is connected, but ${received}`);
  }

  /** @param {string} reason */
  #fallBack(reason) {
    this.whep = null;
    clearTimeout(this.firstFrame);
    this.retry = setTimeout(() => this.wanted && this.#webrtc(), this.retryMs);
    this.retryMs = Math.min(this.retryMs * 2, MAX_RETRY_MS);
    this.onTransport({ mode: "snapshots", detail: `Snapshots: ${reason}` });
    if (this.snapshots) return;
    this.mode = "snapshots";
    this.element.dataset.mode = "snapshots";
    /** @type {Snapshots} */
    const snapshots = (this.snapshots = new Snapshots(this.name, this.small ? 1000 : 300, {
      image: (bitmap, captured) => this.snapshots === snapshots && this.#show(bitmap, captured),
      failed: (message) => this.snapshots === snapshots && this.#note(message),
    }));
    snapshots.open();
  }

  /** @param {ImageBitmap} bitmap @param {number} captured */
  #show(bitmap, captured) {
    const { width, height } = bitmap;
    Object.assign(this.image, { width, height, hidden: false });
    this.image.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.video.hidden = true;
    this.size = { width, height };
    this.time = Number.isNaN(captured) ? null : { ms: captured, by: "captured" };
    this.#note("");
    this.draw();
  }

  /** @param {boolean} ended whether the stream no longer delivers frames */
  #leave(ended = false) {
    clearTimeout(this.retry);
    clearTimeout(this.firstFrame);
    const was = this.whep || this.snapshots;
    this.whep?.close({ ended });
    this.snapshots?.close();
    this.whep = this.snapshots = this.mode = this.time = null;
    delete this.element.dataset.mode;
    if (was) {
      this.draw();
      this.onTransport({ mode: "none", detail: "" });
    }
  }

  /** @param {string} text */
  #note(text) {
    setText(this.note, text);
    this.note.hidden = !text;
  }
}

/** @param {SessionFacts} facts */
function sessionWords({ mode, codec, reason, why }) {
  const treatment = mode === "passthrough" ? "passthrough" : "transcoded";
  const cause = reason || why;
  return [`WebRTC, ${codec ?? ""} ${treatment}`.replace(/ +/g, " "), cause].filter(Boolean).join(": ");
}
