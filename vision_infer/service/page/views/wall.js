// @ts-check
// All cameras in a grid. Only visible tiles play.

import { History } from "../state/history.js";
import { fitted, TILE_SIZES } from "../state/layout.js";
import { preferences, setPreferences } from "../state/preferences.js";
import { Results } from "../transport/results.js";
import { check, h, setText, flag, saveNote } from "./dom.js";
import { Player } from "./player.js";
import { sparkline } from "./sparkline.js";
import { drops, milliseconds, moment, rates, reasonOf, since, stateOf, degradationOf, transportWord } from "./words.js";

/** @import { Store } from "../state/store.js" */
/** @import { Row, Stream, Transport, View } from "../transport/api.js" */

const LEAVE_MS = 2000; // a tile keeps playing for this time after it is scrolled out of view
const SPARK_S = 60;
const MIN_WIDTH = 240; // narrower tiles are not fitted into the screen: the page scrolls

/** @param {Store} store @returns {View} */
export function wall(store) {
  /** @type {Map<string, Tile>} */
  const tiles = new Map();
  const grid = h("ul.wall", { "aria-label": "Cameras" });
  const empty = h("div.empty", { hidden: true });
  const summary = h("p.summary", { role: "status" });
  const add = addButtons();
  add.hidden = true;
  const keep = saveNote();
  const size = h(
    "select",
    { "aria-label": "Tile size", onchange: () => (setPreferences({ tiles: size.value }), layOut()) },
    TILE_SIZES.map((value) => h("option", { value, selected: preferences.tiles === value }, `Tiles: ${value}`)),
  );
  const labels = check("Labels", preferences.tileLabels, (on) => {
    setPreferences({ tileLabels: on });
    for (const tile of tiles.values()) tile.player.draw();
  });
  const full = h("button", { type: "button", hidden: !document.fullscreenEnabled, onclick: () => toggle() }, "Full screen");
  const controls = h("div.buttons.controls", null, labels, size, full);
  const toggle = () => (document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen());
  const element = h(
    "section.view",
    null,
    h("div.head", null, h("h1", null, "Cameras"), summary, controls, add),
    keep,
    grid,
    empty,
  );
  const results = new Results(
    (row) => tiles.get(row.stream)?.row(row),
    (change) => store.changed(change),
  );
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        tiles.get(/** @type {HTMLElement} */ (entry.target).dataset.name ?? "")?.see(entry.isIntersecting);
      want();
    },
    { rootMargin: "80px" },
  );
  const want = () => results.want([...tiles.values()].filter((tile) => tile.visible).map((tile) => tile.name));

  // Size the tiles so that all fit in the window, if that is chosen and the tiles do not become too small.
  function layOut() {
    grid.dataset.tiles = preferences.tiles;
    grid.style.gridTemplateColumns = "";
    const tile = grid.firstElementChild;
    const gap = parseFloat(getComputedStyle(grid).columnGap) || 0;
    const top = grid.getBoundingClientRect().top + (document.fullscreenElement ? element.scrollTop : scrollY);
    const area = { width: grid.clientWidth, height: innerHeight - top - gap };
    const caption = tile ? tile.offsetHeight - tile.querySelector(".stage").offsetHeight : 0;
    const { columns, width } = fitted(tiles.size, area, { caption, gap });
    const fits = preferences.tiles === "auto" && width >= MIN_WIDTH;
    if (fits) grid.style.gridTemplateColumns = `repeat(${columns}, ${width}px)`;
    setText(full, document.fullscreenElement ? "Leave full screen" : "Full screen");
  }

  function update() {
    add.hidden = !store.canAdd;
    if (store.streams === null) return;
    const names = new Set(store.streams.map((stream) => stream.name));
    const before = tiles.size;
    for (const [name, tile] of tiles) {
      if (names.has(name)) continue;
      tile.close(true);
      seen.unobserve(tile.element);
      tile.element.remove();
      tiles.delete(name);
    }
    store.streams.forEach((stream, index) => {
      let tile = tiles.get(stream.name);
      if (!tile) {
        tile = new Tile(stream.name);
        tiles.set(stream.name, tile);
        grid.insertBefore(tile.element, grid.children[index] ?? null);
        seen.observe(tile.element);
      }
      tile.update(stream);
    });
    summarize(summary, store.streams);
    keep.hidden = !store.canAdd || !store.streams.some(({ origin }) => origin === "command_line");
    grid.hidden = store.streams.length === 0;
    empty.hidden = !grid.hidden;
    if (!empty.hidden && !empty.firstChild) empty.append(...placeholder(store));
    controls.hidden = grid.hidden;
    if (tiles.size !== before) layOut();
    want();
  }

  const reconnect = () => {
    if (store.unavailableSince !== null) return;
    results.reconnect();
    for (const tile of tiles.values()) tile.player.reconnect();
  };
  const pauseHidden = () => {
    for (const tile of tiles.values()) tile.sleep(document.hidden);
  };
  store.addEventListener("streams", update);
  store.addEventListener("session", update);
  store.addEventListener("connection", reconnect);
  document.addEventListener("visibilitychange", pauseHidden);
  document.addEventListener("fullscreenchange", layOut);
  addEventListener("resize", layOut);
  requestAnimationFrame(layOut); // the view is not in the document yet
  update();
  return {
    element,
    title: "Cameras",
    close() {
      store.removeEventListener("streams", update);
      store.removeEventListener("session", update);
      store.removeEventListener("connection", reconnect);
      document.removeEventListener("visibilitychange", pauseHidden);
      document.removeEventListener("fullscreenchange", layOut);
      removeEventListener("resize", layOut);
      seen.disconnect();
      results.close();
      for (const tile of tiles.values()) tile.close();
    },
  };
}

