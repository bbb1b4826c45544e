// The whole recording as a strip, with the stretch that is seen as a window to drag.

import { byId } from "./dom.js";
import { bounded } from "./geometry.js";
import { state, update, when } from "./state.js";
import { peaksOf } from "./wav.js";

let samples = /** @type {Int16Array | null} */ (null);
let shade = ""; // how the strip was painted

export function start() {
  when(["view", "current"], showWindow);
  when(["heard"], paint);
  new ResizeObserver(() => {
    paint();
    showWindow();
  }).observe(byId("overview"));
  const strip = byId("overview");
  let grabbed_s = /** @type {number | null} */ (null); // where in the window it is held
  const secondsAt = (/** @type {PointerEvent} */ event) => {
    const box = strip.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * state.current.duration_s;
  };
  strip.addEventListener("pointerdown", (event) => {
    if (!state.heard) return;
    strip.setPointerCapture(event.pointerId);
    const { start_s, end_s } = state.view;
    const seconds = secondsAt(event);
    grabbed_s = seconds >= start_s && seconds <= end_s ? seconds - start_s : (end_s - start_s) / 2;
    go(seconds - grabbed_s);
  });
  strip.addEventListener("pointermove", (event) => grabbed_s !== null && state.heard && go(secondsAt(event) - grabbed_s));
  for (const kind of ["pointerup", "pointercancel"]) strip.addEventListener(kind, () => (grabbed_s = null));
}

/** Show this sound, or none for null. @type {(sound: Int16Array | null) => void} */
export function load(sound) {
  [samples, shade] = [sound, ""];
  paint();
}

/** Paint it anew if its colours have changed. */
export function recolour() {
  paint();
}

/** @type {(start_s: number) => void} */
function go(start_s) {
  const { view, current } = state;
  update({ view: bounded({ start_s, end_s: start_s + view.end_s - view.start_s }, byId("picture").clientWidth, current.duration_s) });
}

function showWindow() {
  const frame = byId("overview-window");
  frame.hidden = !state.current;
  if (!state.current) return;
  const share = (/** @type {number} */ seconds) => `${(100 * seconds) / state.current.duration_s}%`;
  Object.assign(frame.style, { left: share(state.view.start_s), width: share(state.view.end_s - state.view.start_s) });
}

function paint() {
  const canvas = byId("strip");
  const sharp = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * sharp), Math.round(canvas.clientHeight * sharp)];
  const wanted = `${width} ${height} ${getComputedStyle(canvas).color}`; // a canvas knows neither variables nor light-dark()
  if (!width || wanted === shade) return;
  shade = wanted;
  [canvas.width, canvas.height] = [width, height];
  if (!samples) return;
  const peaks = peaksOf(samples, width);
  const loudest = peaks.reduce((most, [low, high]) => Math.max(most, high, -low), 1e-4);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = getComputedStyle(canvas).color;
  peaks.forEach(([low, high], x) => {
    const [top, bottom] = [high, low].map((value) => height * (0.5 - (0.46 * value) / loudest));
    context.fillRect(x, top, 1, Math.max(sharp, bottom - top));
  });
}
