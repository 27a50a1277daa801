// @ts-check
// The lines between the keypoints of each model.

import { getJson } from "../transport/http.js";

const RETRY_MS = 10000;
/** @type {Map<string, number[][]>} */
const known = new Map();

/**
 * The lines of a model: pairs of numbers of keypoints; none until they are loaded.
 * @param {string} model
 * @param {() => void} [onLoaded] called when they are loaded after this call
 */
export function skeletonOf(model, onLoaded) {
  const lines = known.get(model);
  if (lines) return lines;
  known.set(model, []);
  getJson("api/v1/engines").then(
    (/** @type {{ model: string, skeleton: number[][] }[]} */ engines) => {
      for (const engine of engines) known.set(engine.model, engine.skeleton);
      onLoaded?.();
    },
    () => setTimeout(() => known.delete(model), RETRY_MS),
  );
  return [];
}
