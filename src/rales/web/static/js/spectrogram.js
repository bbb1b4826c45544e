// The picture: tiles of levels, computed by a worker from the sound that is played, coloured here. A tile is kept as long
// as there is room; until those of a closer view are there, the ones of a wider view stand in for them.

import { bytes, pause } from "./api.js";
import { alarm, byId } from "./dom.js";
import { hertzAt, placeOf, xOf } from "./geometry.js";
import { isLight, palette, scaleOf, transformOf } from "./picture_settings.js";
import { pathOf, state, when } from "./state.js";
import { FLOOR_DB, LEVEL_DB } from "./stft.js";

const COLUMNS = 256; // of a tile, and one more that the next tile covers, so that no seam is seen
const ROWS = 512; // of a tile's image
const MOST_TILES = 400;
const AGAIN_MS = 5000; // until a picture of the model that did not come is asked for again
const QUIETEST_TOP_DB = -60; // what is quieter everywhere is not made brighter, so silence is dark

/** @typedef {(seconds: number) => number} ToPixels */

const worker = new Worker("/static/js/spectrogram_worker.js", { type: "module" });
const tiles = /** @type {Map<string, Tile>} */ (new Map()); // key -> {levels, image, look}, the ones used last at the end
const tops = new Map(); // transform -> level that is brightest
let turn = 0; // of the recording
let rate_hz = 16000;
let length = 0; // of the sound, in samples
/** @typedef {{ levels: Uint8Array, image?: OffscreenCanvas, look?: string }} Tile */
/** @typedef {{ first: number, columns: number, image: OffscreenCanvas }} Part */
/** @typedef {{ levels: Uint8Array, bands: number, frames: number, hop_s: number, top: number, look: string, images: Part[] }} Heard */
let heard = /** @type {Heard | Promise<void> | null} */ (null); // the model's picture, or the promise of it
let overlay = /** @type {Service.Explanation | null} */ (null); // explanation of one cycle
let colours = { light: /** @type {boolean | null} */ (null), table: new Uint32Array() };
let due = false;

export function start() {
  when(["view", "picture", "heard"], draw);
  new ResizeObserver(draw).observe(byId("picture"));
  worker.addEventListener("message", ({ data }) => {
    if (data.turn !== turn) return;
    if (data.level !== undefined) tops.set(data.key, data.level);
    else keep(data.key, { levels: data.levels });
    draw();
  });
}

/** Take the picture away, and one that is on its way. */
export function empty() {
  turn += 1;
  tiles.clear();
  tops.clear();
  [length, heard, overlay] = [0, null, null];
  byId("picture").width = byId("picture").width; // wipes it
}

/** Draw this sound from here on. @type {(samples: Int16Array, rate: number) => void} */
export function load(samples, rate) {
  [rate_hz, length] = [rate, samples.length];
  const copy = samples.slice();
  worker.postMessage({ samples: copy, turn }, [copy.buffer]);
  draw();
}

/** Lay an explanation over its cycle, or nothing for null. @type {(explanation: Service.Explanation | null) => void} */
export function setOverlay(explanation) {
  overlay = explanation;
  draw();
}

/** Draw before the next frame, however often this is asked for. */
export function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    paint();
  });
}

function paint() {
  const canvas = byId("picture");
  const sharp = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (width === 0 || !state.picture) return;
  const light = isLight(state.picture);
  if (colours.light !== light) colours = { light, table: palette(light) };
  byId("sight").dataset.light = `${light}`;
  const size = [width, height].map((side) => Math.round(side * sharp));
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size; // which wipes it
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.resetTransform();
  context.fillStyle = light ? "#ffffff" : "#000004";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (!state.current || length === 0) return;
  context.scale(canvas.width / width, canvas.height / height);
  const x = (/** @type {number} */ seconds) => xOf(state.view, width, seconds);
  const transform = transformOf(state.picture);
  if (transform) paintSound(context, x, width, height, transform);
  else paintHeard(context, x, height);
  if (overlay) paintOverlay(overlay, context, x, height, scaleOf(state.picture));
}

