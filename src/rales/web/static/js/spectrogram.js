// The log-mel picture under the waveform: the stretch that the waveform shows, with the cycles, the band and the why.

import { bytes } from "./api.js";
import { byId } from "./dom.js";
import { band } from "./listening.js";
import { state, when } from "./state.js";

const TILE = 4096; // frames of one canvas; browsers limit their width
const MARKS_HZ = [4000, 2000, 1000, 500, 250];
const APART = 15; // pixels between two marks
// Dark to light through purple and orange: equal steps look equal, also without colour.
const STOPS = ["#000004", "#1c1044", "#4f127b", "#812581", "#b5367a", "#e55064", "#fb8761", "#fec287", "#fcfdbf"];

let tiles = [];
let shape = { bands: 80, frames: 0, hop_s: 0.01 };
let view = [0, 1];
let overlay = null; // explanation of one cycle
let playhead_s = 0;

export function start() {
  when(["cycles", "selected"], draw);
  for (const id of ["filter", "low", "high"]) byId(id).addEventListener("input", draw);
  new ResizeObserver(draw).observe(byId("picture"));
}

let asked = 0;
/** Take the picture away, and one that is on its way. */
export function empty() {
  asked += 1;
  tiles = [];
  overlay = null;
  byId("picture").width = byId("picture").width; // wipes it
}

/** Fetch and colour a recording's picture; until it comes there is none. */
export async function load(recording) {
  empty();
  const turn = asked;
  view = [0, state.current.duration_s];
  const { content, headers } = await bytes(`/recordings/${recording}/spectrogram`);
  if (turn !== asked) return; // another recording was opened meanwhile
  const number = (name) => Number(headers.get(name));
  shape = { bands: number("x-bands"), frames: number("x-frames"), hop_s: number("x-hop-s") };
  const palette = colours();
  tiles = [];
  for (let first = 0; first < shape.frames; first += TILE) tiles.push(tile(content, first, palette));
  draw();
}

/** Show another stretch of time. */
export function look(start_s, end_s) {
  view = [start_s, end_s];
  draw();
}

export function setPlayhead(seconds) {
  playhead_s = seconds;
  const place = (seconds - view[0]) / (view[1] - view[0]);
  const mark = byId("playhead");
  mark.hidden = !(place >= 0 && place <= 1);
  mark.style.left = `${place * 100}%`;
}

/** Lay an explanation over its cycle, or nothing for null. */
export function setOverlay(explanation) {
  overlay = explanation;
  draw();
}

/** A place on the picture, 0 left to 1 right -> seconds. */
export const timeAt = (place) => view[0] + place * (view[1] - view[0]);

function tile(content, first, palette) {
  const width = Math.min(TILE, shape.frames - first);
  const canvas = new OffscreenCanvas(width, shape.bands);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, shape.bands);
  const pixels = new Uint32Array(image.data.buffer);
  for (let band = 0; band < shape.bands; band += 1) {
    const from = (shape.bands - 1 - band) * shape.frames + first; // low bands lie at the bottom
    for (let x = 0; x < width; x += 1) pixels[band * width + x] = palette[content[from + x]];
  }
  context.putImageData(image, 0, 0);
  return { canvas, first, width };
}

/** -> 256 colours as the numbers that a canvas stores (alpha, blue, green, red). */
function colours() {
  const parts = STOPS.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, grey) => {
    const place = (grey / 255) * (parts.length - 1);
    const [low, high] = [parts[Math.floor(place)], parts[Math.ceil(place)]];
    const [red, green, blue] = low.map((value, i) => Math.round(value + (high[i] - value) * (place % 1)));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}

function draw() {
  const canvas = byId("picture");
  const sharp = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (width === 0 || !state.current || tiles.length === 0) return;
  canvas.width = width * sharp;
  canvas.height = height * sharp;
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  const x = (seconds) => ((seconds - view[0]) / (view[1] - view[0])) * width;
  for (const part of tiles) {
    const [left, right] = [x(part.first * shape.hop_s), x((part.first + part.width) * shape.hop_s)];
    if (right > 0 && left < width) context.drawImage(part.canvas, left, 0, right - left, height);
  }
  if (overlay) drawOverlay(context, x, height);
  drawBand(context, width, height);
  drawCycles(context, x, height);
  drawScale(context, height);
  setPlayhead(playhead_s);
}

/** Tint what spoke for the label, also where it was silence, and darken the rest; full tint from the 95th percentile. */
function drawOverlay(context, x, height) {
  const spoke = overlay.values.flat().filter((value) => value > 0).sort((a, b) => a - b);
  const top = spoke[Math.floor(0.95 * (spoke.length - 1))] ?? 1;
  overlay.values.forEach((row, band) => {
    const [upper, lower] = [y(overlay.high_hz[band], height), y(overlay.low_hz[band], height)];
    row.forEach((value, column) => {
      const [left, right] = [x(overlay.from_s[column]), x(overlay.to_s[column])];
      const light = Math.sqrt(Math.min(1, Math.max(0, value) / top));
      for (const colour of [`rgb(0 0 0 / ${0.7 * (1 - light)})`, `rgb(110 215 255 / ${0.45 * light})`]) {
        context.fillStyle = colour;
        context.fillRect(left, upper, right - left + 0.3, lower - upper + 0.3);
      }
    });
  });
}

/** Shade what the band-pass takes away. */
function drawBand(context, width, height) {
  const limits = band();
  if (limits === null) return;
  context.fillStyle = "rgb(0 0 0 / 0.55)";
  const [upper, lower] = [y(limits.high_hz, height), y(limits.low_hz, height)];
  context.fillRect(0, 0, width, upper);
  context.fillRect(0, lower, width, height - lower);
}

function drawCycles(context, x, height) {
  for (const cycle of state.cycles) {
    const [left, right] = [x(cycle.start_s), x(cycle.end_s)];
    const chosen = cycle.id === state.selected;
    context.strokeStyle = chosen ? "#ffffff" : "rgb(255 255 255 / 0.45)";
    context.lineWidth = chosen ? 2 : 1;
    context.setLineDash(chosen ? [] : [3, 3]);
    context.strokeRect(left, 1, right - left, height - 2);
  }
  context.setLineDash([]);
}

function drawScale(context, height) {
  context.font = "11px system-ui, sans-serif";
  let last = -APART;
  for (const mark of MARKS_HZ) {
    const at = y(mark, height);
    if (at - last < APART) continue;
    last = at;
    const text = mark < 1000 ? `${mark} Hz` : `${mark / 1000} kHz`;
    context.fillStyle = "rgb(0 0 0 / 0.6)";
    context.fillRect(0, at - 7, context.measureText(text).width + 8, 14);
    context.fillStyle = "#ffffff";
    context.fillText(text, 4, at + 4);
  }
}

/** Hertz -> height on the picture: Slaney's mel scale from 50 to 8,000 Hz, as the models' front-end has it. */
function y(hertz, height) {
  const [low, high] = [mel(50), mel(8000)];
  return height * (1 - (mel(Math.min(Math.max(hertz, 50), 8000)) - low) / (high - low));
}

const mel = (hertz) => (hertz < 1000 ? hertz / (200 / 3) : 15 + Math.log(hertz / 1000) / (Math.log(6.4) / 27));
