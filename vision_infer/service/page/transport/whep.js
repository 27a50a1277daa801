// @ts-check
// A WebRTC viewer of one stream (WHEP): offer, answer, candidates, and the anchors of its RTP timestamps.

import { candidatesOf, iceServersOf, whyUnconnected } from "./ice.js";
import { ApiError, getJson, messageOf, send, streamPath } from "./http.js";

/** @import { Anchor, SessionFacts } from "./api.js" */
/**
 * @typedef {{
 *   track: (media: MediaStream, receiver: RTCRtpReceiver) => void, connected: () => void, anchor: (anchor: Anchor) => void,
 *   session: (facts: SessionFacts) => void, failed: (reason: string) => void
 * }} Handlers
 */

const CONNECT_MS = 8000;
const STATUS_MS = 2000;
const SERVERS_MS = 600000; // the credentials of a TURN server are valid for hours

/** @type {{ at: number, servers: Promise<RTCIceServer[]> } | null} the ICE servers of the service */
let known = null;

export class Whep {
  /**
   * @param {string} name
   * @param {boolean} atOnce whether the service may ask for each frame to be shown at once; jitterBufferTarget has no effect then
   * @param {Handlers} handlers
   */
  constructor(name, atOnce, handlers) {
    this.name = name;
    this.handlers = handlers;
    this.atOnce = atOnce;
    /** @type {string | null} the URL of the session */
    this.session = null;
    /** @type {RTCPeerConnection | null} */
    this.pc = null;
    /** @type {RTCRtpReceiver | null} */
    this.receiver = null;
    /** @type {RTCIceServer[]} */
    this.servers = [];
    this.answer = "";
    /** @type {RTCDataChannel | null} */
    this.channel = null;
    this.listening = false;
    this.connected = false;
    this.closed = false;
    this.leaving = new AbortController();
  }

  async open() {
    try {
      await this.#negotiate();
    } catch (error) {
      if (this.closed) return;
      this.#fail(error instanceof ApiError ? refused(error) : `WebRTC: ${messageOf(error)}`);
    }
  }

