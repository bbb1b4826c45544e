// The review: cycle after cycle, the least certain first, then the next recording of the list. A cycle that it lands on
// plays in a loop, and a label leads on.

import { isUndecided } from "./blind.js";
import { LABELS } from "./classes.js";
import * as cycles from "./cycles.js";
import { byId, say, tell } from "./dom.js";
import { change, undo } from "./edits.js";
import { whole } from "./listing.js";
import * as player from "./player.js";
import { listed } from "./queue.js";
import { openRecording, scored, setReviewed } from "./recordings.js";
import { EXAMPLE, selectedCycle, state, update } from "./state.js";

const seen = new Set(); // ids of the cycles and recordings that this round has led to
let leading = false;

/** @type {(on: boolean) => unknown} */
export function setReviewing(on) {
  update({ reviewing: on });
  byId("review").setAttribute("aria-pressed", on);
  player.setLooping(on);
  if (!on) {
    player.pause();
    return tell("Review ended");
  }
  tell("Review: a label leads to the next cycle");
  return nextDoubt();
}

/** Give the selected cycle a label; in a review that leads on. @type {(name: string) => void} */
export function label(name) {
  judge((cycle) => change(cycles.relabel(state.cycles, cycle.id, name), `Cycle ${numberOf(cycle)}: ${LABELS.words(name)}, confirmed`));
}

/** The key of a class: it becomes the label, or one of several independent ones that the cycle has or has not.
 * @type {(name: string) => unknown} */
export function press(name) {
  if (!LABELS.independent) return label(name);
  const cycle = selectedCycle();
  if (!cycle) return say("No cycle is selected");
  const become = LABELS.toggled(cycle.label, name);
  return change(cycles.relabel(state.cycles, cycle.id, become), `Cycle ${numberOf(cycle)}: ${LABELS.words(become)}, confirmed`);
}

export function setUnusable() {
  judge((cycle) => change(cycles.setUnusable(state.cycles, cycle.id, !cycle.unusable),
    `Cycle ${numberOf(cycle)}: ${cycle.unusable ? "usable again" : "unusable"}`));
}

/** Take the label as it is, and go on; this begins a review. */
export async function accept() {
  const cycle = selectedCycle();
  if (!cycle) return say("No cycle is selected");
  if (!state.reviewing) {
    update({ reviewing: true });
    byId("review").setAttribute("aria-pressed", true);
    player.setLooping(true);
  }
  if (cycle.unusable) return nextDoubt();
  if (isUndecided(cycle)) return tell("It has no label yet: choose one");
  return label(cycle.label);
}

/** Take the last step back, wherever it was; in a review its cycle plays again. */
export async function stepBack() {
  if (!(await undo())) return;
  const cycle = selectedCycle();
  if (state.current.reviewed && state.cycles.some((each) => !each.confirmed)) await setReviewed(false);
  if (state.reviewing && cycle) land(cycle);
}

/** @type {(cycle: Cycle) => number} */
const numberOf = (cycle) => state.cycles.findIndex(({ id }) => id === cycle.id) + 1;

/** @type {(act: (cycle: Cycle) => boolean) => void} */
function judge(act) {
  const cycle = selectedCycle();
  if (!cycle) return void say("No cycle is selected");
  if (act(cycle) && state.reviewing) {
    seen.add(cycle.id);
    nextDoubt();
  }
}

/** The least certain cycle that nobody has confirmed and this round has not led to; after the last one of a recording
 * the next recording that is to be reviewed, in the order of the list. */
export async function nextDoubt() {
  if (leading) return; // a recording is being opened
  leading = true;
  try {
    await whole().catch(() => {}); // the least certain of all
    let cycle = leastCertain();
    while (!cycle) {
      if (state.current) await leaveRecording();
      const doubtful = (/** @type {Service.RecordingFacts} */ facts) => facts.uncertainty !== null || !facts.judged;
      const next = listed().find((facts) => !seen.has(facts.id) && !facts.reviewed && doubtful(facts));
      if (!next) {
        seen.clear();
        if (state.reviewing) setReviewing(false);
        return tell("No further uncertain cycle in this list; the next time it begins again");
      }
      seen.add(next.id);
      await openRecording(next.id);
      if (state.current?.id !== next.id) return; // it could not be opened, or another one was
      if (!next.judged && !state.cycles.length) return tell(`Not judged: ${next.quality_reason}`);
      await scored();
      cycle = leastCertain();
    }
    seen.add(cycle.id);
    land(cycle);
  } finally {
    leading = false;
  }
}

/** In a review a recording whose cycles are all confirmed has been reviewed. */
async function leaveRecording() {
  const { current } = state;
  seen.add(current.id);
  const done = state.cycles.length && state.cycles.every((cycle) => cycle.confirmed);
  if (state.reviewing && done && !current.reviewed && current.id !== EXAMPLE) await setReviewed(true);
}

/** -> the cycle of the open recording that comes next, undefined after the last one. For a reader the model is not asked
 * where it is unsure, and they follow one another. */
function leastCertain() {
  if (state.reader) return state.cycles.find((cycle) => !cycle.confirmed && !seen.has(cycle.id));
  const sure = (/** @type {Cycle} */ cycle) => state.scores[state.model]?.[cycles.timeKey(cycle)];
  return state.cycles
    .filter((cycle) => !cycle.confirmed && !seen.has(cycle.id) && sure(cycle))
    .sort((a, b) => LABELS.confidence(sure(a)) - LABELS.confidence(sure(b)))[0];
}

/** @type {(cycle: Cycle) => void} */
function land(cycle) {
  select(cycle);
  if (!state.reviewing) return;
  player.showCycle(cycle);
  player.playCycle(cycle, true);
}

/** @type {(by: number) => void} */
export function selectBy(by) {
  const at = state.cycles.findIndex((cycle) => cycle.id === state.selected);
  select(state.cycles[Math.min(Math.max(at + by, 0), state.cycles.length - 1)]);
}

/** @type {(cycle: Cycle | undefined) => void} */
function select(cycle) {
  if (!cycle) return;
  update({ selected: cycle.id });
  player.show(cycle.start_s);
  document.getElementById(`row-${cycle.id}`)?.scrollIntoView({ block: "nearest" });
  say(`Cycle ${numberOf(cycle)}, ${isUndecided(cycle) ? "not decided" : cycle.label}, ${cycle.start_s.toFixed(2)} to ${cycle.end_s.toFixed(2)} seconds`);
}
