// @ts-check
// Zones and lines in the editor.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  freeName,
  inward,
  moved,
  regionOf,
  shapesOf,
  validationError,
  withShapes,
} from "../../vision_infer/service/page/state/shapes.js";

const SIZE = { width: 640, height: 360 };

test("shapes survive the conversion from and to settings", () => {
  const settings = {
    detect: "test://",
    zones: {
      door: {
        units: "pixels",
        polygon: [
          [0, 0],
          [320, 0],
          [320, 180],
        ],
        dwell_s: 5,
      },
    },
    lines: { gate: { units: "relative", from: [0.5, 1], to: [0.5, 0] } },
  };
  const result = withShapes(settings, shapesOf(settings, SIZE));
  assert.deepEqual(result.zones.door, {
    units: "relative",
    polygon: [
      [0, 0],
      [0.5, 0],
      [0.5, 0.5],
    ],
    dwell_s: 5,
  });
  assert.deepEqual(result.lines.gate, settings.lines.gate);
  assert.equal(result.detect, "test://");
});

test("a region in pixels is converted to fractions of the image", () => {
  assert.deepEqual(
    regionOf(
      {
        region: {
          units: "pixels",
          look: [
            [
              [0, 0],
              [640, 0],
              [640, 180],
            ],
          ],
        },
      },
      SIZE,
    ),
    {
      look: [
        [
          [0, 0],
          [1, 0],
          [1, 0.5],
        ],
      ],
      ignore: [],
    },
  );
  assert.deepEqual(regionOf({}, SIZE), { look: [], ignore: [] });
});

test("the direction “in” is from the left of a line to its right", () => {
  // as in docs/how-to/zones-and-lines.md: for a line from the bottom to the top, movement to the right is in
  const { direction } = inward(
    [
      [0.5, 1],
      [0.5, 0],
    ],
    SIZE,
  );
  assert.deepEqual(direction, [1, 0]);
});

test("moved shapes stay inside the image", () => {
  const points = moved(
    [
      [0.1, 0.1],
      [0.3, 0.1],
      [0.3, 0.4],
    ],
    null,
    [-0.5, 0.05],
  );
  const expected = [
    [0, 0.15],
    [0.2, 0.15],
    [0.2, 0.45],
  ];
  points.forEach((point, index) => point.forEach((value, axis) => assert.ok(Math.abs(value - expected[index][axis]) < 1e-9)));
});

test("invalid shapes are reported", () => {
  /** @param {"zone" | "line"} kind @param {string} name @param {number[][]} points */
  const shape = (kind, name, points) => ({ kind, name, points, settings: {} });
  const line = shape("line", "a", [
    [0, 0],
    [0, 1],
  ]);
  assert.match(
    validationError([
      shape("zone", "a b", [
        [0, 0],
        [1, 0],
        [1, 1],
      ]),
    ]),
    /letters/,
  );
  assert.match(
    validationError([
      shape("zone", "a", [
        [0, 0],
        [0.5, 0.5],
        [1, 1],
      ]),
    ]),
    /corners/,
  );
  assert.match(
    validationError([
      shape("line", "a", [
        [0, 0],
        [0, 0.001],
      ]),
    ]),
    /short/,
  );
  assert.match(validationError([line, line]), /two lines/);
  assert.equal(validationError([line]), "");
  assert.equal(freeName([shape("line", "line-1", [])], "line"), "line-2");
});
