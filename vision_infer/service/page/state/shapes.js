// Zones and lines while they are drawn: points in parts of the picture, 0 to 1. Pure.

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const SMALLEST = 1e-4;

const clamp = (value) => Math.min(1, Math.max(0, value));
const rounded = (value) => Math.round(clamp(value) * 10000) / 10000;

// What a stream's settings hold. size: { width, height } of the picture, for points in pixels; may be null
// returns [{ kind: "zone" | "line", name, points: [[x, y], …], own: the other settings }]
export function shapesOf(settings, size) {
  const scale = (one, [x, y]) => (one.units === "relative" || !size ? [x, y] : [x / size.width, y / size.height]);
  const zones = Object.entries(settings.zones ?? {}).map(([name, { polygon, ...own }]) => {
    return { kind: "zone", name, points: polygon.map((point) => scale(own, point)), own };
  });
  const lines = Object.entries(settings.lines ?? {}).map(([name, { from, to, ...own }]) => {
    return { kind: "line", name, points: [scale(own, from), scale(own, to)], own };
  });
  return [...zones, ...lines];
}

// The polygons of a stream's region, in the same way: { look: [[[x, y], …], …], ignore: … }
export function regionOf(settings, size) {
  const region = settings.region;
  const scale = ([x, y]) => (region.units === "relative" || !size ? [x, y] : [x / size.width, y / size.height]);
  const polygons = (all) => (region ? all.map((polygon) => polygon.map(scale)) : []);
  return { look: polygons(region?.look ?? []), ignore: polygons(region?.ignore ?? []) };
}

// The settings with these shapes in place of their zones and lines.
export function withShapes(settings, shapes) {
  const zones = {};
  const lines = {};
  for (const { kind, name, points, own } of shapes) {
    const told = points.map(([x, y]) => [rounded(x), rounded(y)]);
    if (kind === "zone") zones[name] = { ...own, units: "relative", polygon: told };
    else lines[name] = { ...own, units: "relative", from: told[0], to: told[1] };
  }
  return { ...settings, zones, lines };
}

// Why shapes cannot be saved; empty where they can.
export function mistakeIn(shapes) {
  const seen = { zone: new Set(), line: new Set() };
  for (const { kind, name, points } of shapes) {
    if (!NAME.test(name)) return `“${name}”: a name has letters, digits, “.”, “_” and “-” only`;
    if (seen[kind].has(name)) return `there are two ${kind}s called ${name}`;
    seen[kind].add(name);
    if (kind === "zone" && (points.length < 3 || area(points) < SMALLEST)) return `${name}: a zone needs three corners that are not in line`;
    if (kind === "line" && (points.length < 2 || distance(points[0], points[1]) < 0.01)) return `${name}: the line is too short`;
  }
  return "";
}

export function freeName(shapes, kind) {
  const taken = new Set(shapes.filter((one) => one.kind === kind).map((one) => one.name));
  for (let number = 1; ; number++) {
    if (!taken.has(`${kind}-${number}`)) return `${kind}-${number}`;
  }
}

// Move a point by a step, or all of them: none leaves the picture.
export function moved(points, index, [dx, dy]) {
  const chosen = index === null ? points : [points[index]];
  const least = (axis) => Math.min(...chosen.map((point) => point[axis]));
  const most = (axis) => Math.max(...chosen.map((point) => point[axis]));
  const step = [dx, dy].map((value, axis) => Math.min(1 - most(axis), Math.max(-least(axis), value)));
  return points.map((point, at) => (index === null || at === index ? [point[0] + step[0], point[1] + step[1]] : point));
}

// Of two points, the one in their midst and the direction “in”: from the left of the line to its right, in pixels.
export function inward([from, to], size) {
  const [dx, dy] = [(to[0] - from[0]) * size.width, (to[1] - from[1]) * size.height];
  const length = Math.hypot(dx, dy) || 1;
  return {
    middle: [((from[0] + to[0]) / 2) * size.width, ((from[1] + to[1]) / 2) * size.height],
    direction: [-dy / length, dx / length],
  };
}

export function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

function area(points) {
  let sum = 0;
  points.forEach(([x, y], index) => {
    const [nextX, nextY] = points[(index + 1) % points.length];
    sum += x * nextY - nextX * y;
  });
  return Math.abs(sum) / 2;
}
