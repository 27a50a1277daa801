// The picture of one stream with its overlay: WebRTC where it comes through, snapshots where it does not, and why.

import { Matching } from "../state/matching.js";
import { regionOf, shapesOf } from "../state/shapes.js";
import { choices } from "../state/choices.js";
import { InStep } from "../state/in_step.js";
import { Anchors } from "../state/timing.js";
import { Snapshots } from "../transport/snapshots.js";
import { Whep } from "../transport/whep.js";
import { flag, h, say } from "./dom.js";
import { drawOverlay } from "./overlay.js";
import { stateOf } from "./words.js";

const SHOWN = new Set(["live", "running", "stalled"]);
const FIRST_FRAME_MS = 5000;
const RETRY_MS = 5000;
const LONGEST_RETRY_MS = 120000;

export class Player {
  // small: a tile of the wall; told: called with what is known of the transport: { mode, detail }
  constructor(name, { small = false, told = () => {} } = {}) {
    this.name = name;
    this.small = small;
    this.told = told;
    this.matching = new Matching();
    this.stream = null;
    this.size = null;
    this.wanted = false;
    this.whep = null;
    this.snapshots = null;
    this.retryMs = RETRY_MS;
    this.time = null; // of the displayed frame: { ms, by }
    this.shapes = [];
    this.region = { look: [], ignore: [] };
    this.hidden = false; // the overlay, while shapes are edited
    this.video = h("video", { muted: true, playsInline: true, autoplay: true, disablePictureInPicture: true, tabIndex: -1 });
    this.picture = h("canvas.picture", { hidden: true });
    this.overlay = h("canvas.overlay", { "aria-hidden": "true" });
    this.note = h("p.note", { role: "status" });
    this.element = h("div.stage", null, this.video, this.picture, this.overlay, this.note);
    this.room = { width: 0, height: 0 };
    this.resized = new ResizeObserver(([{ contentRect }]) => {
      this.room = { width: contentRect.width, height: contentRect.height };
      this.draw();
    });
    this.resized.observe(this.overlay);
  }

  // The stream as the service tells it now.
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
    if (this.source !== undefined && this.source !== source) this.#leave(); // it shows another camera now
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

  // The service was away, and is back.
  again() {
    this.#leave(true);
    this.retryMs = RETRY_MS;
    this.#follow();
  }

  // gone: there is no such stream any more
  close(gone = false) {
    this.wanted = false;
    this.#leave(gone);
    this.resized.disconnect();
  }

  push(row) {
    this.matching.push(row);
    if (this.snapshots && this.time) this.draw(); // its result may come after the picture
  }

  draw() {
    const known = this.time && !this.hidden ? this.matching.at(this.time, choices.between) : { row: null, exact: false, found: [] };
    const row = known.row;
    const size = row ? { width: row.width, height: row.height } : this.size;
    const scene = {
      size,
      found: known.found,
      trails: known.found.length && choices.overlay.trails ? this.matching.trails(this.time) : new Map(),
      shapes: this.hidden ? [] : this.shapes,
      region: this.region,
      status: this.stream?.status,
      options: choices.overlay,
      small: this.small,
    };
    drawOverlay(this.overlay, scene, this.room);
    this.element.dispatchEvent(new CustomEvent("drawn", { detail: { time: this.time, ...known } }));
  }

