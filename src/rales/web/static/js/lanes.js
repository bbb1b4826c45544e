// Under the picture, a lane for everyone who has said something of the cycles: you (solid once confirmed), the annotation
// file, the model (dashed, with its probability). On the picture itself there are only the edges, so that the signal is seen.

import { isBlind, isSeen, isUndecided, readerLanes } from "./blind.js";
import { LABELS, colour } from "./classes.js";
import { timeKey } from "./cycles.js";
import { byId, h, percent } from "./dom.js";
import { disagreement } from "./events.js";
import { xOf } from "./geometry.js";
import { state, when } from "./state.js";

const PADDING_PX = 6; // at each side of a block
const FRAME_PX = 15; // paddings and borders of a block together, and the gap to the next one
const pen = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
const widths = /** @type {Map<string, number>} */ (new Map()); // of words, in pixels
/**
 * A cycle of somebody in sight, in pixels.
 * @template {Service.MarkedCycle | Cycle} [Part=Service.MarkedCycle | Cycle]
 * @typedef {{ cycle: Part, index: number, left: number, right: number }} Seen
 */

export function start() {
  when(["cycles", "selected", "events", "scores", "model", "compare", "threshold", "view", "current", "readings"], show);
  new ResizeObserver(show).observe(byId("picture"));
}

function show() {
  const width = byId("picture").clientWidth;
  const file = state.current?.annotated ?? [];
  byId("file-row").hidden = !file.length;
  byId("compare-row").hidden = !state.compare;
  byId("compare-row").children[0].textContent = state.compare;
  byId("file-row").children[0].textContent = state.current?.source === "simulated" ? "Known" : "File";
  if (!width || !state.current) return;
  /** @type {<Part extends Service.MarkedCycle | Cycle>(cycles: Part[]) => Seen<Part>[]} */
  const seen = (cycles) => cycles
    .map((cycle, index) => ({ cycle, index, left: xOf(state.view, width, cycle.start_s), right: xOf(state.view, width, cycle.end_s) }))
    .filter(({ left, right }) => right > 0 && left < width);
  const cycles = seen(state.cycles);
  byId("you").replaceChildren(...cycles.map(yours));
  byId("file").replaceChildren(...seen(file.filter(isSeen)).map(ofFile));
  byId("reader-rows").replaceChildren(...readerLanes().flatMap(({ reader, cycles: decided }) => {
    const track = h("div", { className: "track" }, ...seen(decided).map(ofReader));
    return [h("span", { title: reader }, reader), track];
  }));
  byId("of-model").replaceChildren(...cycles.map((place) => ofModel(place, state.model)));
  byId("of-compare").replaceChildren(...(state.compare ? cycles.map((place) => ofModel(place, state.compare)) : []));
  showEdges(cycles);
}

/** A block with the first of `texts`, the longest one, for which the part in sight has room.
 * @type {(seen: Seen, label: string | null, className: string, ...texts: string[]) => HTMLElement} */
function block({ cycle, left, right }, label, className, ...texts) {
  const [before, after] = [Math.max(0, -left), Math.max(0, right - byId("picture").clientWidth)]; // out of sight
  const room = right - left - before - after - FRAME_PX;
  const text = texts.find((words) => room >= widthOf(words)) ?? "";
  const element = h("i", { className: `block ${className}`, title: texts[0] }, text);
  if (label) colour(element, label);
  Object.assign(element.style, { left: `${left}px`, width: `${Math.max(1, right - left - 1)}px` });
  // the text stands, and is cut, where the block is seen
  if (text && before) element.style.paddingLeft = `${before + PADDING_PX}px`;
  if (text && after) element.style.paddingRight = `${after + PADDING_PX}px`;
  element.dataset.cycle = "id" in cycle ? cycle.id : "";
  return element;
}

/** @type {(words: string) => number} */
function widthOf(words) {
  let width = widths.get(words);
  if (width === undefined) {
    const { fontSize, fontFamily } = getComputedStyle(byId("you"));
    pen.font = `600 ${fontSize} ${fontFamily}`; // the heaviest of the lanes
    width = pen.measureText(words).width;
    widths.set(words, width);
  }
  return width;
}

/** @type {(place: Seen<Cycle>) => HTMLElement} */
function yours(place) {
  const { cycle, index } = place;
  const mark = cycle.unusable ? "unusable" : cycle.confirmed ? "✓" : "?";
  const chosen = cycle.id === state.selected ? " chosen" : "";
  const look = cycle.unusable ? "unusable" : cycle.confirmed ? "confirmed" : "open";
  const open = isUndecided(cycle);
  const words = cycle.unusable || open ? "" : LABELS.words(cycle.label);
  const said = disagreement(cycle, state.events);
  const letters = (cycle.unusable ? "×" : open ? "?" : LABELS.letters(cycle.label)) + (said ? " ≠" : "");
  const long = [index + 1, words, mark, said ? `≠ events: ${LABELS.words(said).toLowerCase()}` : ""].filter(Boolean).join(" ");
  return block(place, open ? null : cycle.label, `${look}${chosen}${said ? " disagreeing" : ""}`,
    long, `${index + 1} ${letters}`, letters, letters.replace(" ", ""), letters.split(" ")[0]);
}

/** @type {(place: Seen) => HTMLElement} */
function ofFile(place) {
  const { label } = place.cycle;
  return block(place, label, "of-file", LABELS.words(label), LABELS.letters(label));
}

/** @type {(place: Seen) => HTMLElement} */
function ofReader(place) {
  return place.cycle.unusable ? block(place, null, "of-file", "unusable", "×") : ofFile(place);
}

/** @type {(place: Seen<Cycle>, model: string) => HTMLElement} */
function ofModel(place, model) {
  if (isBlind(place.cycle)) return block(place, null, "model", "hidden until you decide");
  const scores = state.scores[model]?.[timeKey(place.cycle)];
  if (!scores) return block(place, null, "model", "waits", "…");
  if (!scores.label) return block(place, null, "model", `not judged: ${scores.quality_reason}`, "–");
  const sure = LABELS.confidence(scores);
  const doubtful = sure < state.threshold ? " doubtful" : "";
  const letters = LABELS.letters(scores.label);
  return block(place, scores.label, `model${doubtful}`,
    `${LABELS.words(scores.label)} ${percent(sure)}`, `${letters} ${Math.round(sure * 100)}`, letters);
}

/** Thin lines between the cycles, a frame around the selected one, and handles at its edges.
 * @type {(places: Seen<Cycle>[]) => void} */
function showEdges(places) {
  const lines = places.flatMap(({ left, right }) => [left, right]).filter((x, i, all) => i === 0 || Math.abs(x - all[i - 1]) > 1);
  const parts = lines.map((x) => {
    const line = h("i", { className: "edge" });
    line.style.left = `${x}px`;
    return line;
  });
  const chosen = places.find(({ cycle }) => cycle.id === state.selected);
  if (chosen && state.heard) {
    const frame = h("i", { className: "frame" });
    Object.assign(frame.style, { left: `${chosen.left}px`, width: `${chosen.right - chosen.left}px` });
    parts.push(frame);
    for (const [edge, x] of /** @type {const} */ ([["start_s", chosen.left], ["end_s", chosen.right]])) {
      const handle = h("i", { className: "handle" });
      handle.dataset.edge = edge;
      handle.style.left = `${x}px`;
      parts.push(handle);
    }
  }
  byId("edges").replaceChildren(...parts);
}
