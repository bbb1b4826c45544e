// Keyboard shortcuts. They can be switched off, and never take a key from a field that is being filled in.

import { isUndecided } from "./blind.js";
import { LABELS } from "./classes.js";
import * as cycles from "./cycles.js";
import { byId, h, say, tell } from "./dom.js";
import { change, redo } from "./edits.js";
import * as acts from "./event_acts.js";
import { otherLevel } from "./listening.js";
import { nextPreset } from "./picture_settings.js";
import * as player from "./player.js";
import { zoomBy } from "./pointing.js";
import { setReviewed, step } from "./recordings.js";
import { accept, label, nextDoubt, press, selectBy, setReviewing, setUnusable, stepBack } from "./review.js";
import { EXAMPLE, selectedCycle, state, update } from "./state.js";

const NUDGE_S = 0.02;
const NEW_S = 1; // of a cycle that is added
const CLOSER = 1.5;

const KEYS = /** @type {[string, string, () => unknown][]} */ ([
  ["v", "review: begin or end", () => setReviewing(!state.reviewing)],
  ["Escape", "end marking, let go of the event, end the review", leave],
  ["Enter", "in a review: take the label and go on; else play the selected cycle", enter],
  ...LABELS.keyed.map((name, i) => [`${i + 1}`, `label: ${LABELS.words(name).toLowerCase()}; in a review, go on`, () => press(name)]),
  ...(LABELS.independent ? [["0", `label: ${LABELS.normal}`, () => label(LABELS.normal)]] : []),
  ["x", "unusable or not; in a review, go on", setUnusable],
  ["u", "next uncertain cycle, then the next recording", nextDoubt],
  ["c", "confirm the label", () => withCycle(confirm)],
  ["Space", "play or pause", player.playPause],
  ["l", "loop the cycle", () => player.setLooping(!state.looping)],
  ["ArrowDown", "next cycle", () => selectBy(1)],
  ["ArrowUp", "previous cycle", () => selectBy(-1)],
  ["ArrowRight", "half a second on", () => player.seek(player.now() + 0.5)],
  ["ArrowLeft", "half a second back", () => player.seek(player.now() - 0.5)],
  ["[", "start earlier", () => nudge("start_s", -NUDGE_S)],
  ["]", "start later", () => nudge("start_s", NUDGE_S)],
  ["{", "end earlier", () => nudge("end_s", -NUDGE_S)],
  ["}", "end later", () => nudge("end_s", NUDGE_S)],
  ["s", "split at the playhead", split],
  ["m", "merge with the next cycle", merge],
  ["a", "add a cycle at the playhead", add],
  ["Delete", "delete the selected event, else the cycle", () => acts.removeEvent() || remove()],
  ["e", "mark events on the picture, or no longer", () => acts.setMarking(!state.marking)],
  ["k", "mark the next kind of event", acts.nextKind],
  ["d", "mark an event at the playhead", () => acts.markHere()],
  ["t", "expiration begins at the playhead", acts.markTurn],
  ["g", "select the next event", acts.nextEvent],
  [",", "event earlier", () => acts.nudge(-1)],
  [".", "event later", () => acts.nudge(1)],
  ["y", "take the label that its events say", acts.takeLabel],
  ["f", "next band: wide, lung, bell", nextBand],
  ["q", "loudness: original level, or all recordings alike", otherLevel],
  ["p", "next picture: wheeze, crackle, model", nextPreset],
  ["w", "why? on or off", () => byId("explain").click()],
  ["z", "show the whole cycle", () => withCycle(player.showCycle)],
  ["+", "zoom in", () => zoomBy(CLOSER)],
  ["-", "zoom out", () => zoomBy(1 / CLOSER)],
  ["n", "next recording", () => step(1)],
  ["b", "recording before", () => step(-1)],
  ["r", "reviewed or not", () => state.current?.id !== EXAMPLE && setReviewed(!byId("reviewed").checked)],
  ["?", "this help", () => byId("help").showModal()],
]);
const BUTTONS = {
  play: player.playPause, split, merge, add, delete: remove, undo: stepBack, redo, skip: nextDoubt, accept,
  unusable: setUnusable, review: () => setReviewing(!state.reviewing),
};
const WITHOUT_RECORDING = ["n", "b", "u", "?", "p"]; // also while a recording loads
const TYPED_IN = "input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea";

