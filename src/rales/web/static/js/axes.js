// The axes of the picture, outside it: seconds above, hertz at its left, with a bar for the band that is heard.

import { byId, h } from "./dom.js";
import { frequencyTicks, placeOf, timeTicks, xOf } from "./geometry.js";
import { band } from "./listening.js";
import { scaleOf } from "./picture_settings.js";
import { state, when } from "./state.js";

export function start() {
  when(["view"], showTimes);
  when(["picture", "band"], showFrequencies);
  new ResizeObserver(() => {
    showTimes();
    showFrequencies();
  }).observe(byId("picture"));
}

function showTimes() {
  const width = byId("picture").clientWidth;
  byId("time-axis").replaceChildren(...(state.current && width ? timeMarks(state.view, width) : []));
}

/** -> the marks of a time axis, from the beginning of the sound on. @type {(view: Service.Span, width: number) => HTMLElement[]} */
export const timeMarks = (view, width) => timeTicks(view, width).filter(({ seconds }) => seconds >= 0).map(({ seconds, text }) => {
  const mark = h("span", {}, text);
  mark.style.left = `${xOf(view, width, seconds)}px`;
  return mark;
});

/** -> the marks of a frequency axis. @type {(scale: Scale, height: number) => HTMLElement[]} */
export const frequencyMarks = (scale, height) => frequencyTicks(scale, height).map(({ hertz, text }) => {
  const mark = h("span", {}, text);
  mark.style.bottom = `${placeOf(scale, hertz) * height}px`;
  return mark;
});

function showFrequencies() {
  const height = byId("picture").clientHeight;
  if (!state.picture || !height) return;
  const scale = scaleOf(state.picture);
  const limits = band();
  const bars = [];
  if (limits) {
    const bar = h("i", { title: "What is heard" });
    const place = (/** @type {number} */ hertz) => Math.min(1, Math.max(0, placeOf(scale, hertz)));
    bar.style.bottom = `${place(limits.low_hz) * 100}%`;
    bar.style.top = `${(1 - place(limits.high_hz)) * 100}%`;
    bars.push(bar);
  }
  byId("frequency-axis").replaceChildren(...frequencyMarks(scale, height), ...bars);
}
