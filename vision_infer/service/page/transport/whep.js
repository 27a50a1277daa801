// One viewer of one stream over WebRTC (WHEP): offer, answer, candidates, the anchors of its times.

import { ApiError, getJson, send, streamPath } from "./http.js";

const GATHER_MS = 250; // candidates of this machine are there by then; others follow by PATCH
const CONNECT_MS = 8000;

export class Whep {
  // heard: { track(stream, receiver), anchor(anchor), failed(reason), session(facts) }
  constructor(name, heard) {
    this.name = name;
    this.heard = heard;
    this.session = null; // URL of the session
    this.pc = null;
    this.receiver = null;
    this.closed = false;
    this.leaving = new AbortController();
  }

  async open() {
    try {
      await this.#negotiate();
    } catch (error) {
      if (this.closed) return;
      this.#fail(error instanceof ApiError ? refused(error) : `WebRTC: ${error.message}`);
    }
  }

  // ended: by the service itself, as far as is known; else it is told
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
    // In this order: the service would find the connection closed, and know no session any more.
    send("DELETE", this.session, { keepalive: true, timeoutMs: 2000 })
      .catch(() => {})
      .finally(() => pc.close());
  }

  // what the browser counted; null before it receives
  async codec() {
    const stats = await this.pc?.getStats();
    for (const one of stats?.values() ?? []) {
      if (one.type === "inbound-rtp" && one.kind === "video") {
        return { mime: stats.get(one.codecId)?.mimeType ?? "", received: one.framesReceived ?? 0, decoded: one.framesDecoded ?? 0 };
      }
    }
    return null;
  }

  async #negotiate() {
    if (typeof RTCPeerConnection !== "function") throw new ApiError(0, "this browser has no WebRTC");
    const pc = (this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" }));
    const late = [];
    pc.onicecandidate = ({ candidate }) => {
      if (candidate?.candidate && this.session) this.#trickle(candidate);
      else if (candidate?.candidate) late.push(candidate);
    };
    pc.ontrack = ({ streams, track, receiver }) => {
      this.receiver = receiver;
      this.heard.track(streams[0] ?? new MediaStream([track]), receiver);
    };
    pc.ondatachannel = ({ channel }) => {
      if (channel.label !== "anchor") return;
      channel.onmessage = ({ data }) => this.heard.anchor(JSON.parse(data));
    };
    pc.onconnectionstatechange = () => this.#connection(pc);
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.createDataChannel("page"); // so that the service may open its own: an answer cannot add what no offer has
    await pc.setLocalDescription();
    await gathered(pc);
    late.length = 0; // these stand in the offer
    const answer = await send("POST", `${streamPath(this.name)}/whep`, {
      body: pc.localDescription.sdp,
      type: "application/sdp",
      signal: this.leaving.signal,
    });
    this.etag = answer.headers.get("ETag");
    const place = answer.headers.get("Location");
    this.session = place ? new URL(place, location.href).pathname : null;
    const sdp = await answer.text();
    if (this.closed) {
      this.closed = false;
      this.close();
      return;
    }
    await pc.setRemoteDescription({ type: "answer", sdp });
    for (const candidate of late) this.#trickle(candidate);
    this.timer = setTimeout(() => {
      if (pc.connectionState !== "connected") {
        this.#fail(`WebRTC found no way to the service within ${CONNECT_MS / 1000} s (ICE: ${pc.iceConnectionState})`);
      }
    }, CONNECT_MS);
  }

  #connection(pc) {
    if (this.closed) return;
    if (pc.connectionState === "connected") {
      clearTimeout(this.timer);
      if (this.session) getJson(this.session).then(this.heard.session, () => {});
    } else if (pc.connectionState === "failed" || pc.connectionState === "closed") {
      this.#fail(`WebRTC lost the service (ICE: ${pc.iceConnectionState})`);
    } else if (pc.connectionState === "disconnected") {
      this.timer = setTimeout(() => {
        if (pc.connectionState === "disconnected") this.#fail("WebRTC lost the service (ICE: disconnected)");
      }, 3000);
    }
  }

  #trickle(candidate) {
    const [ufrag, password] = ["ice-ufrag", "ice-pwd"].map((key) => attribute(this.pc.localDescription.sdp, key));
    const mid = candidate.sdpMid ?? "0";
    const body = `a=ice-ufrag:${ufrag}\r\na=ice-pwd:${password}\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:${mid}\r\na=${candidate.candidate}\r\n`;
    const headers = this.etag ? { "If-Match": this.etag } : {};
    send("PATCH", this.session, { body, type: "application/trickle-ice-sdpfrag", headers }).catch(() => {}); // those of the offer may do
  }

  #fail(reason) {
    if (this.closed) return;
    this.close({ ended: this.pc?.connectionState === "closed" || this.pc?.connectionState === "failed" });
    this.heard.failed(reason);
  }
}

function refused(error) {
  if (error.unreachable) return error.message;
  if (error.status === 404 && !error.problem.type?.endsWith("unknown-stream")) return "this service sends no WebRTC";
  return `WebRTC is refused: ${error.message}`;
}

function attribute(sdp, name) {
  return sdp.match(new RegExp(`^a=${name}:(.*)$`, "m"))?.[1].trim() ?? "";
}

function gathered(pc) {
  if (pc.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_MS);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState === "complete") {
        clearTimeout(timer);
        resolve();
      }
    });
  });
}
