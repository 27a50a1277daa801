// @ts-check
// The layout of the wall. Pure: no clock, no DOM.

export const TILE_SIZES = ["auto", "small", "medium", "large"];

/**
 * The columns with the largest tiles of which all are visible without scrolling, and the width of a tile. The image of a tile is 16:9.
 * @param {number} tiles
 * @param {{ width: number, height: number }} area the area for the tiles, CSS pixels
 * @param {{ caption: number, gap: number }} sizes the height of a tile below its image, and the gap between tiles, CSS pixels
 */
export function fitted(tiles, area, { caption, gap }) {
  let best = { columns: 1, width: 0 };
  for (let columns = 1; columns <= tiles; columns++) {
    const rows = Math.ceil(tiles / columns);
    const high = (area.height + gap) / rows - gap - caption;
    const width = Math.floor(Math.min((area.width + gap) / columns - gap, (high * 16) / 9));
    if (width > best.width) best = { columns, width };
  }
  return best;
}
