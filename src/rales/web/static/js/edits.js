// Every change of the cycles goes through here: it can be undone, is saved, and the model is asked about new stretches.

import { call } from "./api.js";
import { timeKey } from "./cycles.js";
import { alarm, byId, say } from "./dom.js";
import { state, update } from "./state.js";

const past = [];
const future = [];

/** Forget the history: another recording was opened. */
export function forget() {
  past.length = future.length = 0;
  buttons();
}

/** The cycles become these; `what` is said to screen readers. Nothing happens for null. */
export function change(cycles, what, selected = state.selected) {
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
  const before = from.pop();
  if (!before) return;
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

const newest = new Map(); // recording -> its annotation {recording, cycles}, sent or not
const pending = new Map(); // those of them that are to be sent
let timer = 0;
let saving = Promise.resolve();

/** Save soon; several quick changes are saved once. */
function save() {
  byId("saved").textContent = "Saving …";
  clearTimeout(timer);
  const recording = state.current.id;
  newest.set(recording, { recording, cycles: state.cycles.map(({ id, ...cycle }) => cycle) });
  pending.set(recording, newest.get(recording));
  timer = setTimeout(saveNow, 250);
}

/** Save what is not saved yet; resolves once everything is. */
export function saveNow() {
  clearTimeout(timer);
  for (const body of pending.values()) saving = saving.then(() => send(body));
  pending.clear();
  return saving;
}

async function send(body) {
  try {
    await call("POST", "/annotations", body);
    byId("saved").textContent = pending.size ? "Saving …" : "Saved";
    if (state.current?.id === body.recording) await scoreMissing();
  } catch (error) {
    if (newest.get(body.recording) === body) pending.set(body.recording, body); // goes along with the next change
    byId("saved").textContent = "Not saved";
    alarm(`Not saved: ${error.message}`);
  }
}

/** Leaving the page in the quarter of a second before a change is saved loses nothing. */
export function start() {
  addEventListener("pagehide", () => {
    for (const body of pending.values())
      navigator.sendBeacon("/annotations", new Blob([JSON.stringify(body)], { type: "application/json" }));
  });
}

/** Ask each model that is shown about the cycles it has not answered for. */
export async function scoreMissing() {
  const { current } = state;
  for (const model of [state.model, state.compare].filter(Boolean)) {
    const known = state.scores[model] ?? {};
    const missing = state.cycles.filter((cycle) => !(timeKey(cycle) in known));
    if (missing.length === 0) continue;
    const spans = missing.map(({ start_s, end_s }) => ({ start_s, end_s }));
    const answer = await call("POST", `/recordings/${current.id}/scores`, { model, cycles: spans });
    if (state.current?.id === current.id) keepScores(model, answer.cycles);
  }
}

export function keepScores(model, cycles) {
  const known = { ...(state.scores[model] ?? {}) };
  for (const cycle of cycles) known[timeKey(cycle)] = cycle;
  update({ scores: { ...state.scores, [model]: known } });
}
