// @ts-check
// The video of one stream with its overlay: over WebRTC, or as MJPEG or snapshots while WebRTC fails, with the reason.

import { Matching } from "../state/matching.js";
import { regionOf, shapesOf } from "../state/shapes.js";
import { preferences } from "../state/preferences.js";
import { skeletonOf } from "../state/skeletons.js";
import { VideoDelay } from "../state/video_delay.js";
import { Anchors } from "../state/timing.js";
import { Images } from "../transport/images.js";
import { Whep } from "../transport/whep.js";
import { flag, h, setText } from "./dom.js";
import { drawOverlay } from "./overlay.js";
import { SoundButton } from "./sound_button.js";
import { fallbackWords, noFrameWords, sessionWords, stateOf, withoutWait } from "./words.js";

/** @import { Mode } from "../transport/images.js" */
/** @import { Row, SessionFacts, Size, Stream, Transport, FrameTime, Region, Shape } from "../transport/api.js" */

const SHOWN = new Set(["live", "running", "stalled"]);
const FIRST_FRAME_MS = 5000;
const SLOW_MS = 3000; // images are shown if WebRTC takes longer
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
    /** @type {Images | null} */
    this.images = null;
    /** @type {SessionFacts | null} */
    this.facts = null;
    this.reason = ""; // why the video does not come over WebRTC
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
    this.sound = new SoundButton(name, this.video);
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
    this.matching.push(row, performance.now());
    if (this.images && this.time) this.draw(); // the result may arrive after the image
  }

  draw() {
    const time = this.hidden ? null : this.time;
    const known = time ? this.matching.at(time, preferences.between) : { row: null, exact: false, found: [] };
    const row = known.row;
    const size = row ? { width: row.width, height: row.height } : this.size;
    const scene = {
      size,
      found: known.found,
      segments: row?.segments ?? [],
      trails: time && known.found.length && preferences.overlay.trails ? this.matching.trails(time) : new Map(),
      shapes: this.hidden ? [] : this.shapes,
      region: this.region,
      status: this.stream?.status,
      options:
        this.small && !preferences.tileLabels ? { ...preferences.overlay, labels: false, scores: false } : preferences.overlay,
      small: this.small,
      skeleton: row && known.found.some(({ keypoints }) => keypoints) ? skeletonOf(row.model) : [],
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
    if (this.whep || this.images) return;
    this.#note("connecting…");
    this.#webrtc();
    if (!this.small) this.slow = setTimeout(() => this.#showImages("WebRTC is still connecting"), SLOW_MS);
  }

  #webrtc() {
    clearTimeout(this.retry);
    this.facts = null;
    const anchors = new Anchors();
    const whep = (this.whep = new Whep(this.name, !preferences.delayVideo, {
      track: (media, receiver) => {
        if (this.whep !== whep) return;
        this.video.srcObject = media;
        this.video.play().catch(() => {}); // a muted video may always play; play() fails only if the player closes first
        this.#everyFrame(whep, anchors, new VideoDelay(receiver, this.matching));
      },
      connected: () => {
        if (this.whep === whep && this.mode !== "webrtc") this.firstFrame = setTimeout(() => this.#noFrame(whep), FIRST_FRAME_MS);
      },
      anchor: (anchor) => anchors.add(anchor),
      session: (facts) => {
        if (this.whep !== whep) return;
        this.facts = facts;
        this.sound.update(facts.audio);
        if (this.mode === "webrtc") this.#arrives("webrtc");
      },
      failed: (reason) => {
        if (this.whep === whep) this.#fallBack(reason);
      },
    }));
    this.sound.follow(whep);
    whep.open();
  }

  /** @param {Whep} whep @param {Anchors} anchors @param {VideoDelay} delay */
  #everyFrame(whep, anchors, delay) {
    const video = this.video;
    /** @param {number} _ @param {VideoFrameCallbackMetadata} frame */
    const onFrame = (_, frame) => {
      if (this.whep !== whep) return;
      if (whep.atOnce === preferences.delayVideo) {
        this.#leave(); // the other mode needs another session
        this.#follow();
        return;
      }
      if (this.mode !== "webrtc") this.#firstFrame();
      this.size = { width: frame.width, height: frame.height };
      this.time = frame.rtpTimestamp === undefined ? null : anchors.timeOf(frame.rtpTimestamp);
      if (this.time) delay.frame(this.time, preferences.delayVideo, performance.now());
      this.draw();
      video.requestVideoFrameCallback(onFrame);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(onFrame);
    else video.addEventListener("playing", () => this.whep === whep && this.#firstFrame(), { once: true });
  }

  #firstFrame() {
    clearTimeout(this.firstFrame);
    clearTimeout(this.slow);
    this.images?.close();
    this.images = null;
    this.retryMs = RETRY_MS;
    this.video.hidden = false;
    this.image.hidden = true;
    this.#note("");
    this.#arrives("webrtc");
  }

  /** @param {Transport["mode"]} mode */
  #arrives(mode) {
    this.mode = this.element.dataset.mode = mode;
    this.#tell();
  }

  #tell() {
    const facts = this.mode === "webrtc" ? this.facts : null;
    const detail =
      this.mode === "webrtc" ? sessionWords(facts) : fallbackWords(this.mode, this.reason, this.images?.videoProblem);
    this.onTransport({ mode: this.mode ?? "none", detail, facts });
  }

  /** @param {Whep} whep */
  async #noFrame(whep) {
    const [codec, session] = await Promise.all([whep.codec().catch(() => null), whep.status()]);
    if (this.whep !== whep || this.mode === "webrtc") return;
    whep.close();
    this.#fallBack(noFrameWords(codec, session));
  }

  /** @param {string} reason */
  #fallBack(reason) {
    this.whep = null;
    this.sound.follow(null);
    clearTimeout(this.firstFrame);
    clearTimeout(this.slow);
    this.retry = setTimeout(() => this.wanted && this.#webrtc(), this.retryMs);
    this.retryMs = Math.min(this.retryMs * 2, MAX_RETRY_MS);
    this.#showImages(reason);
  }

  /** @param {string} reason */
  #showImages(reason) {
    this.reason = reason;
    if (this.mode === "webrtc") {
      this.mode = null;
      delete this.element.dataset.mode;
    }
    this.#tell();
    if (this.images) return;
    /** @type {Images} */
    const images = (this.images = new Images(this.name, this.small, {
      image: (bitmap, captured, mode) => (this.images === images ? this.#show(bitmap, captured, mode) : bitmap.close()),
      failed: (message) => this.images === images && this.#note(message),
    }));
    images.open();
  }

  /** @param {ImageBitmap} bitmap @param {number} captured @param {Mode} mode */
  #show(bitmap, captured, mode) {
    const { width, height } = bitmap;
    Object.assign(this.image, { width, height, hidden: false });
    this.image.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    if (this.mode !== mode) this.#arrives(mode);
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
    clearTimeout(this.slow);
    const was = this.whep || this.images;
    this.whep?.close({ ended });
    this.images?.close();
    this.whep = this.images = this.mode = this.time = null;
    this.sound.follow(null);
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