/** @param {HTMLElement} summary @param {Stream[]} streams */
function summarize(summary, streams) {
  const live = streams.filter((stream) => stream.status?.state === "live").length;
  const paused = streams.filter((stream) => !stream.status).length;
  const away = streams.length - live - paused;
  const degraded = streams.filter(degradationOf).length;
  const text = [
    `${live} live`,
    degraded ? `${degraded} degraded` : "",
    away ? `${away} not live` : "",
    paused ? `${paused} paused` : "",
  ]
    .filter(Boolean)
    .join(", ");
  setText(summary, streams.length ? text : "");
}

function addButtons() {
  const find = h("a.button", { href: "#/find" }, "Find cameras");
  return h("div.buttons", null, find, h("a.button.primary", { href: "#/add" }, "Add a camera"));
}

/** @param {Store} store */
function placeholder(store) {
  return [
    h("h2", null, "No cameras yet"),
    store.seesAll
      ? h(
          "p",
          null,
          "Add a camera by its URL, such as rtsp://user:password@10.0.0.5/sub, or test:// for the built-in test pattern.",
        )
      : h("p", null, "None of the cameras of your role is running."),
    store.canAdd ? addButtons() : null,
  ].filter(Boolean);
}

class Tile {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    this.visible = false;
    this.history = new History(1000, SPARK_S + 5);
    const onTransport = (/** @type {Transport} */ { mode, detail, facts }) => {
      setText(this.transport, transportWord(mode, facts));
      this.transport.dataset.mode = mode;
      this.transport.title = detail;
    };
    this.player = new Player(name, onTransport, true);
    this.state = h("span.state");
    this.since = h("span.since");
    this.spoken = h("span.spoken");
    this.reason = h("span.reason");
    this.age = h("span.figure");
    this.rates = h("span.figure");
    this.drops = h("span.drops");
    this.transport = h("span.transport");
    this.spark = h("canvas.spark", { role: "img" });
    this.element = h(
      "li.tile",
      null,
      h("a.cover", { href: `#/stream/${encodeURIComponent(name)}`, "aria-label": `Open ${name}` }, this.player.element),
      h(
        "div.line",
        null,
        h("a.name", { href: `#/stream/${encodeURIComponent(name)}`, tabIndex: -1 }, name),
        this.transport,
        this.player.sound.element,
        this.state,
      ),
      h("div.line.why", null, this.reason, this.spoken, this.since),
      h(
        "div.line",
        { title: "Age of results on completion, over the last minute" },
        h("span.key", null, "age"),
        this.age,
        this.spark,
      ),
      h("div.line", { title: "Frames/s: inferred, of the requested rate; decoded" }, h("span.key", null, "fps"), this.rates),
      h("div.line", null, h("span.key", null, "drops"), this.drops),
    );
    this.element.dataset.name = name;
  }

  /** @param {Stream} stream */
  update(stream) {
    this.player.update(stream);
    const status = stream.status;
    const { word, tone } = stateOf(stream);
    setText(this.state, word);
    this.state.dataset.tone = tone;
    flag(this.element, "away", tone !== "good");
    const degradation = degradationOf(stream);
    flag(this.element, "degraded", degradation !== null);
    const from = degradation && tone === "good" ? degradation.since : status?.since;
    setText(this.since, from ? `\u200e${since(from)}` : "");
    this.since.title = from ? `since ${moment(from)}` : "";
    const size = status?.size;
    const facts = status && size ? `${size.width}×${size.height} ${status.codec ?? ""}` : "";
    const text = [
      status ? reasonOf(status) : "not opened",
      degradation ? `degraded: ${degradation.short}, ${degradation.measured}` : "",
    ]
      .filter(Boolean)
      .join("; ");
    setText(this.reason, text || facts || " ");
    this.reason.title = degradation
      ? `${this.reason.textContent}. The machine is overloaded: ${degradation.long}.`
      : this.reason.textContent;
    setText(
      this.spoken,
      degradation?.since ? `The machine is overloaded. Since ${moment(degradation.since)}: ${degradation.long}.` : "",
    );
    setText(this.age, `p50 ${milliseconds(status?.age_ms.p50)}, p99 ${milliseconds(status?.age_ms.p99)} ms`);
    setText(this.rates, rates(status));
    const lost = drops(status?.dropped);
    setText(this.drops, lost.join(", ") || (status ? "none" : "–"));
    this.drops.title = lost.join("\n");
    const values = this.history.series(Date.now(), SPARK_S).map(({ bucket }) => bucket?.age ?? null);
    sparkline(this.spark, values, `Age of the results over the last minute, now ${this.age.textContent}`);
  }

  /** @param {Row} row */
  row(row) {
    this.history.push(row, Date.now());
    this.player.push(row);
  }

  /** @param {boolean} visible */
  see(visible) {
    clearTimeout(this.leaving);
    this.visible = visible;
    if (visible && !document.hidden) this.player.start();
    else this.leaving = setTimeout(() => this.player.stop(), LEAVE_MS);
  }

  /** @param {boolean} hidden */
  sleep(hidden) {
    clearTimeout(this.leaving);
    if (hidden) this.leaving = setTimeout(() => this.player.stop(), 10 * LEAVE_MS);
    else if (this.visible) this.player.start();
  }

  close(gone = false) {
    clearTimeout(this.leaving);
    this.player.close(gone);
  }
}
