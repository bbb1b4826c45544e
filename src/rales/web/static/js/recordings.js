// The list of recordings: how far each is, which to look at next, and opening one of them.

import { call, download } from "./api.js";
import { LABELS, colour } from "./classes.js";
import { timeKey, withId } from "./cycles.js";
import { alarm, ask, byId, clock, h, percent, say } from "./dom.js";
import { folderOf } from "./pairing.js";
import { forget } from "./edits.js";
import * as player from "./player.js";
import { based, dismiss, newer, saveNow } from "./saving.js";
import { scoreMissing } from "./scores.js";
import * as spectrogram from "./spectrogram.js";
import { later, state, update, when } from "./state.js";

const POLL_MS = 200; // for a recording that waits, and more for many
const LONGEST_POLL_MS = 2000;
let timer = 0;
let scoring = Promise.resolve();
let opened = 0; // counts, so that an answer for what has been left meanwhile is known as one
let opening = null; // id of the recording that is on its way, until it can be heard
let queue = []; // ids as the list had them when a recording was opened; an edit may move that one elsewhere

export function start() {
  when(["recordings", "current"], showList);
  when(["heard", "current"], showLoading);
  when(["cycles", "current"], () => (byId("export").disabled = !state.cycles.length && !state.current?.revision));
  for (const id of ["find", "show", "order"])
    byId(id).addEventListener("input", () => {
      queue = [];
      showList();
    });
  const findings = LABELS.findings.map(([value, words]) => h("option", { value }, words));
  byId("show").querySelector("[value=problem]").before(...findings);
  byId("reviewed").addEventListener("change", () => review(byId("reviewed").checked));
  byId("remove").addEventListener("click", remove);
  saveAs("export", (form) => `/recordings/${state.current.id}/export?format=${form}`);
  saveAs("export-all", (form) => `/sessions/${state.session}/export?format=${form}`);
}

/** Ask for the session's list again, and again while something waits. */
export async function refresh() {
  clearTimeout(timer);
  if (!state.session) return update({ recordings: [] });
  const { session } = state;
  const { recordings } = await call("GET", `/sessions/${session}`);
  if (session !== state.session) return;
  const known = new Map(state.recordings.map((facts) => [facts.id, facts]));
  update({ recordings: recordings.map((facts) => later(known.get(facts.id), facts)) }); // saved while that was asked
  const open = recordings.find((facts) => facts.id === state.current?.id);
  if (open && open.status !== state.current.status) await showAnswers(open.id, opened);
  const waiting = recordings.filter((facts) => facts.status === "waiting").length;
  const pause_ms = Math.min(POLL_MS * waiting, LONGEST_POLL_MS);
  if (waiting) timer = setTimeout(() => refresh().catch(() => {}), pause_ms);
}

/** Open a recording: its sound, its picture, its cycles. What was open cannot be heard or judged from here on. */
export async function openRecording(id) {
  const number = (opened += 1);
  const name = title(state.recordings.find((facts) => facts.id === id) ?? { path: "", name: "the recording" });
  const focused = document.activeElement?.closest("#bench") ? document.activeElement : null;
  focused?.blur(); // a part that is out of use would take the keys
  opening = id;
  queue = listed().map((facts) => facts.id);
  leave(`Loading ${name} …`);
  try {
    await saveNow();
    if (!(await showAnswers(id, number))) return;
    localStorage.setItem(`rales-open-${state.session}`, id);
    spectrogram.load(id).catch((error) => number === opened && alarm(error.message));
    await player.load(id);
    if (number === opened && document.activeElement === document.body) focused?.focus();
  } catch (error) {
    if (number !== opened || error.name === "AbortError") return;
    const sentence = `${name} could not be loaded; open it again to try once more. ${error.message}`;
    if (state.current?.id === id) leave(sentence);
    else close();
    alarm(sentence);
  }
  if (number === opened) opening = null;
  showLoading();
}

/** Whether a recording is open or on its way. */
export const isOpen = () => Boolean(state.current || opening);

