// What whoever looks has chosen, kept in this browser.

const KEY = "vision-infer";
const DEFAULTS = {
  theme: "auto",
  overlay: { boxes: true, labels: true, scores: true, trails: true, zones: true, counts: true },
  between: "interpolate", // or "fade": what is drawn on frames without a result of their own
  inStep: true, // the picture waits for its result
};

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { ...DEFAULTS, ...kept, overlay: { ...DEFAULTS.overlay, ...kept.overlay } };
  } catch {
    return structuredClone(DEFAULTS); // no storage here, or not ours
  }
}

export const choices = read();

export function choose(change) {
  Object.assign(choices, change);
  try {
    localStorage.setItem(KEY, JSON.stringify(choices));
  } catch {
    // it holds for this page only
  }
}

export function applyTheme() {
  if (choices.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choices.theme;
}
