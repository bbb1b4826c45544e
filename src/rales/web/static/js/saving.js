// Every change is saved as it happens. What the service has not confirmed yet is kept by the browser too, so that
// neither a closed page nor a service that is away loses it; whoever saves from an older revision is asked first.

import { call, sendLast } from "./api.js";
import { alarm, byId } from "./dom.js";
import { scoreMissing } from "./scores.js";
import { EXAMPLE, asReader, state, update, updateLine, whoReads } from "./state.js";

const SOON_MS = 250; // several quick changes are saved once
const DRAFT = "rales-unsaved-";
const OLDEST_MS = 30 * 24 * 3600 * 1000; // of what is kept for a recording that this service does not have

// Annotations are told apart by the id of their recording, behind which a reader's round and name stand.
const bases = /** @type {Map<string, number>} */ (new Map()); // annotation -> the revision that its cycles were made from
const unsaved = /** @type {Map<string, Marks>} */ (new Map()); // annotation -> its newest {cycles, events} that the service has not confirmed
const asked = /** @type {Map<string, Marks>} */ (new Map()); // annotation -> those that were sent without an answer; the service may have them
const pending = new Set(); // annotations that are to be sent
const undrafted = new Set(); // annotations which the browser had no room for
let timer = 0;
let saving = Promise.resolve();
let reopen = /** @type {(recording: string, before: Standing) => Promise<void>} */ (async () => {});

/** `again(recording, before)` shows a recording as the service has it; an undo then brings `before` back.
 * @type {(again: (recording: string, before: Standing) => Promise<void>) => void} */
export function start(again) {
  reopen = again;
  addEventListener("pagehide", () => {
    for (const annotation of unsaved.keys()) sendLast("/annotations", body(annotation));
  });
  addEventListener("beforeunload", (event) => undrafted.size && event.preventDefault());
}

/** Send what was left when the page was closed the last time; resolves once that is done or has failed. */
export function sendLeft() {
  for (const key of Object.keys(localStorage).filter((each) => each.startsWith(DRAFT))) {
    const annotation = key.slice(DRAFT.length);
    try {
      const { cycles, events, base, sent, at_ms } = JSON.parse(localStorage.getItem(key));
      if (Date.now() - at_ms > OLDEST_MS) throw new RangeError("too old");
      unsaved.set(annotation, { cycles, events });
      bases.set(annotation, base);
      if (sent) asked.set(annotation, sent);
      pending.add(annotation);
    } catch {
      localStorage.removeItem(key);
    }
  }
  return saveNow();
}

/** The cycles that are shown are those of this revision. @type {(recording: string, revision: number) => void} */
export function based(recording, revision) {
  bases.set(annotationOf(recording), revision);
}

/** -> the cycles and events of a recording that are not saved yet, null if all are; `revision` is one that was just heard
 * of.
 * @type {(recording: string, revision: number) => Marks | null} */
export function newer(recording, revision) {
  const annotation = annotationOf(recording);
  const marks = unsaved.get(annotation);
  if (marks) return marks;
  return revision < (bases.get(annotation) ?? 0) && isShown(annotation) ? plain(state) : null;
}

/** Save soon. */
export function save() {
  const recording = state.current.id;
  if (recording === EXAMPLE) return void (byId("saved").textContent = "Example: nothing is kept");
  byId("saved").textContent = "Saving …";
  const annotation = annotationOf(recording);
  unsaved.set(annotation, plain(state));
  pending.add(annotation);
  draft(annotation);
  clearTimeout(timer);
  timer = setTimeout(saveNow, SOON_MS);
}

/** Save what is not saved yet; resolves once that is done or has failed. */
export function saveNow() {
  clearTimeout(timer);
  for (const annotation of pending) saving = saving.then(() => send(annotation));
  pending.clear();
  return saving;
}

/** Nothing of a recording is to be saved any more: it was removed, or another state of it was chosen.
 * @type {(recording: string) => void} */
export function dismiss(recording) {
  const kept = [...unsaved.keys(), ...Object.keys(localStorage).filter((key) => key.startsWith(DRAFT)).map((key) => key.slice(DRAFT.length))];
  for (const annotation of new Set(kept)) if (partsOf(annotation).recording === recording) drop(annotation);
}

/** @type {(annotation: string) => void} */
function drop(annotation) {
  for (const memory of [unsaved, asked, pending, undrafted]) memory.delete(annotation);
  localStorage.removeItem(DRAFT + annotation);
}

/** @type {(recording: string) => string} */
const annotationOf = (recording) => [recording, whoReads()].filter(Boolean).join(" ");

/** -> {recording, round, reader}, the last two of a reader alone.
 * @type {(annotation: string) => { recording: string, round?: number, reader?: string }} */
function partsOf(annotation) {
  const [recording, round, ...name] = annotation.split(" ");
  return name.length ? { recording, round: Number(round), reader: name.join(" ") } : { recording };
}

/** @type {(annotation: string) => boolean} */
const isShown = (annotation) => Boolean(state.current) && annotationOf(state.current.id) === annotation;

