// @ts-check
// Draws detections on the video: boxes, labels, trails, zones and lines with their counts.

import { inward } from "../state/shapes.js";
import { drawKeypoints, drawMask, drawRotatedBox, drawSegments, outlined } from "./overlay_details.js";

/** @import { DrawnDetection, Region, Segment, Shape, Size, Status } from "../transport/api.js" */
/**
 * @typedef {{
 *   boxes: boolean, details: boolean, labels: boolean, scores: boolean, trails: boolean, zones: boolean, counts: boolean
 * }} Options details: masks, keypoints and the classes of pixels
 */
/**
 * @typedef {{
 *   size: Size | null, found: DrawnDetection[], segments: Segment[], trails: Map<number, number[][]>, shapes: Shape[], region: Region,
 *   status?: Status | null, options: Options, small: boolean, skeleton: number[][]
 * }} Scene size is the size of the source
 */
/** @typedef {{ left: number, top: number, right: number, bottom: number }} Edge */
/** @typedef {(value: number) => number} Scale from pixels of the source to CSS pixels */
/** @typedef {{ context: CanvasRenderingContext2D, x: Scale, y: Scale, edge: Edge, text: number, width: number }} Pen */

const GOLDEN_ANGLE = 137.5;
const empty = new WeakSet(); // canvases that are cleared

/** @param {number} number */
const hue = (number) => (200 + number * GOLDEN_ANGLE) % 360;
/** @param {number} classId */
export const colorOf = (classId) => `hsl(${hue(classId)} 90% 62%)`;

/**
 * The scale and offset of an image that is fitted into an element. All in CSS pixels.
 * @param {Size} element
 * @param {Size} size
 */
export function placed(element, size) {
  const scale = Math.min(element.width / size.width, element.height / size.height);
  return { scale, left: (element.width - size.width * scale) / 2, top: (element.height - size.height * scale) / 2 };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Scene} scene
 * @param {Size} element the size of the canvas, CSS pixels; passed in because reading it here would force a layout per frame
 */
export function drawOverlay(canvas, scene, element) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(element.width * ratio), Math.round(element.height * ratio)];
  const sized = canvas.width === width && canvas.height === height;
  // Skip empty overlays: up to sixteen may be visible.
  const blank =
    scene.found.length + scene.segments.length === 0 &&
    !(scene.options.zones && (scene.shapes.length || scene.region.look.length || scene.region.ignore.length));
  if (blank && sized && empty.has(canvas)) return;
  if (blank) empty.add(canvas);
  else empty.delete(canvas);
  if (!sized) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, element.width, element.height);
  if (!scene.size || !element.width) return;
  const place = placed(element, scene.size);
  /** @type {Pen} */
  const pen = {
    context,
    x: (value) => place.left + value * place.scale,
    y: (value) => place.top + value * place.scale,
    edge: { left: place.left, top: place.top, right: element.width - place.left, bottom: element.height - place.top },
    text: Math.round(Math.min(20, Math.max(scene.small ? 8 : 12, element.width / (scene.small ? 55 : 62)))),
    width: scene.small ? 1.5 : 2,
  };
  const options = scene.options;
  if (options.details) drawSegments(pen, scene.segments, scene.size, colorOf);
  if (options.zones) drawShapes(pen, scene, scene.size);
  if (options.trails) drawTrails(pen, scene);
  for (const detection of scene.found) {
    context.globalAlpha = detection.alpha;
    const color = colorOf(detection.class_id);
    if (options.details) drawMask(pen, detection, scene.size, color);
    if (options.boxes && detection.box_rotated) drawRotatedBox(pen, detection, color);
    else if (options.boxes) drawBox(pen, detection, color);
    if (options.details) drawKeypoints(pen, detection, scene.skeleton, color);
    if (options.labels || options.scores) drawLabel(pen, detection, options);
  }
  context.globalAlpha = 1;
}

/** @param {Pen} pen @param {DrawnDetection} detection @param {string} color */
function drawBox({ context, x, y, width }, detection, color) {
  const [left, top, right, bottom] = detection.box;
  context.beginPath();
  context.rect(x(left), y(top), x(right) - x(left), y(bottom) - y(top));
  outlined(context, width, color);
}

/** @param {Pen} pen @param {DrawnDetection} detection @param {Options} options */
function drawLabel(pen, detection, options) {
  const words = [];
  if (options.labels) words.push(detection.label, detection.track_id ? `#${detection.track_id}` : "");
  if (options.labels && detection.identity) words.push(`id ${detection.identity}`);
  if (options.scores) words.push(`${Math.round(detection.score * 100)}%`);
  const top = pen.y(detection.box[1]) - pen.text - 5;
  tag(pen, words.filter(Boolean).join(" "), pen.x(detection.box[0]), top, colorOf(detection.class_id));
}

