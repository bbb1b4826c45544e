// Keyboard shortcuts. They can be switched off, and never take a key from a field that is being filled in.

import { LABELS } from "./classes.js";
import * as cycles from "./cycles.js";
import { byId, h, say } from "./dom.js";
import { change, redo, undo } from "./edits.js";
import * as player from "./player.js";
import { listed, openRecording, review, scored, step } from "./recordings.js";
import { selectedCycle, state, update } from "./state.js";

const NUDGE_S = 0.02;

const KEYS = [
  ["Space", "play or pause", player.playPause],
  ["Enter", "play the selected cycle", () => withCycle((cycle) => player.playCycle(cycle))],
  ["l", "loop the cycle", () => player.setLooping(!state.looping)],
  ["ArrowDown", "next cycle", () => selectBy(1)],
  ["ArrowUp", "previous cycle", () => selectBy(-1)],
  ["ArrowRight", "half a second on", () => player.seek(player.now() + 0.5)],
  ["ArrowLeft", "half a second back", () => player.seek(player.now() - 0.5)],
  ...LABELS.keyed.map((name, i) => [`${i + 1}`, `label: ${name}`, () => press(name)]),
  ...(LABELS.independent ? [["0", `label: ${LABELS.normal}`, () => label(LABELS.normal)]] : []),
  ["c", "confirm the label", () => withCycle((cycle) => label(cycle.label))],
  ["[", "start earlier", () => nudge("start_s", -NUDGE_S)],
  ["]", "start later", () => nudge("start_s", NUDGE_S)],
  ["{", "end earlier", () => nudge("end_s", -NUDGE_S)],
  ["}", "end later", () => nudge("end_s", NUDGE_S)],
  ["s", "split at the playhead", split],
  ["m", "merge with the next cycle", merge],
  ["a", "add a cycle at the playhead", add],
  ["Delete", "delete the cycle", remove],
  ["u", "next uncertain cycle, then the next recording", nextDoubt],
  ["f", "band-pass on or off", () => byId("filter").click()],
  ["x", "explanation on or off", () => byId("explain").click()],
  ["+", "zoom in", () => player.zoom(Math.min(100, Number(byId("zoom").value) + 10))],
  ["-", "zoom out", () => player.zoom(Math.max(0, Number(byId("zoom").value) - 10))],
  ["n", "next recording", () => step(1)],
  ["b", "recording before", () => step(-1)],
  ["r", "reviewed or not", () => review(!byId("reviewed").checked)],
  ["?", "this help", () => byId("help").showModal()],
];
const BUTTONS = { play: player.playPause, split, merge, add, delete: remove, undo, redo, "next-doubt": nextDoubt };
const WITHOUT_RECORDING = ["n", "b", "u", "?"]; // also while a recording loads

export function start() {
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  byId("loop").addEventListener("click", () => player.setLooping(!state.looping));
  byId("zoom").addEventListener("input", () => player.zoom(Number(byId("zoom").value)));
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  const more = [["Ctrl Z", "undo"], ["Ctrl Shift Z", "redo"]];
  byId("keys").replaceChildren(...[...KEYS, ...more].map(([key, what]) =>
    h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, what))));
  byId("keys-on").checked = localStorage.getItem("rales-keys") !== "off";
  byId("keys-on").addEventListener("change", () => localStorage.setItem("rales-keys", byId("keys-on").checked ? "on" : "off"));
  addEventListener("keydown", pressed);
}

function pressed(event) {
  if (document.querySelector("dialog[open]")) return;
  const where = event.target;
  if (where.matches("input:not([type=checkbox]):not([type=range]), select, textarea")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    return void (event.shiftKey ? redo() : undo());
  }
  const typed = event.getModifierState("AltGraph"); // how many keyboards write [ and {
  if (((event.ctrlKey || event.metaKey || event.altKey) && !typed) || !byId("keys-on").checked) return;
  const name = event.key === " " ? "Space" : event.key;
  const pressing = where.matches("button, summary, a") && (name === "Space" || name === "Enter");
  const sliding = where.matches("input") && (name.startsWith("Arrow") || name === "Space");
  const key = KEYS.find(([each]) => each === name || (each.length === 1 && each === name.toLowerCase()));
  if (!key || pressing || sliding || (!state.heard && !WITHOUT_RECORDING.includes(key[0]))) return;
  event.preventDefault();
  key[2]();
}

const most = () => state.limits.cycles;

function withCycle(act) {
  const cycle = selectedCycle();
  if (cycle) act(cycle);
  else say("No cycle is selected");
}

function label(name) {
  withCycle((cycle) => change(cycles.relabel(state.cycles, cycle.id, name), `${LABELS.words(name)}, confirmed`));
}

/** The key of a class: it becomes the label, or one of several independent ones that the cycle has or has not. */
function press(name) {
  withCycle((cycle) => label(LABELS.independent ? LABELS.toggled(cycle.label, name) : name));
}

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
  const found = cycles.add(state.cycles, player.now(), state.current.duration_s, most());
  const fresh = found?.find((cycle) => !state.cycles.includes(cycle));
  change(found, "Cycle added", fresh?.id);
}

function selectBy(by) {
  const at = state.cycles.findIndex((cycle) => cycle.id === state.selected);
  select(state.cycles[Math.min(Math.max(at + by, 0), state.cycles.length - 1)]);
}

const seen = new Set(); // ids of the cycles and recordings that this round of the review has led to
let leading = false;

/** The least certain cycle that nobody has confirmed and this round has not led to; after the last one of a recording
 * the next recording that is to be reviewed, in the order of the list. */
async function nextDoubt() {
  if (leading) return; // a recording is being opened
  leading = true;
  try {
    let cycle = leastCertain();
    while (!cycle) {
      if (state.current) seen.add(state.current.id);
      const doubtful = (facts) => facts.uncertainty !== null || !facts.judged;
      const next = listed().find((facts) => !seen.has(facts.id) && !facts.reviewed && doubtful(facts));
      if (!next) {
        seen.clear();
        return say("No further uncertain cycle in this list; the next time it begins again");
      }
      seen.add(next.id);
      await openRecording(next.id);
      if (state.current?.id !== next.id) return; // it could not be opened, or another one was
      if (!next.judged && !state.cycles.length) return say(`Not judged: ${next.quality_reason}`);
      await scored();
      cycle = leastCertain();
    }
    seen.add(cycle.id);
    select(cycle);
  } finally {
    leading = false;
  }
}

/** -> the cycle of the open recording that comes next, undefined after the last one. */
function leastCertain() {
  const sure = (cycle) => state.scores[state.model]?.[cycles.timeKey(cycle)];
  return state.cycles
    .filter((cycle) => !cycle.confirmed && !seen.has(cycle.id) && sure(cycle))
    .sort((a, b) => LABELS.confidence(sure(a)) - LABELS.confidence(sure(b)))[0];
}

function select(cycle) {
  if (!cycle) return;
  update({ selected: cycle.id });
  player.show(cycle.start_s);
  document.getElementById(`row-${cycle.id}`)?.scrollIntoView({ block: "nearest" });
  say(`Cycle ${state.cycles.indexOf(cycle) + 1}, ${cycle.label}, ${cycle.start_s.toFixed(2)} to ${cycle.end_s.toFixed(2)} seconds`);
}
