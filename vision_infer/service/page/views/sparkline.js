// @ts-check
// A small line plot of values over time.

const LINE = "#3b93e6"; // visible on light and dark backgrounds

/** @param {HTMLCanvasElement} canvas @param {(number | null)[]} values @param {string} label */
export function sparkline(canvas, values, label) {
  const ratio = window.devicePixelRatio || 1;
  const known = values.filter((value) => value !== null);
  if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
  if (known.length < 2) return;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const max = Math.max(...known, 1) * 1.1;
  /** @param {number} index */
  const x = (index) => (index / (values.length - 1)) * (width - 2) + 1;
  /** @param {number} value */
  const y = (value) => height - 1.5 - (value / max) * (height - 3);
  context.strokeStyle = LINE;
  context.lineWidth = 1.4;
  context.lineJoin = "round";
  context.beginPath();
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) drawing = false;
    else {
      context[drawing ? "lineTo" : "moveTo"](x(index), y(value));
      drawing = true;
    }
  });
  context.stroke();
}