/**
 * A text on a colored background, kept inside the image.
 * @param {Pen} pen
 * @param {string} words
 * @param {number} left
 * @param {number} top
 * @param {string} color
 */
function tag({ context, text, edge }, words, left, top, color) {
  context.font = `600 ${text}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const width = Math.min(context.measureText(words).width + 8, edge.right - edge.left);
  const height = text + 5;
  const x = Math.max(edge.left, Math.min(left - 1, edge.right - width));
  const y = Math.max(edge.top, Math.min(top, edge.bottom - height));
  context.fillStyle = color;
  context.fillRect(x, y, width, height);
  context.fillStyle = "#0b1120";
  context.fillText(words, x + 4, y + height / 2 + 0.5, width - 8);
}

/** @param {Pen} pen @param {Scene} scene */
function drawTrails({ context, x, y, width }, { trails, found }) {
  const colors = new Map(found.map(({ track_id, class_id }) => [track_id, colorOf(class_id)]));
  context.lineJoin = "round";
  for (const [track, points] of trails) {
    const color = colors.get(track);
    if (!color || points.length < 2) continue;
    context.strokeStyle = color;
    for (let index = 1; index < points.length; index++) {
      context.globalAlpha = (0.8 * index) / points.length;
      context.lineWidth = width + 1;
      context.beginPath();
      context.moveTo(x(points[index - 1][0]), y(points[index - 1][1]));
      context.lineTo(x(points[index][0]), y(points[index][1]));
      context.stroke();
    }
  }
  context.globalAlpha = 1;
}

/** @param {Pen} pen @param {Scene} scene @param {Size} size */
function drawShapes(pen, { shapes, region, status, options, small }, size) {
  const { context, x, y, width } = pen;
  /** @param {number[][]} points @param {boolean} closed */
  const trace = (points, closed) => {
    context.beginPath();
    points.forEach(([px, py], index) => context[index ? "lineTo" : "moveTo"](x(px * size.width), y(py * size.height)));
    if (closed) context.closePath();
  };
  context.lineWidth = width;
  for (const { polygons, color } of [
    { polygons: region.look, color: "rgb(148 163 184 / 0.9)" },
    { polygons: region.ignore, color: "rgb(248 113 113 / 0.9)" },
  ]) {
    for (const polygon of polygons) {
      trace(polygon, true);
      context.setLineDash([6, 5]);
      context.strokeStyle = color;
      context.stroke();
      context.setLineDash([]);
    }
  }
  for (const { kind, name, points } of shapes) {
    const zone = kind === "zone";
    trace(points, zone);
    if (zone) {
      context.fillStyle = "rgb(56 189 248 / 0.13)";
      context.fill();
    }
    context.strokeStyle = zone ? "rgb(56 189 248 / 0.95)" : "rgb(250 204 21 / 0.95)";
    context.stroke();
    if (!zone) arrow(pen, inward(points, size));
    if (small && !options.counts) continue;
    const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
    const text = options.counts ? `${name}: ${countOf(zone, name, status)}` : name;
    tag(pen, text, x(top[0] * size.width) + 3, y(top[1] * size.height) + 3, zone ? "#7dd3fc" : "#fde047");
  }
}

/** @param {boolean} zone @param {string} name @param {Status | null} [status] */
function countOf(zone, name, status) {
  if (zone) return `${status?.occupancy?.[name] ?? 0}`;
  const counts = status?.counts?.[name];
  return `${counts?.in ?? 0} in, ${counts?.out ?? 0} out`;
}

/** @param {Pen} pen @param {{ middle: number[], direction: number[] }} line */
function arrow({ context, x, y, text }, { middle, direction }) {
  const [left, top] = [x(middle[0]), y(middle[1])];
  const tip = [left + direction[0] * text * 1.6, top + direction[1] * text * 1.6];
  const side = [-direction[1] * text * 0.45, direction[0] * text * 0.45];
  const neck = [left + direction[0] * text * 0.8, top + direction[1] * text * 0.8];
  context.beginPath();
  context.moveTo(left, top);
  context.lineTo(tip[0], tip[1]);
  context.stroke();
  context.beginPath();
  context.moveTo(tip[0], tip[1]);
  context.lineTo(neck[0] + side[0], neck[1] + side[1]);
  context.lineTo(neck[0] - side[0], neck[1] - side[1]);
  context.closePath();
  context.fillStyle = context.strokeStyle;
  context.fill();
}
