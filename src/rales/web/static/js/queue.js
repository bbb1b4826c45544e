// The queue: how far each recording is, what was found in it, and in which order they are looked at.

import { LABELS, colour } from "./classes.js";
import { byId, h, percent } from "./dom.js";
import { longList } from "./long_list.js";
import { folderOf } from "./pairing.js";
import { state, when } from "./state.js";

/** @type {Record<string, string>} */
export const PLACES = {
  Tc: "Trachea", Al: "Left anterior", Ar: "Right anterior", Pl: "Left posterior", Pr: "Right posterior",
  Ll: "Left lateral", Lr: "Right lateral",
};
const ANSWERED = ["abnormal", "crackle", "wheeze"]; // orders by what a model says of whole recordings

let open = /** @type {(id: string) => void} */ (() => {});
let shownOpen = /** @type {string | undefined} */ (undefined); // id of the recording that was scrolled to
let rows = /** @type {ReturnType<typeof longList>} */ (/** @type {any} */ (null)); // what is shown of the list
let found = { of: /** @type {unknown[]} */ ([]), shown: /** @type {Service.RecordingFacts[]} */ ([]) }; // what the list was made of, and it
const { compare } = new Intl.Collator(undefined, { numeric: true });

/** `openRecording(id)` opens one, `changed()` hears that the order or the filters are other ones.
 * @type {(openRecording: (id: string) => void, changed: () => void) => void} */
export function start(openRecording, changed) {
  open = openRecording;
  rows = longList(byId("list"), /** @type {HTMLElement} */ (byId("list").closest(".queue-list")));
  when(["recordings", "current", "whole", "begun", "taken", "models"], showList);
  for (const id of /** @type {const} */ (["find", "show", "order"]))
    byId(id).addEventListener("input", () => {
      changed();
      showList();
    });
  const findings = LABELS.findings.map(([value, words]) => h("option", { value }, words));
  byId("show").querySelector("[value=problem]")?.before(...findings);
  for (const option of byId("order").querySelectorAll("[data-icbhi]")) if (!LABELS.isIcbhi) option.remove();
}

/** -> the recordings that the filters let through, in the order chosen. */
export function listed() {
  const chosen = /** @type {[string, string, string]} */ ([byId("find").value.trim().toLowerCase(), byId("show").value, byId("order").value]);
  const of = [state.recordings, ...chosen];
  if (of.some((part, number) => part !== found.of[number])) found = { of, shown: arranged(...chosen) };
  return found.shown;
}

/** @type {(find: string, show: string, order: string) => Service.RecordingFacts[]} */
function arranged(find, show, order) {
  /** @type {Record<string, (facts: Service.RecordingFacts) => boolean>} */
  const filters = {
    all: () => true,
    open: (facts) => !facts.reviewed,
    done: (facts) => facts.reviewed,
    ambiguous: (facts) => facts.ambiguous > 0,
    problem: (facts) => facts.status === "failed" || !facts.judged,
  };
  for (const [value, , names] of LABELS.findings)
    filters[value] = (facts) => names.some((name) => facts.findings[name] > 0);
  const titles = new Map(state.recordings.map((facts) => [facts, title(facts)]));
  /** @type {(a: Service.RecordingFacts, b: Service.RecordingFacts) => number} */
  const byTitle = (a, b) => compare(titles.get(a) ?? "", titles.get(b) ?? "");
  /** @type {(name: string) => typeof byTitle} */
  const answer = (name) => (a, b) => (b.answers?.[name] ?? -1) - (a.answers?.[name] ?? -1) || byTitle(a, b);
  /** @type {Record<string, typeof byTitle>} */
  const orders = {
    added: () => 0,
    name: byTitle,
    doubt: (a, b) => Number(a.reviewed) - Number(b.reviewed) || Number(a.judged) - Number(b.judged)
      || (b.uncertainty ?? -1) - (a.uncertainty ?? -1),
    abnormal: answer("abnormal"),
    crackle: answer("crackle"),
    wheeze: answer("wheeze"),
    quality: (a, b) => isGood(a) - isGood(b) || byTitle(a, b),
    patient: (a, b) => compare(patientOf(a), patientOf(b)) || byTitle(a, b),
  };
  return state.recordings
    .filter((facts) => `${titles.get(facts)} ${facts.patient}`.toLowerCase().includes(find) && filters[show](facts))
    .sort(orders[order]);
}

/** @type {(facts: Service.RecordingFacts) => number} */
const isGood = (facts) => (facts.judged ? 2 : 0) + (facts.quality_reason ? 0 : 1) + (facts.status === "failed" ? 0 : 4);

/** -> whose recording it is: as people or its name say, else by the folder that it came in.
 * @type {(facts: Service.RecordingFacts) => string} */
const patientOf = (facts) => facts.patient || folderOf(facts.path);

