// Every change of the cycles and events goes through here: it can be undone, and is saved. As long as the sound of the recording
// is not in the player none is possible, so that no label is given to something else than what is heard.

import { byId, tell } from "./dom.js";
import { following } from "./events.js";
import { same, save } from "./saving.js";
import { state, update } from "./state.js";

const MOST_STEPS = 500;

/** @typedef {{ recording: string, before: Standing, after: Standing }} Step */
const past = /** @type {Step[]} */ ([]); // of all recordings of the session in the order they were made
const future = /** @type {Step[]} */ ([]);
let open = /** @type {(id: string) => Promise<void>} */ (async () => {});
let leading = false;

/** `openRecording(id)` resolves once a recording can be heard: a step is taken back where it was made.
 * @type {(openRecording: (id: string) => Promise<void>) => void} */
export function start(openRecording) {
  open = openRecording;
}

/** Forget all steps: another session is shown. */
export function forget() {
  past.length = future.length = 0;
  buttons();
}

/** The open recording was `before`, and is now as it is shown, through something else than an edit.
 * @type {(before: Standing) => void} */
export function remember(before) {
  past.push({ recording: state.current.id, before, after: standing() });
  future.length = 0;
  buttons();
}

/** The cycles become these; `what` is said. -> whether that was possible; nothing happens for null.
 * @type {(cycles: Cycle[] | null | undefined, what: string, selected?: string | null) => boolean} */
export const change = (cycles, what, selected = state.selected) => make(cycles && { cycles, selected }, what);

/** The events become these, and the labels of cycles that nobody has confirmed follow them.
 * @type {(events: SoundEvent[] | null, what: string, event?: string | null) => boolean} */
export const changeEvents = (events, what, event = state.event) =>
  make(events && { events, event, cycles: following(state.cycles, state.events, events) }, what);

/** What stands becomes the same with these parts.
 * @type {(parts: Partial<Standing> | null | undefined, what: string) => boolean} */
function make(parts, what) {
  if (!state.heard) return refused("Not before the recording can be heard");
  if (!parts) return refused("Not possible here");
  const before = standing();
  become({ ...before, ...parts });
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

/** @type {(from: Step[], to: Step[], here: "before" | "after", there: "before" | "after", what: string) => Promise<boolean>} */
async function travel(from, to, here, there, what) {
  const step = from.at(-1);
  if (!step || leading || (!state.heard && step.recording === state.current?.id)) return false;
  if (step.recording !== state.current?.id) {
    leading = true;
    await open(step.recording).finally(() => (leading = false));
    if (!state.heard || state.current?.id !== step.recording) return false;
  }
  from.pop();
  if (!same(state, step[here])) {
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

/** -> what an undo brings back. @type {() => Standing} */
export const standing = () => ({ cycles: state.cycles, selected: state.selected, events: state.events, event: state.event });

/** @type {(standing: Standing) => void} */
function become({ cycles, selected, events, event }) {
  const there = cycles.some((cycle) => cycle.id === selected);
  const marked = events.some(({ id }) => id === event);
  update({ cycles, events, selected: there ? selected : (cycles[0]?.id ?? null), event: marked ? event : null });
  save();
}

/** @type {(sentence: string) => false} */
function refused(sentence) {
  tell(sentence);
  return false;
}

function buttons() {
  byId("undo").disabled = past.length === 0;
  byId("redo").disabled = future.length === 0;
}
