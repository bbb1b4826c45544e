// The events on the picture, as outlines that leave the signal to be seen, and as marks below the cycles of the lane You.

import { byId, h } from "./dom.js";
import { KINDS, extent, isPoint } from "./events.js";
import { placeOf, xOf } from "./geometry.js";
import { scaleOf } from "./picture_settings.js";
import { state, when } from "./state.js";

const POINT_PX = 7; // as wide as a point is drawn
const FULL = [0.07, 0.94]; // of the height, for what has no frequencies
const EDGES = [["start_s", "left"], ["end_s", "right"], ["low_hz", "bottom"], ["high_hz", "top"]];
/** @typedef {{ event: SoundEvent, left: number, right: number }} Seen on the picture, in pixels */

export function start() {
  when(["events", "event", "view", "picture", "current", "heard"], show);
  new ResizeObserver(show).observe(byId("picture"));
}

function show() {
  const width = byId("picture").clientWidth;
  if (!width || !state.picture) return;
  const seen = (state.current ? state.events : [])
    .map((event) => ({ event, left: xOf(state.view, width, event.start_s), right: xOf(state.view, width, event.end_s) }))
    .filter(({ left, right }) => right > -POINT_PX && left < width + POINT_PX);
  byId("events").replaceChildren(...seen.map(outline));
  byId("event-marks").replaceChildren(...seen.map(mark));
}

/** What an event is drawn as: "box", "point" or "turn". @type {(event: SoundEvent) => "turn" | "point" | "box"} */
const shapeOf = (event) => (KINDS[event.kind].sound === null ? "turn" : isPoint(event) ? "point" : "box");

/** @type {(seen: Seen) => HTMLElement} */
function outline({ event, left, right }) {
  const { words, sound } = KINDS[event.kind];
  const scale = scaleOf(state.picture);
  const place = (/** @type {number | null} */ hertz) => Math.min(1, Math.max(0, placeOf(scale, hertz ?? 0)));
  const [low, high] = event.low_hz === null ? FULL : [place(event.low_hz), place(event.high_hz)];
  const shape = shapeOf(event);
  const chosen = event.id === state.event;
  const wide = shape === "box" ? right - left : POINT_PX;
  const said = shape === "point" && !chosen ? null : h("u", {}, shape === "turn" ? "expiration" : words.toLowerCase());
  const look = `event ${shape} ${sound ?? ""}${chosen ? " chosen" : ""}`;
  const element = h("i", { className: look, title: `${words}, ${extent(event)}` }, said);
  element.dataset.event = event.id;
  Object.assign(element.style, {
    left: `${shape === "box" ? left : left - POINT_PX / 2}px`, width: `${Math.max(2, wide)}px`,
    ...(shape === "turn" ? {} : { bottom: `${100 * low}%`, height: `${100 * (high - low)}%` }),
  });
  if (chosen && shape === "box") {
    const edges = EDGES.filter(([edge]) => edge.endsWith("_s") || event.low_hz !== null);
    element.append(...edges.map(([edge, side]) => handle(edge, side)));
  }
  return element;
}

/** @type {(edge: string, side: string) => HTMLElement} */
function handle(edge, side) {
  const element = h("b", { className: `event-edge ${side}` });
  element.dataset.eventEdge = edge;
  return element;
}

/** @type {(seen: Seen) => HTMLElement} */
function mark({ event, left, right }) {
  const shape = shapeOf(event);
  const element = h("i", { className: `event-mark ${shape} ${KINDS[event.kind].sound ?? ""}` });
  Object.assign(element.style, { left: `${left}px`, width: `${shape === "box" ? Math.max(3, right - left) : 3}px` });
  return element;
}