export function start() {
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  byId("loop").addEventListener("click", () => player.setLooping(!state.looping));
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  const more = [["Ctrl Z", "undo, also in the recording before"], ["Ctrl Shift Z", "redo"]];
  byId("keys").replaceChildren(...[...KEYS, ...more].map(([key, what]) =>
    h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, what))));
  byId("keys-on").checked = localStorage.getItem("rales-keys") !== "off";
  byId("keys-on").addEventListener("change", () => localStorage.setItem("rales-keys", byId("keys-on").checked ? "on" : "off"));
  addEventListener("keydown", pressed);
  // what was pressed with the mouse gives the keys back, so that Enter and Space mean what they say here; before it acts,
  // for a dialog hands the focus back to what had it
  addEventListener("click", ({ pointerType, target }) =>
    pointerType && /** @type {Element} */ (target).closest(".bench button, .segments input, [aria-haspopup=dialog]")?.blur(),
  { capture: true });
}

/** @type {(event: KeyboardEvent) => void} */
function pressed(event) {
  const where = /** @type {HTMLInputElement} */ (event.target);
  if (document.querySelector("dialog[open]") || byId("recordings-view").hidden || where.matches(TYPED_IN)) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    return void (event.shiftKey ? redo() : stepBack());
  }
  if (where.matches("select") || where.closest(":popover-open")) return;
  const typed = event.getModifierState("AltGraph"); // how many keyboards write [ and {
  if (((event.ctrlKey || event.metaKey || event.altKey) && !typed) || !byId("keys-on").checked) return;
  const name = event.key === " " ? "Space" : event.key;
  const pressing = where.matches("button, summary, a") && (name === "Space" || name === "Enter");
  const sliding = where.matches("input") && (name.startsWith("Arrow") || (name === "Space" && where.type === "checkbox"));
  const key = KEYS.find(([each]) => each === name || (each.length === 1 && each === name.toLowerCase()));
  if (!key || pressing || sliding || (!state.heard && !WITHOUT_RECORDING.includes(key[0]))) return;
  event.preventDefault();
  key[2]();
}

const most = () => state.limits.cycles;

/** @type {(act: (cycle: Cycle) => unknown) => void} */
function withCycle(act) {
  const cycle = selectedCycle();
  if (cycle) act(cycle);
  else say("No cycle is selected");
}

function leave() {
  if (state.marking) acts.setMarking(false);
  else if (state.event) update({ event: null });
  else if (state.reviewing) setReviewing(false);
}

function enter() {
  if (state.reviewing) accept();
  else withCycle((cycle) => player.playCycle(cycle));
}

/** @type {(cycle: Cycle) => unknown} */
function confirm(cycle) {
  if (isUndecided(cycle)) return tell("It has no label yet: choose one");
  return change(cycles.relabel(state.cycles, cycle.id, cycle.label), "Confirmed");
}

function nextBand() {
  const bands = [...document.querySelectorAll(/** @type {"input"} */ ("[name=band]"))].slice(0, -1); // without one's own
  bands[(bands.findIndex((each) => each.checked) + 1) % bands.length].click();
}

/** @type {(edge: "start_s" | "end_s", by: number) => void} */
function nudge(edge, by) {
  withCycle((cycle) =>
    change(cycles.move(state.cycles, cycle.id, edge, cycle[edge] + by, state.current.duration_s), "Boundary moved"));
}

function split() {
  withCycle((cycle) => change(cycles.split(state.cycles, cycle.id, player.now(), most()), "Split"));
}

function merge() {
  withCycle((cycle) => change(cycles.merge(state.cycles, cycle.id), "Merged with the next"));
}

function remove() {
  withCycle((cycle) => change(cycles.remove(state.cycles, cycle.id), "Cycle deleted"));
}

function add() {
  if (!state.current) return;
  const found = cycles.add(state.cycles, player.now(), player.now() + NEW_S, state.current.duration_s, most());
  const fresh = found?.find((cycle) => !state.cycles.includes(cycle));
  change(found, "Cycle added", fresh?.id);
}