  // Begin or end what the stream's state allows.
  #follow() {
    const state = this.stream ? stateOf(this.stream) : null;
    const shown = state !== null && SHOWN.has(state.state);
    flag(this.element, "dimmed", state !== null && state.state !== "live");
    if (!this.wanted || !shown) {
      this.#leave(!shown);
      if (state && !shown) this.#say([state.word, this.stream.status?.reason].filter(Boolean).join(": "));
      return;
    }
    if (this.whep || this.snapshots) return;
    this.#say("connecting…");
    this.#webrtc();
  }

  #webrtc() {
    clearTimeout(this.retry);
    const anchors = new Anchors();
    let stepping = null;
    const whep = (this.whep = new Whep(this.name, {
      track: (media, receiver) => {
        if (this.whep !== whep) return;
        stepping = new InStep(receiver);
        this.video.srcObject = media;
        this.video.play().catch(() => {}); // it is muted: nothing forbids it but its end
        this.#everyFrame(whep, anchors, stepping);
        this.firstFrame = setTimeout(() => this.#noPicture(whep), FIRST_FRAME_MS);
      },
      anchor: (anchor) => anchors.add(anchor),
      session: (facts) => {
        if (this.whep === whep) this.told({ mode: "webrtc", detail: sessionWords(facts), facts });
      },
      failed: (reason) => {
        if (this.whep === whep) this.#fallBack(reason);
      },
    }));
    whep.open();
  }

  #everyFrame(whep, anchors, stepping) {
    const video = this.video;
    const onFrame = (_, frame) => {
      if (this.whep !== whep) return;
      if (this.mode !== "webrtc") this.#firstFrame(whep);
      this.size = { width: frame.width, height: frame.height };
      this.time = frame.rtpTimestamp === undefined ? null : anchors.timeOf(frame.rtpTimestamp);
      if (this.time) stepping.frame(this.matching.behind(this.time), choices.inStep, performance.now());
      this.draw();
      video.requestVideoFrameCallback(onFrame);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(onFrame);
    else video.addEventListener("playing", () => this.whep === whep && this.#firstFrame(whep), { once: true });
  }

  #firstFrame(whep) {
    clearTimeout(this.firstFrame);
    this.snapshots?.close();
    this.snapshots = null;
    this.mode = "webrtc";
    this.retryMs = RETRY_MS;
    this.video.hidden = false;
    this.picture.hidden = true;
    this.#say("");
    this.element.dataset.mode = "webrtc";
    if (!whep.session) this.told({ mode: "webrtc", detail: "WebRTC" });
  }

  async #noPicture(whep) {
    const codec = await whep.codec().catch(() => null);
    if (this.whep !== whep || this.mode === "webrtc") return;
    const received = codec?.received ? `${codec.received} frames came as ${codec.mime}, none could be decoded` : "no picture came";
    whep.close();
    this.#fallBack(`WebRTC is connected, but ${received}`);
  }

  #fallBack(reason) {
    this.whep = null;
    clearTimeout(this.firstFrame);
    this.retry = setTimeout(() => this.wanted && this.#webrtc(), this.retryMs);
    this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
    this.told({ mode: "snapshots", detail: `Snapshots: ${reason}` });
    if (this.snapshots) return;
    this.mode = "snapshots";
    this.element.dataset.mode = "snapshots";
    const snapshots = (this.snapshots = new Snapshots(this.name, this.small ? 1000 : 300, {
      picture: (bitmap, captured) => this.snapshots === snapshots && this.#show(bitmap, captured),
      failed: (message) => this.snapshots === snapshots && this.#say(message),
    }));
    snapshots.open();
  }

  #show(bitmap, captured) {
    const { width, height } = bitmap;
    Object.assign(this.picture, { width, height, hidden: false });
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.video.hidden = true;
    this.size = { width, height };
    this.time = Number.isNaN(captured) ? null : { ms: captured, by: "captured" };
    this.#say("");
    this.draw();
  }

  // ended: the stream gives no pictures any more
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
      this.told({ mode: "none", detail: "" });
    }
  }

  #say(text) {
    say(this.note, text);
    this.note.hidden = !text;
  }
}

function sessionWords({ mode, codec, reason, why }) {
  const told = mode === "passthrough" ? "untouched" : "encoded here";
  const because = reason || why;
  return [`WebRTC, ${codec ?? ""} ${told}`.replace(/ +/g, " "), because].filter(Boolean).join(": ");
}