/** Empty the player; `sentence` says why there is nothing. */
function leave(sentence) {
  byId("loading").textContent = sentence;
  player.empty();
  spectrogram.empty();
  showLoading();
}

/** Until the recording that was opened last can be heard, its sound and its cycles are out of use, and as long as another
 * one is shown in its place, so is everything else about that one. */
function showLoading() {
  byId("loading").hidden = state.heard;
  byId("sight").setAttribute("aria-busy", opening !== null);
  byId("bench").disabled = !state.heard;
  byId("head-tools").disabled = opening !== null && opening !== state.current?.id;
}

/** Resolves once the models that are shown have answered for the recording that was opened last. */
export const scored = () => scoring;

/** Show none: the session was left, or what was open is no more. */
export function close() {
  opened += 1;
  opening = null;
  leave("");
  forget();
  update({ current: null, cycles: [], selected: null });
  showHead();
}

/** Show the open recording as the service has it; an undo brings `before` back. */
export async function reopen(id, before) {
  if (state.current?.id === id && (await showAnswers(id, opened))) forget(before);
}

/** Show what models and people say of a recording; -> false if another one was opened meanwhile.
 *
 * Cycles that are not saved yet, or were changed while the answer was on its way, stay with their history. */
async function showAnswers(id, number) {
  if (opening !== null && opening !== id) return false;
  const before = state.current?.id === id ? state.cycles : null;
  const current = await call("GET", `/recordings/${id}`);
  if (number !== opened) return false;
  const scores = {};
  for (const [model, rows] of Object.entries(current.scores)) {
    scores[model] = Object.fromEntries(rows.map((row) => [timeKey(row), row]));
  }
  const mine = newer(id, current.revision);
  const unchanged = before?.length && current.revision === state.current.revision;
  if (before && (mine || unchanged || state.cycles !== before)) {
    update({ current: { ...current, revision: state.current.revision }, scores });
  } else {
    const cycles = (mine ?? current.cycles).map(withId);
    if (!mine) based(id, current.revision);
    forget();
    update({ current, scores, cycles, selected: cycles[0]?.id ?? null });
  }
  showHead();
  if (current.status === "ready") scoring = scoreMissing().catch((error) => alarm(error.message));
  return true;
}

/** Open the recording after (1) or before (-1) the open one, as the list had them when that one was opened. */
export function step(by) {
  const open = opening ?? state.current?.id;
  const shown = listed().map((facts) => facts.id);
  const ids = [...queue.filter((id) => id === open || shown.includes(id)), ...shown.filter((id) => !queue.includes(id))];
  const next = ids[ids.indexOf(open) + by];
  if (next) openRecording(next);
  else say("No further recording");
}

export async function review(reviewed) {
  if (!state.current) return;
  await call("PATCH", `/recordings/${state.current.id}`, { reviewed });
  byId("reviewed").checked = reviewed;
  state.current.reviewed = reviewed;
  say(reviewed ? "Reviewed" : "Not reviewed");
  await refresh();
}

async function remove() {
  const { current } = state;
  const sure = await ask(`Remove ${title(current)}?`, null, null, "Remove");
  if (!sure) return;
  await call("DELETE", `/recordings/${current.id}`);
  dismiss(current.id);
  close();
  await refresh();
}

function showHead() {
  const { current } = state;
  byId("recording").hidden = !current;
  byId("empty").hidden = Boolean(current);
  if (!current) return;
  byId("name").replaceChildren(...titled(current));
  const waits = { waiting: "waits for the model", failed: current.problem, ready: "" }[current.status];
  const source = {
    person: "cycles as you saved them",
    annotation: "cycles of the annotation",
    segment: "cycles found in the sound",
    window: "no breath found: equal windows",
  }[current.source];
  const sound = current.judged ? current.quality_reason : `Not judged: ${current.quality_reason}`;
  const facts = [clock(current.duration_s), `${current.rate_hz} Hz`, source, sound, waits];
  byId("facts").textContent = facts.filter(Boolean).join(" · ");
  byId("notes").textContent = current.notes.map((note) => `${note}.`).join(" ");
  byId("notes").hidden = !current.notes.length;
  byId("reviewed").checked = current.reviewed;
  byId("saved").textContent = current.revision ? `Revision ${current.revision}` : "";
}

