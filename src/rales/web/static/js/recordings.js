// The recordings of the session: opening one of them, going on to the next, and what stands at its head.

import { call, download } from "./api.js";
import { LABELS } from "./classes.js";
import { timeKey, withId } from "./cycles.js";
import { alarm, ask, byId, clock, focused, h, say } from "./dom.js";
import { forget, remember } from "./edits.js";
import { named } from "./events.js";
import * as facts from "./facts.js";
import * as player from "./player.js";
import { PLACES, listed, start as startQueue, title, titled } from "./queue.js";
import { based, dismiss, newer, saveNow } from "./saving.js";
import { scoreMissing } from "./scores.js";
import { EXAMPLE, asReader, mergeLines, pathOf, state, update, updateLine, when } from "./state.js";

let scoring = Promise.resolve();
const marking = new Map(); // id -> whether it is reviewed, until the service has heard of it
let asked = /** @type {Service.RecordingFacts | null} */ (null); // line for which the answers of the open recording were asked for
let opened = 0; // counts, so that an answer for what has been left meanwhile is known as one
let opening = /** @type {string | null} */ (null); // id of the recording that is on its way, until it can be heard
let queue = /** @type {string[]} */ ([]); // ids as the list had them when a recording was opened; an edit may move that one elsewhere

export function start() {
  when(["heard", "current"], showLoading);
  when(["cycles", "current"], showExports);
  when(["level", "current"], showFacts);
  when(["recordings", "current"], followLine);
  startQueue(openRecording, () => (queue = []));
  byId("reviewed").addEventListener("change", () => setReviewed(byId("reviewed").checked));
  byId("remove").addEventListener("click", remove);
  byId("print-report").addEventListener("click", printReport);
  byId("export-segments").hidden = LABELS.independent; // of which a cycle may have several
  for (const what of /** @type {const} */ (["project", "segments"]))
    byId(`export-${what}`).addEventListener("click", async () => {
      await saveNow();
      download(`/sessions/${state.session}/${what}/export`);
    });
  saveAs("export", (form) => download(asReader(`/recordings/${state.current.id}/export?format=${form}`)));
  saveAs("export-all", (form) => download(asReader(`/sessions/${state.session}/export?format=${form}`)));
}

/** The open recording is reviewed if its line says so, which may be known from another tab, or later than what was asked
 * for when it was opened; and once the model has answered for it, what it says is shown. */
function followLine() {
  const { current } = state;
  const line = current && state.recordings.find(({ id }) => id === current.id);
  if (!line) return;
  current.reviewed = marking.get(current.id) ?? line.reviewed;
  byId("reviewed").checked = current.reviewed;
  if (line.status === current.status || asked === line) return;
  asked = line;
  showAnswers(line.id, opened).catch(() => {}); // its next line asks again
}

/** Open a recording: its sound, its picture, its cycles. What was open cannot be heard or judged from here on.
 * @type {(id: string) => Promise<void>} */
