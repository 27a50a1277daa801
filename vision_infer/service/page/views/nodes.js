// @ts-check
// The nodes of a cluster: their load and cameras, what happens if one fails, and draining.

import { getJson, messageOf, send } from "../transport/http.js";
import { confirm, h, setText } from "./dom.js";
import { reasonOf, stateOf } from "./words.js";

const POLL_MS = 2000;
/** @type {Record<string, string>} */
const TONES = { alive: "good", idle: "quiet", lost: "bad" };

/** @import { Store } from "../state/store.js" */
/** @import { ClusterNode, Stream, View } from "../transport/api.js" */

/** @param {Store} store @returns {View} */
export function nodes(store) {
  /** @type {Map<string, NodeCard>} */
  const cards = new Map();
  const list = h("div.engines");
  const errorText = h("p.error", { role: "alert" });
  const pending = h("ul.plain-list");
  const waiting = h("section.card", { hidden: true }, h("h2", null, "Waiting for a node"), pending);
  const summary = h("p.summary", { role: "status" });
  const element = h("section.view", null, h("div.head", null, h("h1", null, "Nodes"), summary), errorText, waiting, list);
  let closed = false;
  /** @type {number | undefined} */
  let timer = undefined;

  async function poll() {
    clearTimeout(timer);
    try {
      const all = document.hidden ? null : await getJson("api/v1/nodes");
      if (closed) return;
      if (all) show(all);
      setText(errorText, "");
    } catch (error) {
      if (closed) return;
      setText(errorText, messageOf(error));
    }
    timer = setTimeout(poll, POLL_MS);
  }

  /** @param {ClusterNode[]} all */
  function show(all) {
    const names = new Set(all.map(({ name }) => name));
    for (const [name, card] of cards) {
      if (names.has(name)) continue;
      card.element.remove();
      cards.delete(name);
    }
    all.forEach((node, index) => {
      const card = cards.get(node.name) ?? new NodeCard(node.name, poll);
      if (!cards.has(node.name)) list.insertBefore(card.element, list.children[index] ?? null);
      cards.set(node.name, card);
      card.update(node, store);
    });
    const alive = all.filter(({ state }) => state === "alive").length;
    setText(summary, all.length ? `${alive} of ${all.length} alive` : "No node has joined the cluster yet.");
  }

  function update() {
    const streams = (store.streams ?? []).filter(({ status }) => status?.state === "pending");
    waiting.hidden = streams.length === 0;
    putCameras(pending, streams, (stream) => reasonOf(stream.status));
    for (const card of cards.values()) card.showCameras(store);
  }

  store.addEventListener("streams", update);
  store.addEventListener("session", poll);
  update();
  poll();
  return {
    element,
    title: "Nodes",
    close() {
      closed = true;
      clearTimeout(timer);
      store.removeEventListener("streams", update);
      store.removeEventListener("session", poll);
    },
  };
}

class NodeCard {
  /** @param {string} name @param {() => void} changed called after a change */
  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.draining = false;
    /** @type {string[]} */
    this.streams = [];
    this.state = h("span.state");
    this.reason = h("p.reason", { hidden: true });
    this.labels = h("p.quiet");
    this.meter = h("meter", { min: 0, "aria-label": `Load of ${name}` });
    this.used = h("strong");
    this.fails = h("h3");
    this.loss = h("p.explanation");
    this.cameras = h("ul.plain-list", { "aria-label": `Cameras of ${name}` });
    this.none = h("p.quiet", null, "No cameras.");
    this.errorText = h("p.error", { role: "alert" });
    this.button = h("button", { type: "button", hidden: true, onclick: () => this.#change() });
    this.element = h(
      "article.card.engine",
      { "aria-label": name },
      h("div.head", null, h("h2", null, name), this.state, h("div.buttons", null, this.button)),
      this.reason,
      this.labels,
      this.errorText,
      h("div.line", null, h("span.key", null, "load"), this.meter, this.used),
      this.fails,
      this.loss,
      h("h3", null, "Cameras"),
      this.cameras,
      this.none,
    );
  }

  /** @param {ClusterNode} node @param {Store} store */
  update(node, store) {
    this.draining = node.state === "draining";
    this.streams = node.streams;
    setText(this.state, node.state);
    this.state.dataset.tone = (node.state === "alive" && !node.ready ? null : TONES[node.state]) ?? "warn";
    setText(this.reason, node.reason);
    this.reason.hidden = !node.reason;
    const labels = Object.entries(node.labels).filter(([key]) => !key.startsWith("ray.io/"));
    setText(this.labels, labels.map(([key, value]) => `${key}=${value}`).join(", "));
    this.labels.hidden = labels.length === 0;
    const capacity = node.capacity_cores;
    Object.assign(this.meter, { max: capacity, low: capacity * 0.9, high: capacity, optimum: 0, value: node.used_cores });
    setText(this.used, `${node.used_cores.toFixed(2)} of ${capacity.toFixed(2)} cores`);
    setText(this.fails, node.machine === node.name ? "If it fails" : `If its machine, ${node.machine}, fails`);
    setText(this.loss, lossWords(node));
    this.button.hidden = !store.canEdit;
    setText(this.button, this.draining ? "Use again" : "Drain");
    this.showCameras(store);
  }

  /** @param {Store} store */
  showCameras(store) {
    const streams = this.streams.map((name) => store.stream(name)).filter((stream) => stream !== null);
    putCameras(this.cameras, streams, (stream) => stateOf(stream).word);
    this.none.hidden = streams.length > 0;
  }

  async #change() {
    const drain = !this.draining;
    const number = this.streams.length;
    const cameras = `${number} ${number === 1 ? "camera" : "cameras"}`;
    const question = `Drain ${this.name}? Its ${cameras} move to other nodes and reconnect. It gets no cameras until you use it again.`;
    if (drain && !(await confirm(question, "Drain"))) return;
    setText(this.errorText, "");
    try {
      await send("PUT", `api/v1/nodes/${encodeURIComponent(this.name)}`, { json: { draining: drain } });
      this.changed();
    } catch (error) {
      setText(this.errorText, messageOf(error));
    }
  }
}

/** @param {ClusterNode} node */
function lossWords({ if_lost: loss }) {
  if (loss === null) return "It gets no cameras.";
  if (loss.streams === 0) return "No camera is affected.";
  if (loss.fit === loss.streams) return loss.streams === 1 ? "Its camera fits elsewhere." : "All of its cameras fit elsewhere.";
  if (loss.streams === 1)
    return loss.half_rate ? "Its camera would run at half the rate elsewhere." : "Its camera would not run.";
  const parts = [
    `${loss.fit} of its ${loss.streams} cameras fit elsewhere`,
    loss.half_rate ? `${loss.half_rate} would run at half the rate` : "",
    loss.pending ? `${loss.pending} would not run` : "",
  ];
  return `${parts.filter(Boolean).join(", ")}.`;
}

/** @param {any} list @param {Stream[]} streams @param {(stream: Stream) => string} about */
function putCameras(list, streams, about) {
  while (list.children.length > streams.length) list.lastChild.remove();
  streams.forEach((stream, index) => {
    if (!list.children[index]) list.append(h("li", null, h("a"), " ", h("span.quiet")));
    const [link, note] = list.children[index].children;
    const href = `#/stream/${encodeURIComponent(stream.name)}`;
    if (link.getAttribute("href") !== href) link.setAttribute("href", href);
    setText(link, stream.name);
    setText(note, about(stream));
  });
}
