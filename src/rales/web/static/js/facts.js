// The facts of the open recording: whose it is, from which site of the chest, by which device, and a note. They are saved as
// they are typed; what the service has not confirmed the browser keeps too, as it does with labels (saving.js).

import { call, sendLast } from "./api.js";
import { alarm, ask, byId, h } from "./dom.js";
import { PLACES, title } from "./queue.js";
import { EXAMPLE, state, update, updateLine, when } from "./state.js";

/** @typedef {"patient" | "location" | "device" | "note"} Field */
/** @typedef {{ [field in Field]?: string }} Said */
/** @typedef {{ said: Said, was: Said, base: number }} Draft of new facts, those that they replace, and their revision */
const FIELDS = { patient: "patient", location: "site", device: "device", note: "note" }; // and what people call them
const DEVICES = ["AKGC417L", "LittC2SE", "Litt3200", "Meditron", "Yunting"]; // of ICBHI 2017 and SPRSound
const SOON_MS = 500;
const DRAFT = "rales-facts-";
const OLDEST_MS = 30 * 24 * 3600 * 1000;

const unsaved = /** @type {Map<string, Draft>} */ (new Map()); // by recording
let timer = 0;
let saving = Promise.resolve();

export function start() {
  byId("fact-location").replaceChildren(h("option", { value: "" }, "not known"),
    ...Object.entries(PLACES).map(([value, words]) => h("option", { value }, words)));
  byId("chest").append(...Object.entries(PLACES).map(([value, words]) => h("label", { className: `site ${value}`, title: words },
    h("input", { type: "radio", name: "site", value, "aria-label": words, onchange: () => say("location", value) }))));
  for (const field of Object.keys(FIELDS)) {
    const input = byId(`fact-${field}`);
    input.addEventListener("input", () => say(field, input.value));
  }
  byId("fact-of-name").addEventListener("click", () => namedFields().forEach(([field, text]) => say(field, text)));
  when(["current", "reader"], show);
  when(["recordings", "current"], follow);
  addEventListener("pagehide", () => {
    for (const [id, facts] of unsaved) sendLast(pathOf(id), body(facts));
  });
}

/** Send what was left when the page was closed the last time. */
export function sendLeft() {
  for (const key of Object.keys(localStorage).filter((each) => each.startsWith(DRAFT))) {
    try {
      const { at_ms, ...facts } = JSON.parse(localStorage.getItem(key));
      if (Date.now() - at_ms > OLDEST_MS) throw new RangeError("too old");
      unsaved.set(key.slice(DRAFT.length), facts);
    } catch {
      localStorage.removeItem(key);
    }
  }
  return saveFacts();
}

/** Save what is not saved yet; resolves once that is done or has failed. */
export function saveFacts() {
  clearTimeout(timer);
  for (const id of unsaved.keys()) saving = saving.then(() => send(id));
  return saving;
}

/** Nothing of a recording is to be saved any more: it was removed. @type {(id: string) => void} */
export function dismiss(id) {
  unsaved.delete(id);
  localStorage.removeItem(DRAFT + id);
}

/** @type {<Id extends string>(id: Id) => `/recordings/${Id}/facts`} */
const pathOf = (id) => `/recordings/${id}/facts`;
/** @type {(facts: Draft) => Said & { base: number }} */
const body = ({ said, base }) => ({ ...said, base });

/** @type {(id: string, facts: Draft) => void} */
function keep(id, facts) {
  unsaved.set(id, facts);
  try {
    localStorage.setItem(DRAFT + id, JSON.stringify({ ...facts, at_ms: Date.now() }));
  } catch {
    // no room: it is sent all the same
  }
}

/** -> what the name of the open recording says of it. */
const namedFields = () => /** @type {[Field, string][]} */ (Object.entries(state.current.named).filter(([, text]) => text));

/** @type {(field: Field, text: string) => void} */
function say(field, text) {
  const { current } = state;
  const { said, was, base } = unsaved.get(current.id) ?? { said: {}, was: {}, base: current.facts_revision };
  keep(current.id, { said: { ...said, [field]: text }, was: { [field]: current[field], ...was }, base });
  byId("facts-saved").textContent = "Saving …";
  show();
  clearTimeout(timer);
  timer = setTimeout(saveFacts, SOON_MS);
}

