// How the sound is drawn: presets for what is looked for, and what can be changed of them. Kept by the browser.

import { byId, h } from "./dom.js";
import { state, update, when } from "./state.js";

const KEPT = "rales-picture";
const RATE_HZ = 16000; // of the sound that the service sends
// A long window tells pitches apart, a short one clicks; `size` has zeros behind the window, for a smooth picture.
const PRESETS = {
  wheeze: { window: 1024, size: 2048, high_hz: 1600 },
  crackle: { window: 128, size: 512, high_hz: 2500 },
  model: { window: 0, size: 0, high_hz: 8000 },
};
const WORDS = {
  wheeze: ["Wheeze", "Window of 64 ms: pitch is sharp, clicks are smeared"],
  crackle: ["Crackle", "Window of 8 ms: clicks are sharp, pitch is smeared"],
  model: ["Model", "As the model hears it: 80 mel bands from 50 to 8,000 Hz, 25 ms"],
};
const RANGES_HZ = [800, 1600, 2500, 4000, 8000];
const RANGES_DB = [40, 55, 70, 85];
const FIRST = /** @type {Picture} */ ({ preset: "wheeze", high_hz: 1600, range_db: 55, scale: "linear", colours: "page" });
// Dark to light through purple and orange: equal steps look equal, also without colour.
const MAGMA = ["#000004", "#1c1044", "#4f127b", "#812581", "#b5367a", "#e55064", "#fb8761", "#fec287", "#fcfdbf"];
const GREY = ["#ffffff", "#000000"];

export function start() {
  byId("presets").replaceChildren(...Object.entries(WORDS).map(([value, [word, title]]) =>
    h("button", { type: "button", title, value, onclick: () => choosePreset(value) }, word)));
  fill("range-hz", RANGES_HZ, (hertz) => `0–${hertz / 1000} kHz`);
  fill("range-db", RANGES_DB, (decibels) => `${decibels} dB`);
  const fields = /** @type {const} */ ({ "range-hz": "high_hz", "range-db": "range_db", scale: "scale", colours: "colours" });
  for (const [id, name] of Object.entries(fields))
    byId(id).addEventListener("input", () =>
      choose({ [name]: typeof FIRST[name] === "number" ? Number(byId(id).value) : byId(id).value }));
  when(["picture"], show);
  update({ picture: kept() });
}

/** The next preset, for the key. */
export function nextPreset() {
  const names = Object.keys(PRESETS);
  choosePreset(names[(names.indexOf(state.picture.preset) + 1) % names.length]);
}

/** @type {(preset: Picture["preset"]) => void} */
const choosePreset = (preset) => choose({ preset, high_hz: PRESETS[preset].high_hz });

/** @type {(change: Partial<Picture>) => void} */
function choose(change) {
  update({ picture: { ...state.picture, ...change } });
  localStorage.setItem(KEPT, JSON.stringify(state.picture));
}

/** @type {() => Picture} */
function kept() {
  try {
    const found = { ...FIRST, ...JSON.parse(localStorage.getItem(KEPT)) };
    return found.preset in PRESETS && RANGES_HZ.includes(found.high_hz) ? found : FIRST;
  } catch {
    return FIRST;
  }
}

/** @type {<Value extends string | number>(id: "range-hz" | "range-db", values: Value[], words: (value: Value) => string) => void} */
function fill(id, values, words) {
  byId(id).replaceChildren(...values.map((value) => h("option", { value: `${value}` }, words(value))));
}

function show() {
  const { preset, high_hz, range_db, scale, colours } = state.picture;
  for (const button of byId("presets").querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === preset);
  for (const [id, value] of Object.entries({ "range-hz": high_hz, "range-db": range_db, scale, colours })) byId(id).value = `${value}`;
  for (const id of /** @type {const} */ (["range-hz", "scale"])) byId(id).disabled = preset === "model"; // which has its own
}

/** -> the frequency axis of the picture (geometry.js). @type {(picture: Picture) => Scale} */
export function scaleOf({ preset, high_hz, scale }) {
  if (preset === "model") return { kind: "mel", low_hz: 50, high_hz: 8000 };
  return scale === "log" ? { kind: "log", low_hz: 50, high_hz } : { kind: "linear", low_hz: 0, high_hz };
}

/** -> window, size and how many bins of it are wanted, null for the model's picture, which the service makes.
 * @type {(picture: Picture) => Transform | null} */
export function transformOf({ preset, high_hz }) {
  const { window, size } = PRESETS[preset];
  if (!size) return null;
  return { window, size, bins: Math.min(size / 2 + 1, Math.ceil((high_hz * size) / RATE_HZ) + 2) };
}

/** Whether the picture is light. @type {(picture: Picture) => boolean} */
export function isLight({ colours }) {
  if (colours !== "page") return colours === "grey";
  const { theme } = document.documentElement.dataset;
  return theme === "light" || (theme !== "dark" && !matchMedia("(prefers-color-scheme: dark)").matches);
}

/** -> 256 colours, the quietest first, as the numbers that a canvas stores (alpha, blue, green, red).
 * @type {(light: boolean) => Uint32Array<ArrayBuffer>} */
export function palette(light) {
  const parts = (light ? GREY : MAGMA).map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (parts.length - 1);
    const [low, high] = [parts[Math.floor(place)], parts[Math.ceil(place)]];
    const [red, green, blue] = low.map((value, i) => Math.round(value + (high[i] - value) * (place % 1)));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}
