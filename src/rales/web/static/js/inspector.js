// The selected cycle: its label with what the models say of each class, and who else has said something.

import { isBlind, isUndecided, readersOf } from "./blind.js";
import { LABELS, colour } from "./classes.js";
import { setNote, timeKey } from "./cycles.js";
import { byId, h, percent } from "./dom.js";
import { change } from "./edits.js";
import { setWords } from "./learn_words.js";
import { label, press } from "./review.js";
import { selectedCycle, state, when } from "./state.js";

/** @typedef {[Service.ScoredSpan | undefined, Service.ScoredSpan | undefined]} Answers of the model and the other one */

export function start() {
  when(["cycles", "selected", "scores", "model", "compare", "threshold", "current", "readings"], show);
  when(["reviewing", "cycles"], showReview);
  byId("cycle-note").addEventListener("change", () => {
    const cycle = selectedCycle();
    if (cycle) change(setNote(state.cycles, cycle.id, byId("cycle-note").value.trim()), "Note on the cycle", cycle.id);
  });
}

function show() {
  const cycle = selectedCycle();
  byId("judge").hidden = !state.current;
  byId("cycle-note").disabled = !cycle;
  if (document.activeElement !== byId("cycle-note") || !cycle) byId("cycle-note").value = cycle?.note ?? "";
  if (!cycle) {
    byId("cycle-title").textContent = state.cycles.length ? "No cycle is selected" : "No cycles";
    byId("cycle-times").textContent = "";
    for (const id of /** @type {const} */ (["label-buttons", "said-by"])) byId(id).replaceChildren();
    return;
  }
  byId("cycle-title").textContent = `Cycle ${state.cycles.indexOf(cycle) + 1} of ${state.cycles.length}`;
  byId("cycle-times").textContent = `${cycle.start_s.toFixed(3)}–${cycle.end_s.toFixed(3)} s`;
  const [first, second] = [state.model, state.compare].map((model) => state.scores[model]?.[timeKey(cycle)]);
  const focused = /** @type {HTMLButtonElement | null} */ (document.querySelector("#label-buttons :focus-visible"))?.value ?? null;
  const names = LABELS.independent ? [...LABELS.classes, LABELS.normal] : LABELS.classes;
  byId("label-buttons").replaceChildren(...names.map((name, index) => labelButton(cycle, name, index, first, second)));
  if (focused !== null) byId("label-buttons").querySelector(`[value="${focused}"]`)?.focus();
  byId("unusable").setAttribute("aria-pressed", Boolean(cycle.unusable));
  byId("said-by").replaceChildren(...saidBy(cycle, first, second).flatMap(([who, what]) => [h("dt", {}, who), h("dd", {}, what)]));
}

/** @type {(cycle: Cycle, name: string, index: number, ...answers: Answers) => HTMLElement} */
function labelButton(cycle, name, index, first, second) {
  const none = LABELS.independent && name === LABELS.normal;
  const key = none ? "0" : LABELS.keyed.includes(name) ? `${index + 1}` : "";
  const held = !cycle.unusable && !isUndecided(cycle) && LABELS.parts(cycle.label).includes(name);
  const shares = none || isBlind(cycle) ? []
    : [first, second].filter((scores) => scores?.label).map((scores) => Number(scores?.[`p_${name}`]));
  return colour(h("button", { type: "button", className: "label", value: name, "aria-pressed": held,
    onclick: () => (none ? label(name) : press(name)) },
    h("kbd", {}, key),
    h("span", { className: "label-name" }, none ? "None of them" : LABELS.words(name)),
    h("span", { className: "label-share figures" }, shares.map(percent).join(" / ")),
    ...shares.map(bar)), name);
}

/** @type {(share: number) => HTMLElement} */
function bar(share) {
  const fill = h("i");
  fill.style.width = `${100 * share}%`;
  return h("span", { className: "share", "aria-hidden": "true" }, fill);
}

/** -> [who, what] of everyone who says something of this stretch.
 * @type {(cycle: Cycle, ...answers: Answers) => string[][]} */
function saidBy(cycle, first, second) {
  const hidden = isBlind(cycle) ? "hidden until you decide" : null;
  const file = (state.current.annotated ?? []).find((each) => timeKey(each) === timeKey(cycle));
  const you = cycle.unusable ? "Unusable" : cycle.confirmed ? `${LABELS.words(cycle.label)} ✓` : "not confirmed yet";
  return [
    [state.reader || "You", you],
    ...state.readings.map((reading) => [reading.reader, hidden ?? readersOf(reading, cycle)]),
    ...(file ? [[state.current.source === "simulated" ? "Simulation" : "Annotation file", hidden ?? LABELS.words(file.label)]] : []),
    [state.model, hidden ?? ofModel(first)],
    ...ofSet(state.model, hidden ? null : first),
    ...(state.compare ? [[state.compare, hidden ?? ofModel(second, first)], ...ofSet(state.compare, hidden ? null : second)] : []),
  ];
}

/** The labels that a cycle may have, where the model has sets: the true one is among them for 90 % of cycles of new patients.
 * @type {(model: string, scores: Service.ScoredSpan | null | undefined) => string[][]} */
const ofSet = (model, scores) => (scores?.prediction_set ? [[`${model}, set`, setWords(scores.prediction_set, LABELS)]] : []);

/** @type {(scores?: Service.ScoredSpan, other?: Service.ScoredSpan) => string} */
function ofModel(scores, other) {
  if (!scores) return "waits …";
  if (!scores.label) return `not judged: ${scores.quality_reason}`;
  const sure = LABELS.confidence(scores);
  const differs = other?.label && other.label !== scores.label ? ", differs" : "";
  const doubtful = sure < state.threshold ? ", uncertain" : "";
  return `${LABELS.words(scores.label)} ${percent(sure)}${doubtful}${differs}`;
}

function showReview() {
  const left = state.cycles.filter((cycle) => !cycle.confirmed).length;
  byId("review-state").textContent = state.reviewing ? `Review: ${left} of ${state.cycles.length} cycles left here · Enter accepts` : "";
}