export async function openRecording(id) {
  const number = (opened += 1);
  if (state.current?.id === EXAMPLE && id !== EXAMPLE) forget(); // its edits are of no use behind a real recording
  const other = { path: "", name: id === EXAMPLE ? "an example" : "the recording" };
  const name = title(state.recordings.find((line) => line.id === id) ?? other);
  const used = focused()?.closest(".bench") ? focused() : null;
  used?.blur(); // a part that is out of use would take the keys
  opening = id;
  queue = listed().map((line) => line.id);
  leave(`Loading ${name} …`);
  try {
    await saveNow();
    if (number !== opened) return;
    const sound = player.fetchSound(id);
    if (!(await showAnswers(id, number))) return;
    if (id !== EXAMPLE) localStorage.setItem(`rales-open-${state.session}`, id);
    await player.load(sound);
    if (number === opened && document.activeElement === document.body) used?.focus();
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

/** Without a recording the instrument shows a simulated one, so that there is something to try. */
export async function showExample() {
  if (!state.recordings.length && !isOpen() && state.current?.id !== EXAMPLE) await openRecording(EXAMPLE);
}

/** Whether a recording of the session is open or on its way. */
export const isOpen = () => (opening ?? state.current?.id ?? EXAMPLE) !== EXAMPLE;

/** Empty the player; `sentence` says why there is nothing. @type {(sentence: string) => void} */
function leave(sentence) {
  byId("loading").textContent = sentence;
  player.empty();
  showLoading();
}

/** Until the recording that was opened last can be heard, its sound and its cycles are out of use, and as long as another
 * one is shown in its place, so is everything else about that one. */
function showLoading() {
  byId("loading").hidden = state.heard;
  byId("sight").setAttribute("aria-busy", opening !== null);
  for (const bench of document.querySelectorAll(/** @type {"fieldset"} */ (".bench"))) bench.disabled = !state.heard;
  byId("reviewed").disabled = Boolean(state.reader);
  byId("head-tools").disabled = byId("recording-facts").disabled =
    state.current?.id === EXAMPLE || (opening !== null && opening !== state.current?.id);
  showExports();
}

function showExports() {
  const { current } = state;
  const other = opening !== null && opening !== current?.id;
  const nothing = !current || current.id === EXAMPLE || other || (!state.cycles.length && !current.revision);
  for (const button of byId("export").querySelectorAll("button")) button.disabled = nothing;
}

/** Resolves once the models that are shown have answered for the recording that was opened last. */
export const scored = () => scoring;

/** Show none: the session was left, or what was open is no more. */
export function close() {
  opened += 1;
  opening = null;
  leave("");
  forget();
  update({ current: /** @type {any} */ (null), cycles: [], selected: null, events: [], event: null });
  showHead();
}

/** Show the open recording as the service has it; an undo brings `before` back.
 * @type {(id: string, before: Standing) => Promise<void>} */
export async function reopen(id, before) {
  if (state.current?.id === id && (await showAnswers(id, opened))) remember(before);
}

/** Show what models and people say of a recording; -> false if another one was opened meanwhile.
 *
 * Cycles that are not saved yet, or were changed while the answer was on its way, stay with their history.
 * @type {(id: string, number: number) => Promise<boolean>} */
async function showAnswers(id, number) {
  if (opening !== null && opening !== id) return false;
  const before = state.current?.id === id ? state : null;
  const [cyclesBefore, eventsBefore] = [state.cycles, state.events];
  const current = await call("GET", asReader(pathOf(id)));
  if (number !== opened) return false;
  const scores = /** @type {typeof state.scores} */ ({});
  for (const [model, rows] of Object.entries(current.scores)) {
    scores[model] = Object.fromEntries(rows.map((row) => [timeKey(row), row]));
  }
  const mine = newer(id, current.revision);
  const unchanged = before && cyclesBefore.length && current.revision === state.current.revision;
  const edited = state.cycles !== cyclesBefore || state.events !== eventsBefore;
  if (before && (mine || unchanged || edited)) {
    update({ current: { ...current, revision: state.current.revision }, scores });
  } else {
    const cycles = (mine ?? current).cycles.map(withId);
    const events = (mine?.events ?? current.events).map(named);
    if (!mine) based(id, current.revision);
    const view = { start_s: 0, end_s: current.duration_s };
    update({ current, scores, cycles, events, selected: cycles[0]?.id ?? null, event: null, ...(before ? {} : { view }) });
  }
  showHead();
  if (current.status === "ready") scoring = scoreMissing().catch((error) => alarm(error.message));
  return true;
}

/** Open the recording after (1) or before (-1) the open one, as the list had them when that one was opened.
 * @type {(by: 1 | -1) => void} */
export function step(by) {
  const open = opening ?? state.current?.id;
  const shown = listed().map((line) => line.id);
  const ids = [...queue.filter((id) => id === open || shown.includes(id)), ...shown.filter((id) => !queue.includes(id))];
  const next = ids[ids.indexOf(open) + by];
  if (next) openRecording(next);
  else say("No further recording");
}

/** @type {(reviewed: boolean) => Promise<void>} */
export async function setReviewed(reviewed) {
  const { current } = state;
  if (!current || state.reader) return; // a reader has reviewed what is decided
  marking.set(current.id, reviewed);
  try {
    updateLine(await call("PATCH", `/recordings/${current.id}`, { reviewed }), "");
  } finally {
    marking.delete(current.id);
    followLine();
  }
  say(reviewed ? "Reviewed" : "Not reviewed");
}

async function remove() {
  const { current } = state;
  const sure = await ask(`Remove ${title(current)}?`, null, null, "Remove");
  if (!sure) return;
  await call("DELETE", `/recordings/${current.id}`);
  dismiss(current.id);
  facts.dismiss(current.id);
  close();
  mergeLines([], [current.id]);
  showExample();
}

/** The report of the open recording, in a tab of its own. */
async function printReport() {
  const { id } = state.current;
  await Promise.all([saveNow(), facts.saveFacts()]);
  h("a", { href: asReader(`/recordings/${id}/report`), target: "_blank", rel: "noopener" }).click();
}

function showHead() {
  const { current } = state;
  byId("recording").hidden = !current;
  byId("empty").hidden = isOpen();
  byId("empty-words").textContent = current || opening
    ? "A simulated recording, to try: press Space to listen, 1 to 4 to label, v to review."
    : state.recordings.length ? "Choose a recording of the list." : "There is no recording yet.";
  if (!current) return;
  byId("name").replaceChildren(...titled(current));
  showFacts();
  byId("notes").textContent = current.notes.map((note) => `${note}.`).join(" ");
  byId("notes").hidden = !current.notes.length;
  byId("reviewed").checked = current.reviewed;
  byId("saved").textContent = current.revision ? `Revision ${current.revision}` : "";
}

function showFacts() {
  const { current } = state;
  if (!current) return;
  const waits = { waiting: "waits for the model", failed: current.problem, ready: "" }[current.status];
  const source = /** @type {Record<string, string>} */ ({
    person: "cycles as you saved them",
    annotation: "cycles of the annotation",
    segment: "cycles found in the sound",
    window: "no breath found: equal windows",
    simulated: "cycles as they were simulated",
  })[current.source];
  const sound = current.judged ? current.quality_reason : `Not judged: ${current.quality_reason}`;
  const shown = [PLACES[current.location] ?? current.location, current.device, `${current.rate_hz / 1000} kHz`, clock(current.duration_s), state.level, source, sound, waits];
  byId("facts").textContent = byId("facts").title = shown.filter(Boolean).join(" · ");
}

/** @type {Record<string, string>} */
const FORMS = { icbhi: "ICBHI .txt", csv: "CSV", audacity: "Audacity labels", raven: "Raven table" };

/** A button for every format that can say the labels.
 * @type {(id: "export" | "export-all", save: (form: string) => void) => void} */
function saveAs(id, save) {
  byId(id).replaceChildren(...LABELS.forms.map((form) =>
    h("button", { type: "button", value: form, onclick: async () => {
      await saveNow();
      save(form);
    } }, FORMS[form])));
}
