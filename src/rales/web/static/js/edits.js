// Every change of the cycles goes through here: it can be undone, and is saved. As long as the sound of the recording
// is not in the player none is possible, so that no label is given to something else than what is heard.

import { byId, tell } from "./dom.js";
import { same, save } from "./saving.js";
import { state, update } from "./state.js";

const MOST_STEPS = 500;

const past = []; // steps {recording, before, after}, of all recordings of the session in the order they were made
const future = [];
let open = async () => {};
let leading = false;

/** `openRecording(id)` resolves once a recording can be heard: a step is taken back where it was made. */
export function start(openRecording) {
  open = openRecording;
}

/** Forget all steps: another session is shown. */
export function forget() {
  past.length = future.length = 0;
  buttons();
}

/** The open recording was `before`, and is now as it is shown, through something else than an edit. */
export function remember(before) {
  past.push({ recording: state.current.id, before, after: standing() });
  future.length = 0;
  buttons();
}

/** The cycles become these; `what` is said. -> whether that was possible; nothing happens for null. */
export function change(cycles, what, selected = state.selected) {
  if (!state.heard) return refused("Not before the recording can be heard");
  if (cycles === null) return refused("Not possible here");
  const before = standing();
  become({ cycles, selected });
  past.push({ recording: state.current.id, before, after: standing() });
  if (past.length > MOST_STEPS) past.shift();
  future.length = 0;
  buttons();
  tell(what);
  return true;
}

/** Take the last step back; -> whether that was possible. */
export const undo = () => travel(past, future, "after", "before", "Undone");

export const redo = () => travel(future, past, "before", "after", "Done again");

async function travel(from, to, here, there, what) {
  const step = from.at(-1);
  if (!step || leading || (!state.heard && step.recording === state.current?.id)) return false;
  if (step.recording !== state.current?.id) {
    leading = true;
    await open(step.recording).finally(() => (leading = false));
    if (!state.heard || state.current?.id !== step.recording) return false;
  }
  from.pop();
  if (!same(state.cycles, step[here].cycles)) {
    for (const steps of [past, future])
      steps.splice(0, steps.length, ...steps.filter(({ recording }) => recording !== step.recording));
    buttons();
    return refused("It was changed elsewhere since; its history has what was saved");
  }
  to.push(step);
  become(step[there]);
  buttons();
  tell(what);
  return true;
}

const standing = () => ({ cycles: state.cycles, selected: state.selected });

function become({ cycles, selected }) {
  const there = cycles.some((cycle) => cycle.id === selected);
  update({ cycles, selected: there ? selected : (cycles[0]?.id ?? null) });
  save();
}

function refused(sentence) {
  tell(sentence);
  return false;
}

function buttons() {
  byId("undo").disabled = past.length === 0;
  byId("redo").disabled = future.length === 0;
}
