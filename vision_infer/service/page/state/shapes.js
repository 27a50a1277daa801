// @ts-check
// Zones and lines in the editor: points are fractions of the image size, 0 to 1. Pure.

/** @import { Region, Settings, Shape, Size } from "../transport/api.js" */

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MIN_AREA = 1e-4;

/** @param {number} value */
const clamp = (value) => Math.min(1, Math.max(0, value));
/** @param {number} value */
const rounded = (value) => Math.round(clamp(value) * 10000) / 10000;

/**
 * The zones and lines in a stream's settings.
 * @param {Settings} settings
 * @param {Size | null} size the size of the image, for points in pixels
 * @returns {Shape[]}
 */
export function shapesOf(settings, size) {
  /** @param {Settings} shape @param {number[]} point */
  const scale = (shape, [x, y]) => (shape.units === "relative" || !size ? [x, y] : [x / size.width, y / size.height]);
  const zones = Object.entries(settings.zones ?? {}).map(([name, { polygon, ...rest }]) => {
    return { kind: "zone", name, points: polygon.map((/** @type {number[]} */ point) => scale(rest, point)), settings: rest };
  });
  const lines = Object.entries(settings.lines ?? {}).map(([name, { from, to, ...rest }]) => {
    return { kind: "line", name, points: [scale(rest, from), scale(rest, to)], settings: rest };
  });
  return [...zones, ...lines];
}

/**
 * The polygons of a stream's region, in the same units.
 * @param {Settings} settings
 * @param {Size | null} size
 * @returns {Region}
 */
export function regionOf(settings, size) {
  const region = settings.region;
  /** @param {number[]} point */
  const scale = ([x, y]) => (region.units === "relative" || !size ? [x, y] : [x / size.width, y / size.height]);
  /** @param {number[][][]} all */
  const polygons = (all) => (region ? all.map((polygon) => polygon.map(scale)) : []);
  return { look: polygons(region?.look ?? []), ignore: polygons(region?.ignore ?? []) };
}

/**
 * Return the settings with their zones and lines replaced by these shapes.
 * @param {Settings} settings
 * @param {Shape[]} shapes
 * @returns {Settings}
 */
export function withShapes(settings, shapes) {
  /** @type {Record<"zones" | "lines", Settings>} */
  const { zones, lines } = { zones: {}, lines: {} };
  for (const { kind, name, points, settings: rest } of shapes) {
    const relative = points.map(([x, y]) => [rounded(x), rounded(y)]);
    if (kind === "zone") zones[name] = { ...rest, units: "relative", polygon: relative };
    else lines[name] = { ...rest, units: "relative", from: relative[0], to: relative[1] };
  }
  return { ...settings, zones, lines };
}

/** The reason why shapes cannot be saved; empty if they are valid. @param {Shape[]} shapes */
export function validationError(shapes) {
  /** @type {Record<string, Set<string>>} */
  const seen = { zone: new Set(), line: new Set() };
  for (const { kind, name, points } of shapes) {
    if (!NAME.test(name)) return `“${name}”: a name may contain only letters, digits, “.”, “_” and “-”`;
    if (seen[kind].has(name)) return `two ${kind}s have the name ${name}`;
    seen[kind].add(name);
    if (kind === "zone" && (points.length < 3 || area(points) < MIN_AREA))
      return `${name}: a zone needs at least three corners that are not on one line`;
    if (kind === "line" && (points.length < 2 || distance(points[0], points[1]) < 0.01)) return `${name}: the line is too short`;
  }
  return "";
}

/** @param {Shape[]} shapes @param {string} kind */
export function freeName(shapes, kind) {
  const taken = new Set(shapes.filter((shape) => shape.kind === kind).map((shape) => shape.name));
  for (let number = 1; ; number++) {
    if (!taken.has(`${kind}-${number}`)) return `${kind}-${number}`;
  }
}

/**
 * Move one point, or all of them, by a step. All points stay inside the image.
 * @param {number[][]} points
 * @param {number | null} index
 * @param {number[]} step
 */
export function moved(points, index, [dx, dy]) {
  const chosen = index === null ? points : [points[index]];
  /** @param {number} axis */
  const min = (axis) => Math.min(...chosen.map((point) => point[axis]));
  /** @param {number} axis */
  const max = (axis) => Math.max(...chosen.map((point) => point[axis]));
  const step = [dx, dy].map((value, axis) => Math.min(1 - max(axis), Math.max(-min(axis), value)));
  return points.map((point, at) => (index === null || at === index ? [point[0] + step[0], point[1] + step[1]] : point));
}

/**
 * The middle of a line and its “in” direction, from the left of the line to its right, in pixels.
 * @param {number[][]} line
 * @param {Size} size
 */
export function inward([from, to], size) {
  const [dx, dy] = [(to[0] - from[0]) * size.width, (to[1] - from[1]) * size.height];
  const length = Math.hypot(dx, dy) || 1;
  return {
    middle: [((from[0] + to[0]) / 2) * size.width, ((from[1] + to[1]) / 2) * size.height],
    direction: [-dy / length, dx / length],
  };
}

/** @param {number[]} a @param {number[]} b */
export function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

/** @param {number[][]} points */
function area(points) {
  let sum = 0;
  points.forEach(([x, y], index) => {
    const [nextX, nextY] = points[(index + 1) % points.length];
    sum += x * nextY - nextX * y;
  });
  return Math.abs(sum) / 2;
}
