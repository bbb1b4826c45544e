// What a person does to events, by keys and buttons; edits of the list itself are rules of events.js.

import { LABELS } from "./classes.js";
import { relabel } from "./cycles.js";
import { byId, say, tell } from "./dom.js";
import { change, changeEvents } from "./edits.js";
import { KINDS, add, cycleAt, disagreement, extent, move, remove } from "./events.js";
import * as player from "./player.js";
import { selectedCycle, selectedEvent, state, update } from "./state.js";

const KEPT = "rales-event-kind";
const STEP_S = 0.005;
const NEW_S = 0.2; // of a box that is made by a key
const NEW_HZ = [200, 800];

/** What the rules of events must know of the recording. */
export const about = () => ({ cycles: state.cycles, duration_s: state.current.duration_s, most: state.limits.events });

/** @type {(kind: string) => EventKind} */
const known = (kind) => /** @type {EventKind} */ (kind in KINDS ? kind : "wheeze");

/** The kind that is marked next, kept by the browser. */
export const kindToMark = () => known(byId("event-kind").value);
export const keptKind = () => known(localStorage.getItem(KEPT) ?? "");

/** @type {(kind: EventKind) => void} */
export function chooseKind(kind) {
  byId("event-kind").value = kind;
  localStorage.setItem(KEPT, kind);
  if (state.marking) update({ marking: kind });
}

/** Begin or end that a drag or a click on the picture marks an event. @type {(on: boolean) => void} */
export function setMarking(on) {
  const { words, box } = KINDS[kindToMark()];
  update({ marking: on ? kindToMark() : null });
  tell(on ? `Mark ${words.toLowerCase()}: ${box ? "drag a box" : "click"} · Esc ends` : "Marking ended");
}

export function nextKind() {
  const kinds = Object.keys(KINDS);
  chooseKind(kinds[(kinds.indexOf(kindToMark()) + 1) % kinds.length]);
  tell(`Mark: ${KINDS[kindToMark()].words}`);
}

/** An event was made, in these events: it is the selected one.
 * @type {(next: SoundEvent[] | null, kind: EventKind) => void} */
export function made(next, kind) {
  const { words, box } = KINDS[kind];
  if (next === null) return void tell(`${box ? "Too small for an event" : "Not possible here"}, or there already`);
  const fresh = /** @type {SoundEvent} */ (next.find((event) => !state.events.some(({ id }) => id === event.id)));
  const cycle = cycleAt(state.cycles, (fresh.start_s + fresh.end_s) / 2);
  const said = `${words} at ${fresh.start_s.toFixed(2)} s${cycle ? "" : ", outside every cycle"}`;
  if (changeEvents(next, said, fresh.id) && cycle) update({ selected: cycle.id });
}

/** Mark an event of a kind at the playhead. */
export function markHere(kind = kindToMark()) {
  if (!state.heard) return;
  const [low, high] = NEW_HZ;
  const from = { seconds: player.now(), hertz: low };
  made(add(state.events, kind, from, { seconds: from.seconds + NEW_S, hertz: high }, about()), kind);
}

export const markTurn = () => markHere("expiration");

/** @type {(steps: number) => void} */
export function nudge(steps) {
  const event = selectedEvent();
  if (!event) return say("No event is selected");
  changeEvents(move(state.events, event.id, steps * STEP_S, 0, state.current.duration_s), "Event moved");
}

/** -> whether there was a selected one. */
export function removeEvent() {
  const event = selectedEvent();
  if (event) changeEvents(remove(state.events, event.id), `${KINDS[event.kind].words} deleted`, null);
  return Boolean(event);
}

/** Select the next event of the recording, from the playhead on at first. */
export function nextEvent() {
  const at = state.events.findIndex(({ id }) => id === state.event);
  const later = state.events.findIndex(({ start_s }) => start_s >= player.now());
  const event = state.events[at < 0 ? Math.max(later, 0) : (at + 1) % state.events.length];
  if (!event) return say("No event is marked");
  select(event);
  say(`${KINDS[event.kind].words}, ${extent(event)}`);
}

/** @type {(event: SoundEvent) => void} */
export function select(event) {
  const cycle = cycleAt(state.cycles, (event.start_s + event.end_s) / 2);
  update({ event: event.id, ...(cycle ? { selected: cycle.id } : {}) });
  player.show(event.start_s);
}

/** The selected cycle gets the label that its events say. */
export function takeLabel() {
  const cycle = selectedCycle();
  const label = cycle && disagreement(cycle, state.events);
  if (!label) return say("The events of this cycle say nothing else");
  return change(relabel(state.cycles, cycle.id, label), `${LABELS.words(label)}, as its events say`);
}
