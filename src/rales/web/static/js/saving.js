// Every change is saved as it happens. What the service has not confirmed yet is kept by the browser too, so that
// neither a closed page nor a service that is away loses it; whoever saves from an older revision is asked first.

import { call } from "./api.js";
import { alarm, byId } from "./dom.js";
import { scoreMissing } from "./scores.js";
import { EXAMPLE, state, update, updateLine } from "./state.js";

const SOON_MS = 250; // several quick changes are saved once
const DRAFT = "rales-unsaved-";
const OLDEST_MS = 30 * 24 * 3600 * 1000; // of what is kept for a recording that this service does not have

const bases = new Map(); // recording -> the revision that its cycles were made from
const unsaved = new Map(); // recording -> its newest {cycles, events} that the service has not confirmed
const asked = new Map(); // recording -> those that were sent without an answer; the service may have them
const pending = new Set(); // recordings that are to be sent
const undrafted = new Set(); // recordings whose cycles the browser had no room for
let timer = 0;
let saving = Promise.resolve();
let reopen = async () => {};

/** `again(recording, before)` shows a recording as the service has it; an undo then brings `before` back. */
export function start(again) {
  reopen = again;
  addEventListener("pagehide", () => {
    for (const recording of unsaved.keys())
      navigator.sendBeacon("/annotations", new Blob([JSON.stringify(body(recording))], { type: "application/json" }));
  });
  addEventListener("beforeunload", (event) => undrafted.size && event.preventDefault());
}

/** Send what was left when the page was closed the last time; resolves once that is done or has failed. */
export function sendLeft() {
  for (const key of Object.keys(localStorage).filter((each) => each.startsWith(DRAFT))) {
    const recording = key.slice(DRAFT.length);
    try {
      const { cycles, events, base, sent, at_ms } = JSON.parse(localStorage.getItem(key));
      if (Date.now() - at_ms > OLDEST_MS) throw new RangeError("too old");
      unsaved.set(recording, { cycles, events });
      bases.set(recording, base);
      if (sent) asked.set(recording, sent);
      pending.add(recording);
    } catch {
      localStorage.removeItem(key);
    }
  }
  return saveNow();
}

/** The cycles that are shown are those of this revision. */
export function based(recording, revision) {
  bases.set(recording, revision);
}

/** -> the cycles and events of a recording that are not saved yet, null if all are; `revision` is one that was just heard
 * of. */
export function newer(recording, revision) {
  if (unsaved.has(recording)) return unsaved.get(recording);
  return revision < (bases.get(recording) ?? 0) && state.current?.id === recording ? plain(state) : null;
}

/** Save soon. */
export function save() {
  const recording = state.current.id;
  if (recording === EXAMPLE) return void (byId("saved").textContent = "Example: nothing is kept");
  byId("saved").textContent = "Saving …";
  unsaved.set(recording, plain(state));
  pending.add(recording);
  draft(recording);
  clearTimeout(timer);
  timer = setTimeout(saveNow, SOON_MS);
}

/** Save what is not saved yet; resolves once that is done or has failed. */
export function saveNow() {
  clearTimeout(timer);
  for (const recording of pending) saving = saving.then(() => send(recording));
  pending.clear();
  return saving;
}

/** Nothing of a recording is to be saved any more: it was removed, or another state of it was chosen. */
export function dismiss(recording) {
  for (const memory of [unsaved, asked, pending, undrafted]) memory.delete(recording);
  localStorage.removeItem(DRAFT + recording);
}

const withoutId = ({ id, ...rest }) => rest;
const plain = ({ cycles, events }) => ({ cycles: cycles.map(withoutId), events: events.map(withoutId) });
const body = (recording) => ({ recording, ...unsaved.get(recording), base: bases.get(recording) });

/** Keep what is not saved in the browser. */
function draft(recording) {
  const { cycles, events, base } = body(recording);
  try {
    const kept = { cycles, events, base, sent: asked.get(recording), at_ms: Date.now() };
    localStorage.setItem(DRAFT + recording, JSON.stringify(kept));
    undrafted.delete(recording);
  } catch {
    undrafted.add(recording); // no room; then the browser asks before the page is closed
  }
}

async function send(recording) {
  const marks = unsaved.get(recording);
  if (!marks) return;
  const [message, earlier] = [body(recording), asked.get(recording)];
  asked.set(recording, marks);
  draft(recording);
  try {
    const { revision, facts } = await call("POST", "/annotations", message);
    confirmed(recording, marks, revision);
    updateLine(facts);
    if (state.current?.id === recording) await scoreMissing();
  } catch (error) {
    if (error.status !== 409) return notSaved(recording, error);
    asked.delete(recording); // this one was not taken
    if (earlier) asked.set(recording, earlier);
    return settle(recording, message.base);
  }
}

function confirmed(recording, marks, revision) {
  bases.set(recording, revision);
  if (unsaved.get(recording) === marks) dismiss(recording);
  else {
    asked.delete(recording);
    draft(recording); // changed meanwhile; it goes along with the next save
  }
  if (state.current?.id !== recording) return;
  update({ current: { ...state.current, revision } });
  byId("saved").textContent = unsaved.has(recording) ? "Saving …" : "Saved";
}

function notSaved(recording, error) {
  if (error.status === 404) {
    unsaved.delete(recording); // the browser goes on keeping it: this may be a service with another folder
    if (state.current?.id !== recording) return;
  } else if (unsaved.has(recording)) pending.add(recording); // goes along with the next change
  if (state.current?.id === recording) byId("saved").textContent = "Not saved";
  alarm(`Not saved: ${error.message}`);
}

/** Somebody else has saved since: that may have been this page, unheard; else the person chooses. */
async function settle(recording, base) {
  try {
    const theirs = await call("GET", `/recordings/${recording}`);
    const sent = asked.get(recording);
    const own = theirs.revision === base + 1 && sent && same(theirs, sent);
    const choice = own ? "mine" : await choose(theirs, unsaved.get(recording));
    if (choice === "mine") {
      bases.set(recording, theirs.revision);
      return send(recording);
    }
    if (choice === "theirs") {
      const before = { cycles: state.cycles, selected: state.selected, events: state.events, event: state.event };
      const open = state.current?.id === recording;
      dismiss(recording);
      if (open) await reopen(recording, before);
      return;
    }
  } catch (error) {
    return notSaved(recording, error);
  }
  pending.add(recording); // asked again with the next change
  byId("saved").textContent = "Not saved";
}

/** What the service has and what is here -> "theirs", "mine", or "" for neither yet. */
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

function summary({ cycles, events = [] }) {
  const confirmed = cycles.filter((cycle) => cycle.confirmed).length;
  const marked = events.length ? `, ${events.length} ${events.length === 1 ? "event" : "events"}` : "";
  return `${cycles.length} ${cycles.length === 1 ? "cycle" : "cycles"}, ${confirmed} confirmed${marked}`;
}

/** Whether two states, {cycles, events}, say the same. */
export function same(one, other) {
  const key = ({ cycles, events = [] }) => JSON.stringify([
    cycles.map((c) => [c.start_s.toFixed(3), c.end_s.toFixed(3), c.label, Boolean(c.confirmed), Boolean(c.unusable)]),
    events.map((e) => [e.kind, e.start_s.toFixed(3), e.end_s.toFixed(3), e.low_hz?.toFixed(1), e.high_hz?.toFixed(1)]),
  ]);
  return key(one) === key(other);
}