/** @type {(id: string) => Promise<void>} */
async function send(id) {
  const facts = unsaved.get(id);
  if (!facts) return;
  try {
    const { revision, facts: line } = await call("POST", pathOf(id), body(facts));
    const later = unsaved.get(id);
    if (!later || later === facts) dismiss(id);
    else keep(id, { ...later, base: revision });
    if (state.current?.id === id) {
      const { patient, location, device } = line;
      const note = facts.said.note ?? state.current.note;
      update({ current: { ...state.current, patient, location, device, note, facts_revision: revision } });
      byId("facts-saved").textContent = later === facts ? "Saved" : "Saving …";
    }
    updateLine(line, "");
  } catch (error) {
    if (error.status === 409) return settle(id, facts).catch((other) => notSaved(id, other));
    notSaved(id, error);
  }
}

/** @type {(id: string, error: Error & { status?: number }) => void} */
function notSaved(id, error) {
  if (!unsaved.has(id)) return; // it was removed meanwhile
  if (error.status === 404) {
    unsaved.delete(id); // the browser keeps it: this may be a service with another folder
    if (state.current?.id !== id) return;
  }
  if (state.current?.id === id) byId("facts-saved").textContent = "Not saved";
  alarm(`Not saved: ${error.message}`);
}

/** Somebody else has saved since. What they changed and this page did not is theirs; for the rest the person is asked.
 * @type {(id: string, facts: Draft) => Promise<void>} */
async function settle(id, { said, was }) {
  const theirs = await call("GET", `/recordings/${id}`);
  if (!unsaved.has(id)) return; // it was removed meanwhile
  const both = Object.keys(said).filter((field) => theirs[field] !== was[field] && theirs[field] !== said[field]);
  const changed = both.map((field) => `${FIELDS[field]}: theirs “${theirs[field]}”, yours “${said[field]}”`).join("; ");
  const mine = !both.length || (await ask(`${title(theirs)} was changed elsewhere. ${changed}`, null, null, "Keep mine"));
  const { patient, location, device, note, facts_revision } = theirs;
  if (state.current?.id === id) update({ current: { ...state.current, patient, location, device, note, facts_revision } });
  if (!mine) {
    dismiss(id);
    show();
    return;
  }
  keep(id, { said: { ...said, ...unsaved.get(id)?.said }, was: { patient, location, device, note }, base: facts_revision });
  await send(id);
}

/** The list hears of what others say of the open recording. */
function follow() {
  const { current } = state;
  const line = current && state.recordings.find(({ id }) => id === current.id);
  if (!line || unsaved.has(current.id)) return;
  const { patient, location, device } = line;
  if (patient !== current.patient || location !== current.location || device !== current.device)
    update({ current: { ...current, patient, location, device } });
}

function show() {
  const { current } = state;
  byId("recording-facts").hidden = !current || current.id === EXAMPLE;
  if (byId("recording-facts").hidden) return;
  const held = { ...current, ...unsaved.get(current.id)?.said };
  const place = byId("fact-location");
  for (const other of place.querySelectorAll("[data-other]")) other.remove();
  if (held.location && !(held.location in PLACES)) place.append(h("option", { value: held.location, "data-other": "" }, held.location));
  for (const field of Object.keys(FIELDS)) if (byId(`fact-${field}`).value !== held[field]) byId(`fact-${field}`).value = held[field];
  for (const site of byId("chest").querySelectorAll("input")) site.checked = site.value === held.location;
  byId("note-field").hidden = Boolean(state.reader); // it may say what a reader is to decide
  const named = namedFields();
  const alike = named.filter(([field, text]) => held[field] === text).map(([field]) => FIELDS[field]);
  byId("of-name").textContent = alike.length ? `From the name: ${alike.join(", ")}.` : "";
  byId("fact-of-name").hidden = alike.length === named.length;
  if (!unsaved.has(current.id) && byId("facts-saved").dataset.of !== current.id) byId("facts-saved").textContent = "";
  byId("facts-saved").dataset.of = current.id;
  suggest("known-devices", [...DEVICES, ...state.recordings.map((facts) => facts.device)]);
  suggest("known-patients", state.recordings.map((facts) => facts.patient));
}

/** Words that were used before, of which a person may choose.
 * @type {(id: "known-devices" | "known-patients", words: string[]) => void} */
function suggest(id, words) {
  const known = [...new Set(words)].filter(Boolean).sort();
  if (byId(id).children.length !== known.length) byId(id).replaceChildren(...known.map((value) => h("option", { value })));
}