/** @type {<Part extends { id: string }>(part: Part) => Omit<Part, "id">} */
const withoutId = ({ id, ...rest }) => rest;
/** @type {(standing: { cycles: Cycle[], events: SoundEvent[] }) => Marks} */
const plain = ({ cycles, events }) => ({ cycles: cycles.map(withoutId), events: events.map(withoutId) });
/** Of one that is not saved. @type {(annotation: string) => Sent.Annotation} */
const body = (annotation) => ({ ...partsOf(annotation), .../** @type {Marks} */ (unsaved.get(annotation)), base: bases.get(annotation) });

/** Keep what is not saved in the browser. @type {(annotation: string) => void} */
function draft(annotation) {
  const { cycles, events, base } = body(annotation);
  try {
    const kept = { cycles, events, base, sent: asked.get(annotation), at_ms: Date.now() };
    localStorage.setItem(DRAFT + annotation, JSON.stringify(kept));
    undrafted.delete(annotation);
  } catch {
    undrafted.add(annotation); // no room; then the browser asks before the page is closed
  }
}

/** @type {(annotation: string) => Promise<void>} */
async function send(annotation) {
  const marks = unsaved.get(annotation);
  if (!marks) return;
  const [message, earlier] = [body(annotation), asked.get(annotation)];
  asked.set(annotation, marks);
  draft(annotation);
  try {
    const { revision, facts } = await call("POST", "/annotations", message);
    confirmed(annotation, marks, revision);
    updateLine(facts, annotation.slice(facts.id.length + 1));
    if (isShown(annotation)) await scoreMissing();
  } catch (error) {
    if (error.status !== 409) return notSaved(annotation, error);
    asked.delete(annotation); // this one was not taken
    if (earlier) asked.set(annotation, earlier);
    return settle(annotation, message.base ?? 0);
  }
}

/** @type {(annotation: string, marks: Marks, revision: number) => void} */
function confirmed(annotation, marks, revision) {
  bases.set(annotation, revision);
  const now = unsaved.get(annotation);
  if (!now || now === marks) drop(annotation);
  else {
    asked.delete(annotation);
    draft(annotation); // changed meanwhile; it goes along with the next save
  }
  if (!isShown(annotation)) return;
  update({ current: { ...state.current, revision } });
  byId("saved").textContent = unsaved.has(annotation) ? "Saving …" : "Saved";
}

/** @type {(annotation: string, error: Error & { status?: number }) => void} */
function notSaved(annotation, error) {
  if (!unsaved.has(annotation)) return; // it was removed meanwhile
  if (error.status === 404) {
    unsaved.delete(annotation); // the browser goes on keeping it: this may be a service with another folder
    if (!isShown(annotation)) return;
  } else pending.add(annotation); // goes along with the next change
  if (isShown(annotation)) byId("saved").textContent = "Not saved";
  alarm(`Not saved: ${error.message}`);
}

/** Somebody else has saved since: that may have been this page, unheard; else the person chooses.
 * @type {(annotation: string, base: number) => Promise<void>} */
async function settle(annotation, base) {
  try {
    const { recording, ...who } = partsOf(annotation);
    const theirs = await call("GET", asReader(`/recordings/${recording}`, who));
    const [mine, sent] = [unsaved.get(annotation), asked.get(annotation)];
    if (!mine) return; // it was removed meanwhile
    const own = theirs.revision === base + 1 && sent && same(theirs, sent);
    const choice = own ? "mine" : await choose(theirs, mine);
    if (choice === "mine") {
      bases.set(annotation, theirs.revision);
      return send(annotation);
    }
    if (choice === "theirs") {
      const before = { cycles: state.cycles, selected: state.selected, events: state.events, event: state.event };
      const open = isShown(annotation);
      drop(annotation);
      if (open) await reopen(recording, before);
      return;
    }
  } catch (error) {
    return notSaved(annotation, error);
  }
  pending.add(annotation); // asked again with the next change
  byId("saved").textContent = "Not saved";
}

/** What the service has and what is here -> "theirs", "mine", or "" for neither yet.
 * @type {(theirs: Service.RecordingDetail, mine: Marks) => Promise<string>} */
function choose(theirs, mine) {
  const dialog = byId("conflict");
  byId("conflict-title").textContent = `${theirs.name} was changed elsewhere`;
  byId("conflict-theirs").textContent = `Theirs, revision ${theirs.revision}: ${summary(theirs)}`;
  byId("conflict-mine").textContent = `Mine, not saved: ${summary(mine)}`;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** @type {(marks: Marks) => string} */
function summary({ cycles, events = [] }) {
  const sure = cycles.filter((cycle) => cycle.confirmed).length;
  const marked = events.length ? `, ${events.length} ${events.length === 1 ? "event" : "events"}` : "";
  return `${cycles.length} ${cycles.length === 1 ? "cycle" : "cycles"}, ${sure} confirmed${marked}`;
}

/** Whether two states, {cycles, events}, say the same. @type {(one: Marks, other: Marks) => boolean} */
export function same(one, other) {
  /** @type {(marks: Marks) => string} */
  const key = ({ cycles, events = [] }) => JSON.stringify([
    cycles.map((c) => [c.start_s.toFixed(3), c.end_s.toFixed(3), c.label, Boolean(c.confirmed), Boolean(c.unusable), c.note ?? ""]),
    events.map((e) => [e.kind, e.start_s.toFixed(3), e.end_s.toFixed(3), e.low_hz?.toFixed(1), e.high_hz?.toFixed(1)]),
  ]);
  return key(one) === key(other);
}