function showList() {
  const shown = listed();
  const all = state.recordings.length;
  byId("filters").hidden = byId("all").hidden = all === 0;
  const done = state.recordings.filter((facts) => facts.reviewed).length;
  const waiting = state.recordings.filter((facts) => facts.status === "waiting").length;
  const { whole, taken } = state;
  const parts = [`${done} of ${all}${whole ? "" : " so far"} reviewed`, waiting ? `${waiting} wait for the model` : null];
  if (taken) parts.push(`${taken[0]} of ${taken[1]} files taken in`);
  if (shown.length < all) parts.push(`${shown.length} shown`);
  byId("count").textContent = all || taken ? parts.filter(Boolean).join(" · ") : "";
  byId("done").hidden = all === 0;
  /** @type {HTMLElement} */ (byId("done").firstElementChild).style.width = `${(100 * done) / Math.max(1, all)}%`;
  const order = byId("order").value;
  const asked = all && ANSWERED.includes(order);
  byId("answers-note").textContent = asked ? (state.models.find((model) => model.default)?.answers ?? "") : "";
  const grouped = order === "patient";
  const { id } = state.current ?? {};
  rows.show(shown.flatMap((facts, index) => {
    const waits = facts.status === "waiting" ? state.begun : null;
    const row = { key: facts.id, stamp: [facts, order, facts.id === id, state.reader, waits], make: () => entry(facts, order) };
    const patient = grouped ? patientOf(facts) : "";
    const begins = grouped && (index === 0 || patientOf(shown[index - 1]) !== patient);
    return begins ? [{ key: `patient ${patient}`, stamp: [], make: () => group(patient) }, row] : [row];
  }));
  if (!byId("list").contains(document.activeElement)) showOpen();
}

/** The open recording is in sight in the list. */
function showOpen() {
  const { id } = state.current ?? {};
  if (id === shownOpen) return;
  shownOpen = id;
  rows.reveal(id);
}

/** @type {(name: string) => HTMLElement} */
const group = (name) => h("li", { className: "group" }, !name ? "No patient known" : name.endsWith("/") ? name : `Patient ${name}`);

/** @type {(facts: Service.RecordingFacts, order: string) => HTMLElement} */
function entry(facts, order) {
  const button = h("button", { type: "button", className: "entry", onclick: () => open(facts.id) },
    dot(facts),
    h("span", { className: "entry-name" }, ...titled(facts)),
    h("span", { className: "entry-count figures" }, progress(facts)),
    h("span", { className: "entry-facts" }, ...about(facts, order)));
  if (facts.id === state.current?.id) button.setAttribute("aria-current", "true");
  return h("li", { className: facts.reviewed ? "reviewed" : "" }, button);
}

/** How many of its cycles are confirmed. @type {(facts: Service.RecordingFacts) => string} */
function progress(facts) {
  if (facts.status !== "ready" || !facts.judged) return "";
  return `${facts.reviewed ? "✓ " : ""}${facts.confirmed}/${facts.cycles}`;
}

/** The most abnormal thing found, as a colour; the words stand beside it.
 * @type {(facts: Service.RecordingFacts) => HTMLElement} */
function dot(facts) {
  const heard = LABELS.names.findLast((name) => facts.findings[name]);
  const element = h("span", { className: facts.judged && facts.status !== "failed" ? "dot" : "dot bad-dot", "aria-hidden": "true" });
  return heard && facts.judged ? colour(element, heard) : element;
}

/** A recording -> its name, after the folder in which it came.
 * @type {(facts: { path: string, name: string }) => string} */
export const title = (facts) => folderOf(facts.path) + facts.name;
/** @type {(facts: { path: string, name: string }) => [HTMLElement, string]} */
export const titled = (facts) => [h("span", { className: "folder" }, folderOf(facts.path)), facts.name];

/** @type {(facts: Service.RecordingFacts, order: string) => (Node | string | null)[]} */
function about(facts, order) {
  if (facts.status === "waiting") {
    const before = (facts.turn ?? 0) - state.begun; // less than one while it is worked on
    return [before > 0 ? `waits, ${before} before it` : "the model listens …"];
  }
  if (facts.status === "failed") return [h("span", { className: "bad" }, facts.problem)];
  const place = [PLACES[facts.location] ?? facts.location, facts.device].filter(Boolean).join(" · ");
  const counts = LABELS.names.filter((name) => facts.findings[name]).map((name) =>
    colour(h("span", { className: "badge small", title: LABELS.words(name) },
      `${facts.findings[name]} ${LABELS.letters(name)}`), name));
  const doubt = ANSWERED.includes(order)
    ? facts.answers && `${order === "abnormal" ? order : `any ${order}`} ${percent(facts.answers[order])}`
    : facts.uncertainty !== null && !state.reader && `${percent(facts.uncertainty)} unsure`;
  const note = facts.notes.length ? h("span", {}, facts.notes.join("; ")) : null;
  const unsure = doubt ? h("span", {}, doubt) : null;
  return [place ? h("span", { className: "place" }, place) : null, quality(facts), note, ...counts, unsure];
}

/** What is wrong with the sound: why there is no class, or what is to be known beside one.
 * @type {(facts: Service.RecordingFacts) => HTMLElement | null} */
function quality(facts) {
  if (!facts.judged) return h("span", { className: "bad" }, `Not judged: ${facts.quality_reason}`);
  return facts.quality_reason ? h("span", {}, facts.quality_reason) : null;
}
