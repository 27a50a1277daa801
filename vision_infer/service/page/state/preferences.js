// @ts-check
// The user's preferences, stored in this browser.

const KEY = "vision-infer";
const DEFAULTS = {
  theme: "auto",
  overlay: { boxes: true, details: true, labels: true, scores: true, trails: true, zones: true, counts: true },
  tiles: "auto", // the size of the tiles, see TILE_SIZES
  tileLabels: true, // labels and scores on tiles
  between: "interpolate", // or "fade": how boxes are drawn on frames that have no result
  delayVideo: true, // delay the video until the result of the frame has arrived
};

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { ...DEFAULTS, ...kept, overlay: { ...DEFAULTS.overlay, ...kept.overlay } };
  } catch {
    return structuredClone(DEFAULTS); // no storage, or its content is invalid
  }
}

export const preferences = read();

/** @param {Partial<typeof DEFAULTS>} change */
export function setPreferences(change) {
  Object.assign(preferences, change);
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // the preferences last until the page is closed
  }
}

export function applyTheme() {
  if (preferences.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = preferences.theme;
}