/** -> the recordings that the filters let through, in the order chosen. */
export function listed() {
  const find = byId("find").value.trim().toLowerCase();
  const filters = {
    all: () => true,
    open: (facts) => !facts.reviewed,
    done: (facts) => facts.reviewed,
    problem: (facts) => facts.status === "failed" || !facts.judged,
  };
  for (const [value, , names] of LABELS.findings)
    filters[value] = (facts) => names.some((name) => facts.findings[name]);
  const orders = {
    added: () => 0,
    name: (a, b) => title(a).localeCompare(title(b), undefined, { numeric: true }),
    doubt: (a, b) => a.reviewed - b.reviewed || a.judged - b.judged || (b.uncertainty ?? -1) - (a.uncertainty ?? -1),
  };
  return state.recordings
    .filter((facts) => title(facts).toLowerCase().includes(find) && filters[byId("show").value](facts))
    .sort(orders[byId("order").value]);
}

function showList() {
  const shown = listed();
  const all = state.recordings.length;
  const reviewed = state.recordings.filter((facts) => facts.reviewed).length;
  const waiting = state.recordings.filter((facts) => facts.status === "waiting").length;
  byId("filters").hidden = all < 2;
  byId("all").hidden = all === 0;
  const parts = [`${reviewed} of ${all} reviewed`];
  if (shown.length < all) parts.unshift(`${shown.length} shown`);
  if (waiting) parts.push(`${waiting} wait for the model`);
  byId("count").textContent = all ? parts.join(" · ") : "";
  const focused = document.activeElement?.dataset?.recording;
  byId("list").replaceChildren(...shown.map(entry));
  if (focused) byId("list").querySelector(`[data-recording="${focused}"]`)?.focus();
}

function entry(facts) {
  const open = facts.id === state.current?.id;
  const button = h("button", { type: "button", className: "entry", onclick: () => openRecording(facts.id) },
    h("span", { className: "entry-name" }, ...titled(facts)),
    h("span", { className: "entry-facts soft" }, ...about(facts)));
  button.dataset.recording = facts.id;
  if (open) button.setAttribute("aria-current", "true");
  return h("li", { className: facts.reviewed ? "reviewed" : "" }, button);
}

/** A recording -> its name, after the folder in which it came. */
const title = (facts) => folderOf(facts.path) + facts.name;
const titled = (facts) => [h("span", { className: "folder" }, folderOf(facts.path)), facts.name];

function about(facts) {
  if (facts.status === "waiting") return [facts.ahead ? `waits, ${facts.ahead} before it` : "the model listens …"];
  if (facts.status === "failed") return [h("span", { className: "bad" }, facts.problem)];
  const counts = LABELS.names.filter((name) => facts.findings[name]).map((name) =>
    colour(h("span", { className: "badge small", title: LABELS.words(name) },
      `${facts.findings[name]} ${LABELS.letters(name)}`), name));
  const doubt = facts.uncertainty === null ? null : h("span", {}, `up to ${percent(facts.uncertainty)} unsure`);
  const done = facts.reviewed ? h("span", {}, "✓ reviewed") : null;
  const note = facts.notes.length ? h("span", {}, facts.notes.join("; ")) : null;
  return [quality(facts), note, ...counts, doubt, done].filter(Boolean);
}

/** What is wrong with the sound: why there is no class, or what is to be known beside one. */
function quality(facts) {
  if (!facts.judged) return h("span", { className: "bad" }, `Not judged: ${facts.quality_reason}`);
  return facts.quality_reason ? h("span", {}, facts.quality_reason) : null;
}

function saveAs(id, path) {
  const choice = byId(id);
  for (const option of [...choice.options]) if (option.value && !LABELS.forms.includes(option.value)) option.remove();
  choice.addEventListener("change", async () => {
    const form = choice.value;
    choice.value = "";
    await saveNow();
    if (form) download(path(form));
  });
}