  /** Close the session, and delete it on the service unless the service has ended it. */
  close({ ended = false } = {}) {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.timer);
    this.leaving.abort();
    const pc = this.pc;
    if (!this.session || ended) {
      pc?.close();
      return;
    }
    this.receiver?.track.stop();
    // Delete before closing: the service removes the session when its connection closes.
    send("DELETE", this.session, { keepalive: true, timeoutMs: 2000 })
      .catch(() => {})
      .finally(() => pc?.close());
  }

  /** What the service knows of the session; null if it does not say. @returns {Promise<SessionFacts | null>} */
  async status() {
    return this.session ? getJson(this.session, { timeoutMs: STATUS_MS }).catch(() => null) : null;
  }

  /** Request sound, or no more. @param {boolean} on */
  listen(on) {
    this.listening = on;
    if (this.channel?.readyState === "open") this.channel.send(JSON.stringify({ sound: on }));
  }

  // the browser's counters; null before it receives frames
  async codec() {
    const stats = await this.pc?.getStats();
    if (!stats) return null;
    for (const report of stats.values()) {
      if (report.type === "inbound-rtp" && report.kind === "video") {
        return {
          mime: stats.get(report.codecId)?.mimeType ?? "",
          received: report.framesReceived ?? 0,
          decoded: report.framesDecoded ?? 0,
        };
      }
    }
    return null;
  }

  async #negotiate() {
    if (typeof RTCPeerConnection !== "function") throw new ApiError(0, "this browser does not support WebRTC");
    this.servers = await this.#iceServers();
    if (this.closed) return;
    const pc = (this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle", iceServers: this.servers }));
    /** @type {RTCIceCandidate[]} */
    const late = [];
    pc.onicecandidate = ({ candidate }) => {
      if (!candidate?.candidate || candidate.candidate.includes(".local ")) return; // the service does not resolve such names
      if (this.session) this.#trickle(candidate);
      else late.push(candidate);
    };
    pc.ontrack = ({ streams, track, receiver }) => {
      if (track.kind !== "video") return; // sound is a track of the same stream
      this.receiver = receiver;
      this.handlers.track(streams[0] ?? new MediaStream([track]), receiver);
    };
    pc.ondatachannel = ({ channel }) => {
      if (channel.label !== "anchor") return;
      this.channel = channel;
      channel.onopen = () => this.listening && this.listen(true);
      channel.onmessage = ({ data }) => this.handlers.anchor(JSON.parse(data));
    };
    pc.onconnectionstatechange = () => this.#connection(pc);
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });
    pc.createDataChannel("page"); // an answer cannot add a section that the offer lacks
    await pc.setLocalDescription();
    late.length = 0; // the offer contains these; the others, which can take a second, are sent by PATCH
    const offer = pc.localDescription?.sdp; // Firefox writes the direction of an extension: `a=extmap:6/recvonly`
    const answer = await send("POST", `${streamPath(this.name)}/whep`, {
      body: this.atOnce ? offer : offer?.replace(/^a=extmap:\d+(\/\w+)? \S+\/playout-delay\r\n/gm, ""),
      type: "application/sdp",
      signal: this.leaving.signal,
    });
    this.etag = answer.headers.get("ETag");
    // A proxy that serves the service under another path leaves Location unchanged: only its last part is used.
    const id = answer.headers.get("Location")?.split("/").pop();
    this.session = id ? `${streamPath(this.name)}/whep/${id}` : null;
    this.answer = await answer.text();
    if (this.closed) {
      this.closed = false;
      this.close();
      return;
    }
    await pc.setRemoteDescription({ type: "answer", sdp: this.answer });
    for (const candidate of late) this.#trickle(candidate);
    this.timer = setTimeout(() => this.#unconnected(pc), CONNECT_MS);
  }

  // The service's STUN and TURN servers. Without them, viewers in the same network can still connect.
  #iceServers() {
    if (!known || performance.now() - known.at > SERVERS_MS) {
      const answer = send("OPTIONS", `${streamPath(this.name)}/whep`, { timeoutMs: CONNECT_MS });
      const servers = answer.then(
        ({ headers }) => iceServersOf(headers.get("Link") ?? ""),
        () => {
          known = null;
          return [];
        },
      );
      known = { at: performance.now(), servers };
    }
    return known.servers;
  }

  /** @param {RTCPeerConnection} pc */
  async #unconnected(pc) {
    clearTimeout(this.timer);
    const [stats, session] = await Promise.all([pc.getStats(), this.status()]);
    if (this.connected) return;
    const facts = { session, reports: [...stats.values()], announced: candidatesOf(this.answer), servers: this.servers };
    this.#fail(whyUnconnected({ iceState: pc.iceConnectionState, host: location.hostname, ...facts }));
  }

  /** @param {RTCPeerConnection} pc */
  #connection(pc) {
    if (this.closed) return;
    if (pc.connectionState === "connected") {
      clearTimeout(this.timer);
      if (!this.connected) this.handlers.connected();
      this.connected = true;
      this.status().then((facts) => facts && this.handlers.session(facts));
    } else if (pc.connectionState === "failed" && !this.connected) {
      this.#unconnected(pc);
    } else if (pc.connectionState === "failed" || pc.connectionState === "closed") {
      this.#fail(`WebRTC lost the connection to the service (ICE: ${pc.iceConnectionState})`);
    } else if (pc.connectionState === "disconnected") {
      this.timer = setTimeout(() => {
        if (pc.connectionState === "disconnected") this.#fail("WebRTC lost the connection to the service (ICE: disconnected)");
      }, 3000);
    }
  }

  /** @param {RTCIceCandidate} candidate */
  #trickle(candidate) {
    const [ufrag, password] = ["ice-ufrag", "ice-pwd"].map((key) => attribute(this.pc?.localDescription?.sdp ?? "", key));
    const mid = candidate.sdpMid ?? "0";
    const body = `a=ice-ufrag:${ufrag}\r\na=ice-pwd:${password}\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:${mid}\r\na=${candidate.candidate}\r\n`;
    /** @type {Record<string, string>} */
    const headers = this.etag ? { "If-Match": this.etag } : {};
    send("PATCH", this.session ?? "", { body, type: "application/trickle-ice-sdpfrag", headers }).catch(() => {}); // not fatal
  }

  /** @param {string} reason */
  #fail(reason) {
    if (this.closed) return;
    this.close({ ended: this.pc?.connectionState === "closed" || this.pc?.connectionState === "failed" });
    this.handlers.failed(reason);
  }
}

/** Why the service rejected an offer. @param {ApiError} error */
export function refused(error) {
  if (error.unreachable) return error.message;
  if (error.status === 404 && !error.problem.type?.endsWith("unknown-stream")) return "this service does not offer WebRTC";
  if (error.status === 406) return `this browser and the service have no codec in common: ${error.message}`;
  return `WebRTC request rejected: ${error.message}`;
}

/** @param {string} sdp @param {string} name */
function attribute(sdp, name) {
  return sdp.match(new RegExp(`^a=${name}:(.*)$`, "m"))?.[1].trim() ?? "";
}