// The sound

/** @type {(context: CanvasRenderingContext2D, x: ToPixels, width: number, height: number, transform: Transform) => void} */
function paintSound(context, x, width, height, transform) {
  const top = tops.get(keyOf(transform));
  const wanted = /** @type {{ key: string, about: object }[]} */ ([]);
  if (top === undefined) wanted.push({ key: keyOf(transform), about: { ...transform, loudness: true } });
  const per_px = ((state.view.end_s - state.view.start_s) * rate_hz) / width;
  const closest = transform.window / 32; // between which there is nothing to see
  const hop = Math.max(closest, 2 ** Math.floor(Math.log2(per_px)));
  for (let each = hop * 64; each >= hop; each /= 2) {
    const span = COLUMNS * each;
    const first = Math.max(0, Math.floor((state.view.start_s * rate_hz) / span));
    const last = Math.min(Math.ceil((state.view.end_s * rate_hz) / span), Math.ceil(length / span));
    const missing = [];
    for (let index = first; index < last; index += 1) {
      const key = `${keyOf(transform)} ${each} ${index}`;
      const about = { ...transform, hop: each, first: index * COLUMNS, columns: COLUMNS + 1 };
      const found = tiles.get(key);
      if (!found) missing.push({ key, about });
      else if (top !== undefined) {
        keep(key, found); // used last
        const [left, right] = [x((index * span) / rate_hz), x((index * span + (COLUMNS + 1) * each) / rate_hz)];
        context.drawImage(imageOf(found, top, transform), left, 0, right - left, height);
      }
    }
    if (each === hop) wanted.push(...missing);
  }
  worker.postMessage({ wanted });
}

/** @type {(transform: Transform) => string} */
const keyOf = ({ window, size, bins }) => `${window} ${size} ${bins}`;

/** Keep a tile; of too many, those that were not used for longest go. @type {(key: string, tile: Tile) => void} */
function keep(key, tile) {
  tiles.delete(key);
  tiles.set(key, tile);
  for (const oldest of tiles.keys()) {
    if (tiles.size <= MOST_TILES) break;
    tiles.delete(oldest);
  }
}

/** A tile -> its image in today's colours, made once.
 * @type {(tile: Tile, top: number, transform: Transform) => OffscreenCanvas} */
function imageOf(tile, top, transform) {
  const { range_db, scale, high_hz } = state.picture;
  const look = `${top} ${range_db} ${scale} ${high_hz} ${colours.light}`;
  if (!tile.image || tile.look !== look) {
    const axis = scaleOf(state.picture);
    const binOf = (/** @type {number} */ place) => (hertzAt(axis, place) * transform.size) / rate_hz;
    tile.image = colour(tile.levels, COLUMNS + 1, transform.bins, ROWS, binOf, shades(top));
    tile.look = look;
  }
  return tile.image;
}

/** Brightest level of the recording -> colour of each level. @type {(top: number) => Uint32Array} */
function shades(top) {
  const top_db = Math.max(FLOOR_DB + top * LEVEL_DB, QUIETEST_TOP_DB);
  const floor_db = top_db - state.picture.range_db;
  byId("floor").textContent = `dark below ${Math.round(floor_db)} dBFS`;
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const share = (FLOOR_DB + level * LEVEL_DB - floor_db) / state.picture.range_db;
    return colours.table[Math.round(255 * Math.min(1, Math.max(0, share)))];
  });
}

/** Levels, column by column -> an image of `rows` rows, the highest frequency at the top.
 * @type {(levels: Uint8Array, columns: number, bins: number, rows: number, binOf: (place: number) => number, table: Uint32Array) => OffscreenCanvas} */
