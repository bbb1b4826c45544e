// Every change of the cycles goes through here: it can be undone, and is saved. As long as the sound of the recording
// is not in the player none is possible, so that no label is given to something else than what is heard.

import { byId, say } from "./dom.js";
import { save } from "./saving.js";
import { state, update } from "./state.js";

const past = [];
const future = [];

/** Forget the history: other cycles are shown. `before`, if given, is what an undo brings back. */
export function forget(before = null) {
  past.length = future.length = 0;
  if (before) past.push(before);
  buttons();
}

/** The cycles become these; `what` is said to screen readers. Nothing happens for null. */
export function change(cycles, what, selected = state.selected) {
  if (!state.heard) return say("Not before the recording can be heard");
  if (cycles === null) return say("Not possible here");
  past.push({ cycles: state.cycles, selected: state.selected });
  future.length = 0;
  become(cycles, selected);
  say(what);
}

export function undo() {
  travel(past, future, "Undone");
}

export function redo() {
  travel(future, past, "Done again");
}

function travel(from, to, what) {
  if (!state.heard || from.length === 0) return;
  const before = from.pop();
  to.push({ cycles: state.cycles, selected: state.selected });
  become(before.cycles, before.selected);
  say(what);
}

function become(cycles, selected) {
  const there = cycles.some((cycle) => cycle.id === selected);
  update({ cycles, selected: there ? selected : (cycles[0]?.id ?? null) });
  buttons();
  save();
}

function buttons() {
  byId("undo").disabled = past.length === 0;
  byId("redo").disabled = future.length === 0;
}
