// What the mouse or a finger does to events on the picture: mark one, select it, move it or one of its edges. Comes before
// pointing.js, which gets what is none of that.

import { byId, focused } from "./dom.js";
import { changeEvents } from "./edits.js";
import { about, made } from "./event_acts.js";
import { KINDS, add, move, resize } from "./events.js";
import { hertzAt, timeAt } from "./geometry.js";
import { scaleOf } from "./picture_settings.js";
import { selectedEvent, state, update, when } from "./state.js";

const STILL_PX = 4; // less is a click

/** @typedef {(place: Place) => SoundEvent[] | null} Drag from where it is to the events that it leaves */

export function start() {
  byId("sight").addEventListener("pointerdown", begin, { capture: true });
  when(["marking"], () => (byId("sight").dataset.marking = state.marking ?? ""));
}

/** -> {seconds, hertz} under the pointer. @type {(event: PointerEvent) => Place} */
function placeOf(event) {
  const box = byId("picture").getBoundingClientRect();
  const up = Math.min(1, Math.max(0, 1 - (event.clientY - box.top) / box.height));
  return { seconds: timeAt(state.view, box.width, event.clientX - box.left), hertz: hertzAt(scaleOf(state.picture), up) };
}

/** @type {(event: PointerEvent) => void} */
function begin(event) {
  if (!state.heard || event.button !== 0) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const eventEdge = /** @type {Edge | undefined} */ (target.dataset.eventEdge);
  const id = target.closest("[data-event]")?.dataset.event ?? null;
  const [from, events, duration_s, kind] = [placeOf(event), state.events, state.current.duration_s, state.marking];
  const { event: chosen } = state;
  if (eventEdge && chosen !== null && id === chosen) {
    const value = (/** @type {Place} */ place) => (eventEdge.endsWith("_s") ? place.seconds : Math.round(place.hertz));
    follow(event, (place) => resize(events, chosen, eventEdge, value(place), duration_s), (next) => changeEvents(next, "Event changed"));
  } else if (kind && !event.shiftKey && !target.dataset.edge) {
    /** @type {Drag} */
    const make = (place) => add(events, kind, KINDS[kind].box ? from : place, place, about());
    follow(event, make, (next) => made(next, kind), { click: true });
  } else if (id !== null && id === chosen && selectedEvent()) {
    /** @type {Drag} */
    const make = ({ seconds, hertz }) => move(events, id, seconds - from.seconds, Math.round(hertz - from.hertz), duration_s);
    follow(event, make, (next) => changeEvents(next, "Event moved"));
  } else selectIfStill(event, id);
}

/** A drag: `make(place)` -> the events that it leaves, or null, which are shown and at its end given to `finish`; with
 * `click` also after one that did not move. Nothing is done where another recording was opened, or a key changed one.
 * @type {(event: PointerEvent, make: Drag, finish: (events: ReturnType<Drag>) => void, options?: { click?: boolean }) => void} */
function follow(event, make, finish, { click = false } = {}) {
  event.stopImmediatePropagation();
  event.preventDefault(); // selects no text
  focused()?.blur();
  const zone = byId("sight");
  zone.setPointerCapture(event.pointerId);
  const { events, current } = state;
  let shown = events;
  let last = /** @type {SoundEvent[] | null} */ (null);
  let far = false;
  const isOver = () => !state.heard || state.current?.id !== current.id || state.events !== shown;
  const moved = (/** @type {PointerEvent} */ at) => {
    if (at.pointerId !== event.pointerId) return;
    far ||= Math.hypot(at.clientX - event.clientX, at.clientY - event.clientY) > STILL_PX;
    if (!far || isOver()) return;
    const next = make(placeOf(at));
    if (next) update({ events: next });
    shown = state.events;
    last = next ?? last;
  };
  const ended = (/** @type {PointerEvent} */ at) => {
    if (at.pointerId !== event.pointerId) return;
    for (const [kind, act] of Object.entries(listeners)) zone.removeEventListener(kind, act);
    if (isOver()) return;
    if (shown !== events) update({ events }); // so that an undo comes back to here
    if (at.type !== "pointerup" || !(far || click)) return;
    finish(far ? last : make(placeOf(at)));
  };
  const listeners = { pointermove: moved, pointerup: ended, pointercancel: ended };
  for (const [kind, act] of Object.entries(listeners)) zone.addEventListener(kind, act);
}

/** A click selects the event under it, or none; a drag from there is one of pointing.js.
 * @type {(event: PointerEvent, id: string | null) => void} */
function selectIfStill(event, id) {
  const ended = (/** @type {PointerEvent} */ at) => {
    if (at.pointerId !== event.pointerId) return;
    for (const kind of /** @type {const} */ (["pointerup", "pointercancel"])) removeEventListener(kind, ended);
    const still = Math.hypot(at.clientX - event.clientX, at.clientY - event.clientY) <= STILL_PX;
    if (still && at.type === "pointerup" && (id === null || state.events.some((each) => each.id === id))) update({ event: id });
  };
  for (const kind of /** @type {const} */ (["pointerup", "pointercancel"])) addEventListener(kind, ended);
}