function colour(levels, columns, bins, rows, binOf, table) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0; row < rows; row += 1) {
    const bin = Math.min(Math.max(binOf(1 - (row + 0.5) / rows), 0), bins - 1);
    const [low, high] = [Math.floor(bin), Math.min(Math.floor(bin) + 1, bins - 1)];
    const share = bin - low;
    for (let column = 0; column < columns; column += 1) {
      const at = column * bins;
      pixels[row * columns + column] = table[Math.round(levels[at + low] * (1 - share) + levels[at + high] * share)];
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// As the model hears it

/** @type {(context: CanvasRenderingContext2D, x: ToPixels, height: number) => void} */
function paintHeard(context, x, height) {
  if (heard === null) heard = fetchHeard(turn);
  if (heard instanceof Promise) return;
  const { levels, bands, frames, hop_s, top } = heard;
  const look = `${state.picture.range_db} ${colours.light}`;
  if (heard.look !== look) {
    const bandOf = (/** @type {number} */ place) => place * (bands + 1) - 1; // the peaks of bands are evenly spaced in mel
    const table = shades(top);
    heard.images = [];
    for (let first = 0; first < frames; first += COLUMNS) {
      const columns = Math.min(COLUMNS + 1, frames - first);
      const part = levels.subarray(first * bands, (first + columns) * bands);
      heard.images.push({ first, columns, image: colour(part, columns, bands, ROWS, bandOf, table) });
    }
    heard.look = look;
  }
  for (const { first, columns, image } of heard.images) {
    const edge = (/** @type {number} */ frame) => x((frame - 0.5) * hop_s); // a frame is centred at its time
    context.drawImage(image, edge(first), 0, edge(first + columns) - edge(first), height);
  }
}

/** @type {(asked: number) => Promise<void>} */
async function fetchHeard(asked) {
  try {
    const { content, headers } = await bytes(`${pathOf(state.current.id)}/spectrogram`);
    const number = (/** @type {string} */ name) => Number(headers.get(name));
    const [bands, frames] = [number("x-bands"), number("x-frames")];
    if (asked !== turn) return; // another recording was opened meanwhile
    const levels = new Uint8Array(content.length);
    for (let band = 0; band < bands; band += 1)
      for (let frame = 0; frame < frames; frame += 1) levels[frame * bands + band] = content[band * frames + frame];
    heard = { levels, bands, frames, hop_s: number("x-hop-s"), top: number("x-top"), look: "", images: [] };
    draw();
  } catch (error) {
    if (asked !== turn) return;
    alarm(error.message);
    await pause(AGAIN_MS); // it may be drawn sixty times a second
    if (asked === turn) heard = null;
  }
}

/** Tint what spoke for the label, also where it was silence, and darken the rest; full tint from the 95th percentile.
 * @type {(overlay: Service.Explanation, context: CanvasRenderingContext2D, x: ToPixels, height: number, scale: Scale) => void} */
function paintOverlay({ values, high_hz, low_hz, from_s, to_s }, context, x, height, scale) {
  const spoke = values.flat().filter((value) => value > 0).sort((a, b) => a - b);
  const top = spoke[Math.floor(0.95 * (spoke.length - 1))] ?? 1;
  const up = (/** @type {number} */ hertz) => height * (1 - Math.min(1, Math.max(0, placeOf(scale, hertz))));
  values.forEach((row, band) => {
    const [upper, lower] = [up(high_hz[band]), up(low_hz[band])];
    if (lower - upper <= 0) return; // above what is shown
    row.forEach((value, column) => {
      const [left, right] = [x(from_s[column]), x(to_s[column])];
      const light = Math.sqrt(Math.min(1, Math.max(0, value) / top));
      for (const tint of [`rgb(0 0 0 / ${0.7 * (1 - light)})`, `rgb(110 215 255 / ${0.45 * light})`]) {
        context.fillStyle = tint;
        context.fillRect(left, upper, right - left + 0.3, lower - upper + 0.3);
      }
    });
  });
}
