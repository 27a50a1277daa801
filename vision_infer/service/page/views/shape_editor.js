// @ts-check
// The editor of zones and lines, for mouse, touch and keyboard.

import { distance, freeName, inward, validationError, moved, shapesOf, withShapes } from "../state/shapes.js";
import { messageOf } from "../transport/http.js";
import { confirm, h, setText, svg } from "./dom.js";
import { shapeRow } from "./shape_row.js";

/** @import { Player } from "./player.js" */
/** @import { Settings, Shape, Stream } from "../transport/api.js" */

const CLOSE_PX = 14; // a click within this distance of the first corner closes the zone
const [TEXT_PX, HANDLE_PX] = [15, 8];
const STEP = 0.01;
const UNFINISHED = "Finish the new shape (a zone needs three corners), or press Escape to discard it.";
/** @type {Record<string, number[]>} */
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

export class ShapeEditor {
  /**
   * @param {Stream} stream @param {Player} player
   * @param {{ save: (settings: Settings) => Promise<void>, cancel: () => void }} handlers
   */
  constructor(stream, player, handlers) {
    this.settings = stream.settings;
    this.size = stream.status?.size ?? player.size ?? { width: 1600, height: 900 };
    this.handlers = handlers;
    this.shapes = shapesOf(this.settings, this.size);
    this.before = JSON.stringify(this.shapes);
    this.selected = this.shapes.length ? 0 : -1;
    /** @type {{ kind: string, points: number[][] } | null} the shape being drawn */
    this.drawing = null;
    /** @type {{ corner: number | null, from: number[] } | null} */
    this.dragged = null;
    /** @type {number[] | undefined} */
    this.pointer = undefined;
    this.element = svg("svg.editor", {
      viewBox: `0 0 ${this.size.width} ${this.size.height}`,
      tabindex: -1, // a click on the video gives the editor the focus, and with it the keys
      "aria-label": "Zones and lines on the video",
      onpointerdown: (/** @type {PointerEvent} */ event) => this.#down(event),
      onpointermove: (/** @type {PointerEvent} */ event) => this.#move(event),
      onpointerup: () => (this.dragged = null),
      onpointercancel: () => (this.dragged = null),
      ondblclick: () => this.#close(),
    });
    this.onKey = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && this.drawing) this.#abandon();
      if (event.key === "Enter" && this.drawing?.kind === "zone" && !(event.target instanceof HTMLButtonElement)) this.#close();
    };
    this.element.addEventListener("keydown", this.onKey);
    new ResizeObserver(() => this.#draw()).observe(this.element); // text and handles keep their size in CSS pixels
    this.list = h("div.shapes");
    this.help = h("p.help", { role: "status" });
    this.errorText = h("p.error", { role: "alert" });
    this.saveButton = h("button.primary", { type: "button", onclick: () => this.#save() }, "Save");
    this.panel = h(
      "div.card.panel",
      { onkeydown: this.onKey },
      h(
        "div.buttons",
        null,
        h("button", { type: "button", onclick: () => this.#begin("zone") }, "New zone"),
        h("button", { type: "button", onclick: () => this.#begin("line") }, "New line"),
        h("span.grow"),
        h("button", { type: "button", onclick: () => this.#cancel() }, "Cancel"),
        this.saveButton,
      ),
      this.help,
      this.errorText,
      this.list,
    );
    this.#draw();
    this.#table();
    this.#explain();
  }

  /** @param {string} kind */
  async #begin(kind) {
    if (!this.#finish() && !(await confirm(`Discard the unfinished ${this.drawing?.kind}?`, "Discard"))) return;
    this.drawing = { kind, points: [] };
    this.selected = -1;
    this.element.classList.add("drawing");
    this.element.focus({ preventScroll: true });
    this.#draw();
    this.#explain();
  }

  // Close the shape that is being drawn, or leave drawing before its first point; false if it has too few points.
  #finish() {
    if (!this.drawing?.points.length) this.#abandon();
    else this.#close();
    return this.drawing === null;
  }

  async #cancel() {
    const changed = this.drawing?.points.length || JSON.stringify(this.shapes) !== this.before;
    if (!changed || (await confirm("Discard the changes to zones and lines?", "Discard"))) this.handlers.cancel();
  }

  #abandon() {
    this.drawing = null;
    setText(this.errorText, "");
    this.element.classList.remove("drawing");
    this.#draw();
    this.#explain();
  }

  #close() {
    const drawing = this.drawing;
    if (!drawing) return;
    // A double click adds the last corner twice.
    const points = drawing.points.filter((point, index) => !index || distance(point, drawing.points[index - 1]) > 0.004);
    if (points.length < (drawing.kind === "zone" ? 3 : 2)) return;
    this.shapes.push({ kind: drawing.kind, name: freeName(this.shapes, drawing.kind), points, settings: {} });
    this.selected = this.shapes.length - 1;
    this.#abandon();
    this.#table();
  }

  // Add a default shape, which can be moved with the keyboard.
  #place() {
    if (!this.drawing) return;
    this.drawing.points =
      this.drawing.kind === "zone"
        ? [
            [0.35, 0.35],
            [0.65, 0.35],
            [0.65, 0.65],
            [0.35, 0.65],
          ]
        : [
            [0.3, 0.5],
            [0.7, 0.5],
          ];
    this.#close();
    this.element.querySelector(".handle")?.focus();
  }

  /** @param {PointerEvent} event */
  #where(event) {
    const box = this.element.getBoundingClientRect();
    const scale = Math.min(box.width / this.size.width, box.height / this.size.height);
    const left = box.left + (box.width - this.size.width * scale) / 2;
    const top = box.top + (box.height - this.size.height * scale) / 2;
    /** @param {number} value */
    const clamp = (value) => Math.min(1, Math.max(0, value));
    return {
      point: [
        clamp((event.clientX - left) / (this.size.width * scale)),
        clamp((event.clientY - top) / (this.size.height * scale)),
      ],
      scale,
    };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    const { point, scale } = this.#where(event);
    if (this.drawing) {
      const first = this.drawing.points[0];
      const near =
        first && Math.hypot((point[0] - first[0]) * this.size.width, (point[1] - first[1]) * this.size.height) * scale < CLOSE_PX;
      if (near && this.drawing.kind === "zone" && this.drawing.points.length > 2) return this.#close();
      this.drawing.points.push(point);
      if (this.drawing.kind === "line" && this.drawing.points.length === 2) return this.#close();
      this.#draw();
      this.#explain();
      return;
    }
    const { shape, corner } = /** @type {SVGElement} */ (event.target).dataset;
    if (shape === undefined) return;
    if (Number(shape) !== this.selected) this.#select(Number(shape));
    this.dragged = { corner: corner === undefined ? null : Number(corner), from: point };
    this.element.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const { point } = this.#where(event);
    if (this.drawing) {
      this.pointer = point;
      if (this.drawing.points.length) this.#draw();
    } else if (this.dragged) {
      const { corner, from } = this.dragged;
      this.#shift(corner, [point[0] - from[0], point[1] - from[1]]);
      this.dragged.from = point;
    }
  }

  /** @param {number | null} corner @param {number[]} step */
  #shift(corner, step) {
    const shape = this.shapes[this.selected];
    shape.points = moved(shape.points, corner, step);
    this.#draw();
  }

  /** @param {KeyboardEvent} event @param {number} corner */
  #key(event, corner) {
    const shape = this.shapes[this.selected];
    if (ARROWS[event.key]) {
      this.#shift(
        corner,
        ARROWS[event.key].map((value) => value / (event.shiftKey ? 5 : 1)),
      );
    } else if (event.key === "Delete" && shape.kind === "zone" && shape.points.length > 3) {
      shape.points = shape.points.filter((_, index) => index !== corner);
      this.#draw();
      corner = 0;
    } else {
      return;
    }
    event.preventDefault();
    this.element.querySelector(`[data-corner="${corner}"]`)?.focus();
  }

  /** @param {number} index */
  #select(index) {
    this.selected = index;
    this.#draw();
    this.#table();
  }

  #draw() {
    const { clientWidth: across, clientHeight: down } = this.element; // 0 before the first layout
    const unit = this.size.width / 100;
    const px = across ? Math.max(this.size.width / across, this.size.height / down) : unit / 8; // one CSS pixel, in image units
    this.element.style.setProperty("--px", `${px}px`);
    this.element.style.setProperty("--text", `${TEXT_PX * px}px`);
    /** @param {number[]} point */
    const at = ([x, y]) => [x * this.size.width, y * this.size.height];
    /** @param {number[][]} points */
    const listOf = (points) => points.map((point) => at(point).join(",")).join(" ");
    const parts = [];
    this.shapes.forEach(({ kind, name, points }, index) => {
      const chosen = index === this.selected;
      const outline = kind === "zone" ? svg("polygon", { points: listOf(points) }) : svg("polyline", { points: listOf(points) });
      outline.dataset.shape = index;
      outline.classList.add("shape", kind);
      if (chosen) outline.classList.add("chosen");
      parts.push(outline);
      if (kind === "line") {
        const { middle, direction } = inward(points, this.size);
        const end = middle.map((value, axis) => value + direction[axis] * unit * 4);
        parts.push(
          svg("line.inward", { x1: middle[0], y1: middle[1], x2: end[0], y2: end[1] }),
          svg("text.shape-name", { x: end[0] + 4 * px, y: end[1] + TEXT_PX * px }, "in"),
        );
      }
      const [x, y] = at(points[0]);
      parts.push(svg("text.shape-name", { x: x + HANDLE_PX * px, y: Math.max(TEXT_PX * px, y - HANDLE_PX * px) }, name));
    });
    const chosen = this.shapes[this.selected];
    chosen?.points.forEach((point, corner) => {
      const [cx, cy] = at(point);
      const label =
        chosen.kind === "zone" ? `${chosen.name}, corner ${corner + 1}` : `${chosen.name}, ${corner ? "end" : "start"}`;
      const handle = svg("circle.handle", {
        cx,
        cy,
        r: HANDLE_PX * px,
        tabindex: 0,
        role: "button",
        "aria-label": label,
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event, corner),
      });
      Object.assign(handle.dataset, { shape: this.selected, corner });
      parts.push(handle);
    });
    if (this.drawing) {
      const points = this.pointer && this.drawing.points.length ? [...this.drawing.points, this.pointer] : this.drawing.points;
      parts.push(svg("polyline.shape.new", { points: listOf(points) }));
      for (const [cx, cy] of this.drawing.points.map(at)) parts.push(svg("circle.handle", { cx, cy, r: HANDLE_PX * 0.8 * px }));
    }
    this.element.replaceChildren(...parts);
  }

  #table() {
    const rows = this.shapes.map((shape, index) => {
      const row = shapeRow(shape, {
        renamed: () => this.#draw(),
        focused: () => index !== this.selected && this.#mark(index),
        reversed: () => this.#select(index),
        remove: () => this.#remove(index),
      });
      row.classList.toggle("chosen", index === this.selected);
      return row;
    });
    this.list.replaceChildren(...rows);
  }

  /** @param {number} index */
  #mark(index) {
    this.selected = index;
    [...this.list.children].forEach((row, at) => row.classList.toggle("chosen", at === index));
    this.#draw();
  }

  /** @param {number} index */
  #remove(index) {
    this.shapes.splice(index, 1);
    this.selected = Math.min(this.selected, this.shapes.length - 1);
    this.#draw();
    this.#table();
    this.panel.querySelector("button").focus();
  }

  #explain() {
    this.help.replaceChildren();
    if (!this.drawing) {
      setText(
        this.help,
        "Drag corners or whole shapes. With the keyboard: press Tab to select a corner, the arrow keys to move it, Delete to remove it.",
      );
      return;
    }
    const placed = this.drawing.points.length;
    const zone = this.drawing.kind === "zone";
    const next = zone
      ? placed < 3
        ? "Click the corners of the zone."
        : "Click the first corner or press Enter to close the zone."
      : placed
        ? "Click the end of the line."
        : "Click the start of the line. Crossings from its left to its right count as in.";
    this.help.append(
      h("span", null, next),
      " ",
      h("button.plain", { type: "button", onclick: () => this.#place() }, "Insert default shape"),
      h("button.plain", { type: "button", onclick: () => this.#abandon() }, "Cancel drawing"),
    );
  }

  async #save() {
    const problem = this.#finish() ? validationError(this.shapes) : UNFINISHED;
    setText(this.errorText, problem);
    if (problem) return;
    this.saveButton.disabled = true;
    try {
      await this.handlers.save(withShapes(this.settings, this.shapes));
    } catch (error) {
      setText(this.errorText, messageOf(error));
    } finally {
      this.saveButton.disabled = false;
    }
  }
}
