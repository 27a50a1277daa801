// @ts-check
// Draws what detections have in addition to their boxes: masks, rotated boxes, and keypoints with their skeleton.

import { runsOf } from "../state/run_lengths.js";

/** @import { DrawnDetection, Mask, Segment, Size } from "../transport/api.js" */
/** @import { Pen, Scale } from "./overlay.js" */

const VISIBLE_SCORE = 0.3; // keypoints below are not drawn, as in saved images
const MASK_ALPHA = 0.45;
const BACKGROUND = ["background", "__background__", "_background_"]; // labels of pixels that are not colored
/** @type {WeakMap<Mask, Path2D>} each mask is drawn in several frames */
const paths = new WeakMap();

/** @param {Pen} pen @param {DrawnDetection} detection @param {Size} size of the source @param {string} color */
export function drawMask(pen, detection, size, color) {
  if (detection.mask) fillMask(pen.context, detection.mask, moved(pen, detection), size, color);
}

/** @param {Pen} pen @param {Segment[]} segments @param {Size} size of the source @param {(classId: number) => string} colorOf */
export function drawSegments(pen, segments, size, colorOf) {
  for (const { class_id, label, mask } of segments) {
    if (!BACKGROUND.includes(label.toLowerCase())) fillMask(pen.context, mask, pen, size, colorOf(class_id));
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Mask} mask
 * @param {{ x: Scale, y: Scale }} scales
 * @param {Size} size of the source
 * @param {string} color
 */
function fillMask(context, mask, { x, y }, size, color) {
  const [height, width] = mask.size; // may be smaller than the source
  context.save();
  context.globalAlpha *= MASK_ALPHA;
  context.fillStyle = color;
  context.transform((x(size.width) - x(0)) / width, 0, 0, (y(size.height) - y(0)) / height, x(0), y(0));
  context.fill(pathOf(mask));
  context.restore();
}

/** @param {Pen} pen @param {DrawnDetection} detection @param {string} color */
export function drawRotatedBox(pen, detection, color) {
  const { context, width: line } = pen;
  const [centerX, centerY, width, height, angle] = /** @type {number[]} */ (detection.box_rotated);
  const { x, y } = moved(pen, detection);
  const along = [(Math.cos(angle) * width) / 2, (Math.sin(angle) * width) / 2];
  const across = [(-Math.sin(angle) * height) / 2, (Math.cos(angle) * height) / 2];
  context.beginPath();
  for (const [a, b] of [
    [-1, -1],
    [1, -1],
    [1, 1],
    [-1, 1],
  ]) {
    context.lineTo(x(centerX + a * along[0] + b * across[0]), y(centerY + a * along[1] + b * across[1]));
  }
  context.closePath();
  outlined(context, line, color);
}

/** @param {Pen} pen @param {DrawnDetection} detection @param {number[][]} skeleton @param {string} color */
export function drawKeypoints(pen, detection, skeleton, color) {
  const points = detection.keypoints;
  if (!points) return;
  const { context, width } = pen;
  const { x, y } = moved(pen, detection);
  /** @param {number[] | undefined} point */
  const visible = (point) => point !== undefined && point[2] >= VISIBLE_SCORE;
  context.beginPath();
  for (const [start, end] of skeleton) {
    if (!visible(points[start]) || !visible(points[end])) continue;
    context.moveTo(x(points[start][0]), y(points[start][1]));
    context.lineTo(x(points[end][0]), y(points[end][1]));
  }
  outlined(context, width, color);
  context.beginPath();
  for (const [px, py] of points.filter(visible)) {
    context.moveTo(x(px) + 1.5 * width, y(py));
    context.arc(x(px), y(py), 1.5 * width, 0, 2 * Math.PI);
  }
  outlined(context, 1, "white");
  context.fillStyle = color;
  context.fill();
}

/** Stroke the path, with a dark outline that is visible on any image. @param {CanvasRenderingContext2D} context @param {number} width @param {string} color */
export function outlined(context, width, color) {
  context.lineWidth = width + 2;
  context.strokeStyle = "rgb(0 0 0 / 0.45)";
  context.stroke();
  context.lineWidth = width;
  context.strokeStyle = color;
  context.stroke();
}

/**
 * The scales for details of a detection. In frames between two results they move with the box.
 * @param {Pen} pen
 * @param {DrawnDetection} detection
 */
function moved({ x, y }, { box, from = box }) {
  /** @param {number} axis @param {Scale} scale @returns {Scale} */
  const along = (axis, scale) => {
    const length = from[axis + 2] - from[axis];
    const stretch = length > 0 ? (box[axis + 2] - box[axis]) / length : 1;
    return (value) => scale(box[axis] + (value - from[axis]) * stretch);
  };
  return { x: along(0, x), y: along(1, y) };
}

/** @param {Mask} mask */
function pathOf(mask) {
  let path = paths.get(mask);
  if (!path) {
    paths.set(mask, (path = new Path2D()));
    for (const [x, y, length] of runsOf(mask)) path.rect(x, y, 1.1, length); // wider, so that no gaps are visible
  }
  return path;
}
