// What the mouse, a finger or the wheel does on the picture and the lanes: choose, zoom, pull, move an edge, mark a cycle.

import * as cycles from "./cycles.js";
import { byId, focused } from "./dom.js";
import { change } from "./edits.js";
import { hertzAt, panned, timeAt, zoomFactor, zoomOf, zoomed } from "./geometry.js";
import { scaleOf } from "./picture_settings.js";
import * as player from "./player.js";
import { state, update, when } from "./state.js";

/** @typedef {{ x: number, target: HTMLElement, seconds: number, view: Service.Span, cycles: Cycle[], id: string | null }} Begun a press */
const STILL_PX = 4; // less is a click
const WHEEL_STEP = 1.0015; // a pixel of the wheel

export function start() {
  for (const id of /** @type {const} */ (["sight", "lanes"])) {
    byId(id).addEventListener("pointerdown", begin);
    byId(id).addEventListener("wheel", wheel, { passive: false });
  }
  byId("zoom").addEventListener("input", () => zoomTo(Number(byId("zoom").value)));
  when(["view"], () => {
    byId("zoom").value = `${state.current ? zoomOf(state.view, width(), state.current.duration_s) : 0}`;
  });
  byId("picture").addEventListener("pointermove", showPlace);
  byId("picture").addEventListener("pointerleave", () => (byId("place").textContent = ""));
}

const width = () => byId("picture").clientWidth;
/** @type {(event: MouseEvent) => number} */
const xOfEvent = (event) => event.clientX - byId("picture").getBoundingClientRect().left;
/** @type {(event: MouseEvent) => number} */
const secondsAt = (event) => timeAt(state.view, width(), xOfEvent(event));

/** `factor` times closer around a place, by default the playhead if it is seen, else the middle.
 * @type {(factor: number, x?: number | null) => void} */
export function zoomBy(factor, x = null) {
  if (!state.heard) return;
  const at = player.now();
  const seen = at >= state.view.start_s && at <= state.view.end_s;
  const middle = seen ? ((at - state.view.start_s) / (state.view.end_s - state.view.start_s)) * width() : width() / 2;
  update({ view: zoomed(state.view, width(), state.current.duration_s, x ?? middle, factor) });
}

/** @type {(zoom: number) => void} */
function zoomTo(zoom) {
  if (state.heard) zoomBy(zoomFactor(state.view, width(), state.current.duration_s, zoom));
}

/** @type {(event: WheelEvent) => void} */
function wheel(event) {
  if (!state.heard) return;
  event.preventDefault();
  const unit = [1, 16, width()][event.deltaMode]; // pixels, lines, pages
  const sideways = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
  if (Math.abs(sideways) > Math.abs(event.deltaY) || event.shiftKey)
    return update({ view: panned(state.view, width(), state.current.duration_s, -sideways * unit) });
  zoomBy(WHEEL_STEP ** (-event.deltaY * unit), xOfEvent(event));
}

/** A press on the picture or a lane: what it becomes is told by where it began and how far it goes.
 * @type {(event: PointerEvent) => void} */
function begin(event) {
  if (!state.heard || event.button !== 0 || xOfEvent(event) < 0) return;
  const zone = /** @type {HTMLElement} */ (event.currentTarget);
  const target = /** @type {HTMLElement} */ (event.target);
  zone.setPointerCapture(event.pointerId);
  event.preventDefault(); // selects no text
  focused()?.blur();
  const edge = /** @type {"start_s" | "end_s" | undefined} */ (target.dataset.edge);
  const begun = { x: event.clientX, target, seconds: secondsAt(event), view: state.view, cycles: state.cycles, id: state.selected };
  const makes = event.shiftKey || target.id === "you"; // the lane itself: no cycle is there
  const recording = state.current.id;
  let far = false;
  let last = /** @type {Cycle[] | null} */ (null); // the cycles as the drag would leave them
  let shown = state.cycles;
  // Another recording may have been opened meanwhile, or a key may have changed a label: then the drag has no part in it
  const isOver = () => !state.heard || state.current?.id !== recording || state.cycles !== shown;
  const move = (/** @type {PointerEvent} */ moved) => {
    if (moved.pointerId !== event.pointerId) return;
    far ||= Math.abs(moved.clientX - begun.x) > STILL_PX;
    if (!far || isOver()) return;
    if (edge && begun.id !== null) last = show(cycles.move(begun.cycles, begun.id, edge, secondsAt(moved), state.current.duration_s));
    else if (makes) last = show(cycles.add(begun.cycles, begun.seconds, secondsAt(moved), state.current.duration_s, state.limits.cycles));
    else update({ view: panned(begun.view, width(), state.current.duration_s, moved.clientX - begun.x) });
  };
  const end = (/** @type {PointerEvent} */ ended) => {
    if (ended.pointerId !== event.pointerId) return;
    for (const [kind, act] of Object.entries(heard)) zone.removeEventListener(kind, act);
    if (isOver()) return;
    if (!far && ended.type === "pointerup" && !edge) return choose(begun);
    if (!far || !(edge || makes)) return;
    update({ cycles: begun.cycles }); // so that an undo comes back to here
    if (ended.type === "pointerup") finish(last, begun, edge);
  };
  const show = (/** @type {Cycle[] | null} */ next) => {
    if (next) update({ cycles: next });
    shown = state.cycles;
    return next ?? last;
  };
  const heard = { pointermove: move, pointerup: end, pointercancel: end };
  for (const [kind, act] of Object.entries(heard)) zone.addEventListener(kind, act);
}

/** @type {(next: Cycle[] | null, begun: Begun, edge?: string) => void} */
function finish(next, begun, edge) {
  const fresh = next?.find((cycle) => !begun.cycles.some(({ id }) => id === cycle.id));
  change(next, edge ? "Boundary moved" : "Cycle added", fresh?.id ?? begun.id);
}

/** A click: the playhead goes there, and the cycle there is the selected one. @type {(begun: Begun) => void} */
function choose({ target, seconds }) {
  const cycle = state.cycles.find(({ id }) => id === target.dataset.cycle)
    ?? state.cycles.find(({ start_s, end_s }) => start_s <= seconds && seconds < end_s);
  if (cycle) update({ selected: cycle.id });
  player.seek(seconds);
}

/** Time and frequency under the pointer. @type {(event: PointerEvent) => void} */
function showPlace(event) {
  if (!state.heard) return;
  const box = byId("picture").getBoundingClientRect();
  const hertz = hertzAt(scaleOf(state.picture), 1 - (event.clientY - box.top) / box.height);
  byId("place").textContent = `${secondsAt(event).toFixed(3)} s · ${Math.round(hertz)} Hz`;
}
