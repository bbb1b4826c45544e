// The last half minute of a recording that is made: its spectrogram as it comes, and the breaths that were found in it.

import { frequencyMarks, timeMarks } from "./axes.js";
import { LABELS, colour } from "./classes.js";
import { byId, h } from "./dom.js";
import { isLight, palette } from "./picture_settings.js";
import { state } from "./state.js";
import { FLOOR_DB, LEVEL_DB, tile } from "./stft.js";

const SPAN_S = 30;
const COLUMNS = 600;
const [WINDOW_S, HIGH_HZ] = [0.064, 1600]; // as the preset for wheezes
const [DARK_DB, BRIGHT_DB] = [-95, -30]; // of what can come; nothing is known of its loudness yet

/** Rate of the sound -> {hear(samples), show(duration_s, cycles)} for the canvas and the lane below it.
 * @type {(rate_hz: number) => { hear: (samples: Float32Array) => void, show: typeof showCycles }} */
export function livePicture(rate_hz) {
  const canvas = byId("live-picture");
  const hop = Math.round((SPAN_S * rate_hz) / COLUMNS);
  const window = 2 ** Math.round(Math.log2(WINDOW_S * rate_hz));
  const bins = Math.min(window / 2, Math.ceil((HIGH_HZ * window) / rate_hz));
  const edge = Math.ceil(window / (2 * hop)); // columns before which there is half a window of sound
  [canvas.width, canvas.height] = [COLUMNS, bins];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const light = isLight(state.picture);
  const shades = shadesOf(palette(light));
  context.fillStyle = light ? "#ffffff" : "#000004";
  context.fillRect(0, 0, COLUMNS, bins);
  byId("live-times").replaceChildren();
  byId("live-hertz").replaceChildren(...frequencyMarks({ kind: "linear", low_hz: 0, high_hz: HIGH_HZ }, canvas.clientHeight));
  let waiting = new Int16Array(0);
  let drawn = 0; // columns

  /** @param {Float32Array} samples */
  function hear(samples) {
    const sound = new Int16Array(waiting.length + samples.length);
    sound.set(waiting);
    samples.forEach((sample, i) => (sound[waiting.length + i] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)))));
    const columns = Math.floor((sound.length - window / 2) / hop) - edge; // a window that is cut off shows clicks
    waiting = columns > 0 ? sound.slice(columns * hop) : sound;
    if (columns <= 0) return;
    const levels = tile(sound, { window, size: window, bins, hop, first: edge, columns });
    context.drawImage(canvas, -columns, 0);
    context.putImageData(imageOf(levels, columns, bins, shades), COLUMNS - columns, 0);
    drawn += columns;
    const end_s = (drawn * hop) / rate_hz;
    byId("live-times").replaceChildren(...timeMarks({ start_s: end_s - SPAN_S, end_s }, canvas.clientWidth));
  }

  return { hear, show: showCycles };
}

/** @type {(table: Uint32Array) => Uint32Array} */
function shadesOf(table) {
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const share = (FLOOR_DB + level * LEVEL_DB - DARK_DB) / (BRIGHT_DB - DARK_DB);
    return table[Math.round(255 * Math.min(1, Math.max(0, share)))];
  });
}

/** @type {(levels: Uint8Array, columns: number, bins: number, shades: Uint32Array) => ImageData} */
function imageOf(levels, columns, bins, shades) {
  const image = new ImageData(columns, bins);
  const pixels = new Uint32Array(image.data.buffer);
  for (let column = 0; column < columns; column += 1)
    for (let bin = 0; bin < bins; bin += 1) pixels[(bins - 1 - bin) * columns + column] = shades[levels[column * bins + bin]];
  return image;
}

/** A cycle of the service -> what is said of it. @type {(cycle: Service.ScoredSpan) => string} */
export function wordsOf({ label, quality_reason, ...row }) {
  if (label === null) return `not judged: ${quality_reason}`;
  const share = LABELS.independent ? "" : ` ${Math.round(100 * Number(row[`p_${label}`]))} %`;
  return `${LABELS.words(label)}${share}`;
}

/** Sound that has come, in s, and the cycles found in it -> the lane below the picture, and the list.
 * @type {(duration_s: number, cycles: Service.ScoredSpan[]) => void} */
function showCycles(duration_s, cycles) {
  const begin_s = duration_s - SPAN_S;
  const seen = cycles.filter(({ end_s }) => end_s > begin_s);
  byId("live-lane").replaceChildren(...seen.map((cycle) => {
    const block = h("span", { className: "block model", title: wordsOf(cycle) }, cycle.label === null ? "–" : LABELS.letters(cycle.label));
    block.style.left = `${(100 * (cycle.start_s - begin_s)) / SPAN_S}%`;
    block.style.width = `${(100 * (cycle.end_s - cycle.start_s)) / SPAN_S}%`;
    return cycle.label === null ? block : colour(block, cycle.label);
  }));
  byId("live-cycles").replaceChildren(...cycles.toReversed().map((cycle) => {
    const times = `${cycle.start_s.toFixed(1)}–${cycle.end_s.toFixed(1)} s`;
    return h("li", {}, h("span", { className: "figures soft" }, times), ` ${wordsOf(cycle)}`);
  }));
}
