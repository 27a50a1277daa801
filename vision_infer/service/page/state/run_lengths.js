// @ts-check
// Reads masks: compressed run lengths in the format of COCO. Pure.

/** @import { Mask } from "../transport/api.js" */

/** The vertical runs of a mask: x, y and length, in pixels of the mask. @param {Mask} mask @returns {number[][]} */
export function runsOf({ size: [height], counts }) {
  /** @type {number[][]} */
  const runs = [];
  let start = 0;
  lengthsOf(counts).forEach((length, index) => {
    const end = start + length;
    if (index % 2 === 0) start = end; // outside of the mask
    while (start < end) {
      const y = start % height;
      const part = Math.min(height - y, end - start);
      runs.push([Math.floor(start / height), y, part]);
      start += part;
    }
  });
  return runs;
}

/** The lengths of the runs, column by column, the first one outside of the mask. @param {string} counts */
function lengthsOf(counts) {
  /** @type {number[]} */
  const lengths = [];
  let [number, bits] = [0, 0];
  for (const character of counts) {
    const code = character.charCodeAt(0) - 48;
    number |= (code & 31) << bits;
    bits += 5;
    if (code & 32) continue; // more bits follow
    if (code & 16) number |= -1 << bits; // negative
    lengths.push(lengths.length > 2 ? number + lengths[lengths.length - 2] : number); // a difference
    [number, bits] = [0, 0];
  }
  return lengths;
}
