// The cycles as a table: the same as in the lanes, with times to type, for the keyboard and for screen readers.

import { isBlind, isUndecided } from "./blind.js";
import { LABELS, colour } from "./classes.js";
import { move, relabel, timeKey } from "./cycles.js";
import { byId, focused, h, percent } from "./dom.js";
import { change } from "./edits.js";
import { disagreement } from "./events.js";
import { playCycle, show } from "./player.js";
import { state, update, when } from "./state.js";

export function start() {
  when(["cycles"], showRows);
  when(["scores", "model", "compare", "threshold", "events"], showAnswers);
  when(["selected"], showSelected);
}

function showRows() {
  const field = focused()?.dataset.field;
  byId("rows").replaceChildren(...state.cycles.map(row));
  showAnswers();
  showSelected();
  if (field) byId("rows").querySelector(`[data-field="${field}"]`)?.focus();
}

/** @type {(cycle: Cycle, index: number) => HTMLElement} */
function row(cycle, index) {
  const number = index + 1;
  const letters = isUndecided(cycle) ? "?" : LABELS.letters(cycle.label);
  return h(
    "tr",
    { id: `row-${cycle.id}`, onclick: () => state.selected !== cycle.id && update({ selected: cycle.id }) },
    h("th", { scope: "row" },
      colour(h("button", { type: "button", className: "badge", "data-field": `pick-${cycle.id}`,
        "aria-label": `${number} ${letters}, select cycle ${number}`,
        onclick: () => { update({ selected: cycle.id }); show(cycle.start_s); } },
        `${number} ${letters}`), cycle.label)),
    h("td", { className: "choice" }, LABELS.independent ? labelButtons(cycle, number) : labelChoice(cycle, number)),
    h("td", {}, timeField(cycle, "start_s", `Start of cycle ${number} in seconds`)),
    h("td", {}, timeField(cycle, "end_s", `End of cycle ${number} in seconds`)),
    h("td", { className: "listen" }, h("button", { type: "button", className: "icon", "data-field": `play-${cycle.id}`,
      "aria-label": `Play cycle ${number}`, onclick: () => playCycle(cycle) }, "▶")),
    h("td", { className: "answers" }),
  );
}

/** @type {(cycle: Cycle, number: number) => HTMLElement} */
function labelChoice(cycle, number) {
  const options = LABELS.classes.map((name) => h("option", { value: name }, LABELS.words(name)));
  const choice = h("select", { "aria-label": `Label of cycle ${number}`, "data-field": `label-${cycle.id}`,
    onchange: () => change(relabel(state.cycles, cycle.id, choice.value), `Cycle ${number}: ${choice.value}`, cycle.id) },
    ...options);
  choice.value = isUndecided(cycle) ? "" : cycle.label;
  return choice;
}

/** A button for each of several independent classes, pressed where the cycle has it.
 * @type {(cycle: Cycle, number: number) => HTMLElement} */
function labelButtons(cycle, number) {
  return h("div", { className: "choice-buttons", role: "group", "aria-label": `Label of cycle ${number}` },
    ...LABELS.classes.map((name) => {
      const become = () => LABELS.toggled(cycle.label, name);
      return h("button", { type: "button", title: LABELS.words(name), "data-field": `label-${cycle.id}-${name}`,
        "aria-label": `${LABELS.words(name)} in cycle ${number}`, "aria-pressed": LABELS.parts(cycle.label).includes(name),
        onclick: () => change(relabel(state.cycles, cycle.id, become()), `Cycle ${number}: ${become()}`, cycle.id) },
        LABELS.letters(name));
    }));
}

/** @type {(cycle: Cycle, edge: "start_s" | "end_s", label: string) => HTMLElement} */
function timeField(cycle, edge, label) {
  const field = h("input", { type: "number", step: "0.01", min: "0", value: cycle[edge].toFixed(3), "aria-label": label,
    "data-field": `${edge}-${cycle.id}`,
    onchange: () => {
      const seconds = field.value === "" ? NaN : Number(field.value);
      field.value = cycle[edge].toFixed(3); // which stays where the move is not possible
      if (Number.isNaN(seconds)) return;
      change(move(state.cycles, cycle.id, edge, seconds, state.current.duration_s), "Boundary moved", cycle.id);
    } });
  return field;
}

function showSelected() {
  for (const line of byId("rows").children) {
    const chosen = line.id === `row-${state.selected}`;
    line.classList.toggle("selected", chosen);
    if (chosen) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

function showAnswers() {
  let [sure, alike, both] = [0, 0, 0];
  for (const cycle of state.cycles) {
    const line = document.getElementById(`row-${cycle.id}`);
    if (!line) continue;
    const hidden = isBlind(cycle);
    const [first, second] = [state.model, state.compare].map((model) => (hidden ? null : state.scores[model]?.[timeKey(cycle)]));
    const differs = Boolean(first && second && first.label !== second.label);
    const doubtful = first && LABELS.confidence(first) < state.threshold;
    if (first && !doubtful) sure += 1;
    if (first && second) both += 1;
    if (first && second && first.label === second.label) alike += 1;
    line.classList.toggle("doubtful", Boolean(doubtful) && !cycle.confirmed);
    line.querySelector(".answers")?.replaceChildren(
      h("span", { className: "mark" }, mark(cycle, Boolean(doubtful))),
      ...(cycle.note ? [h("span", {}, `Note: ${cycle.note}`)] : []),
      ...(hidden ? [h("span", { className: "waits" }, "hidden until you decide")] : [answer(first, state.model)]),
      ...(state.compare && !hidden ? [answer(second, state.compare, differs)] : []),
    );
  }
  byId("agreement").textContent = state.compare && both ? `The models agree on ${alike} of ${both} cycles` : "";
  byId("threshold-text").textContent = `${percent(state.threshold)} · ${sure} of ${state.cycles.length} cycles reach it`;
}

/** @type {(cycle: Cycle, doubtful: boolean) => string} */
function mark(cycle, doubtful) {
  const said = disagreement(cycle, state.events);
  if (said) return `${cycle.confirmed ? "confirmed, but its" : "its"} events say ${LABELS.words(said).toLowerCase()}`;
  if (cycle.unusable) return "unusable";
  if (cycle.confirmed) return "confirmed";
  return doubtful ? "uncertain" : "";
}

/** @type {(scores: Service.ScoredSpan | null | undefined, model: string, differs?: boolean) => HTMLElement} */
function answer(scores, model, differs = false) {
  if (!scores) return h("span", { className: "waits" }, `${model}: waits …`);
  if (!scores.label) return h("span", { className: "answer" }, `${model}: not judged, ${scores.quality_reason}`);
  const said = `${model}: ${LABELS.words(scores.label)} ${percent(LABELS.confidence(scores))}`;
  return h("span", { className: "answer" }, said, differs ? h("strong", {}, " differs") : "");
}
