// The cycles as a table: the same as on the waveform, for the keyboard and for screen readers.

import { LABELS, colour } from "./classes.js";
import { move, relabel, timeKey } from "./cycles.js";
import { byId, h, percent } from "./dom.js";
import { change } from "./edits.js";
import { playCycle, show } from "./player.js";
import { state, update, when } from "./state.js";

const MOST_BARS = 8; // of one cycle: the most probable classes

export function start() {
  when(["cycles"], showRows);
  when(["scores", "model", "compare", "threshold"], showProbabilities);
  when(["selected"], showSelected);
}

function showRows() {
  const focused = document.activeElement?.dataset?.field;
  byId("rows").replaceChildren(...state.cycles.map(row));
  showProbabilities();
  showSelected();
  if (focused) byId("rows").querySelector(`[data-field="${focused}"]`)?.focus();
}

function row(cycle, index) {
  const number = index + 1;
  return h(
    "tr",
    { id: `row-${cycle.id}`, onclick: () => state.selected !== cycle.id && update({ selected: cycle.id }) },
    h("th", { scope: "row" },
      colour(h("button", { type: "button", className: "badge", "data-field": `pick-${cycle.id}`,
        "aria-label": `Select cycle ${number}`, onclick: () => { update({ selected: cycle.id }); show(cycle.start_s); } },
        `${number} ${LABELS.letters(cycle.label)}`), cycle.label),
      h("span", { className: "mark" })),
    h("td", {}, LABELS.independent ? labelButtons(cycle, number) : labelChoice(cycle, number)),
    h("td", { "data-name": "From, s" }, timeField(cycle, "start_s", `Start of cycle ${number} in seconds`)),
    h("td", { "data-name": "To, s" }, timeField(cycle, "end_s", `End of cycle ${number} in seconds`)),
    h("td", { className: "probabilities" }),
    h("td", { className: "listen" }, h("button", { type: "button", "data-field": `play-${cycle.id}`, "aria-label": `Play cycle ${number}`,
      onclick: () => playCycle(cycle) }, "Play")),
  );
}

function labelChoice(cycle, number) {
  const options = LABELS.classes.map((name) => h("option", { value: name }, LABELS.words(name)));
  const choice = h("select", { "aria-label": `Label of cycle ${number}`, "data-field": `label-${cycle.id}`,
    onchange: () => change(relabel(state.cycles, cycle.id, choice.value), `Cycle ${number}: ${choice.value}`, cycle.id) },
    ...options);
  choice.value = cycle.label;
  return choice;
}

/** A button for each of several independent classes, pressed where the cycle has it. */
function labelButtons(cycle, number) {
  return h("div", { className: "label-buttons", role: "group", "aria-label": `Label of cycle ${number}` },
    ...LABELS.classes.map((name) => {
      const become = () => LABELS.toggled(cycle.label, name);
      return h("button", { type: "button", title: LABELS.words(name), "data-field": `label-${cycle.id}-${name}`,
        "aria-label": `${LABELS.words(name)} in cycle ${number}`, "aria-pressed": LABELS.parts(cycle.label).includes(name),
        onclick: () => change(relabel(state.cycles, cycle.id, become()), `Cycle ${number}: ${become()}`, cycle.id) },
        LABELS.letters(name));
    }));
}

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
  for (const line of byId("rows").children) line.classList.toggle("selected", line.id === `row-${state.selected}`);
}

function showProbabilities() {
  let sure = 0;
  let alike = 0;
  let both = 0;
  for (const cycle of state.cycles) {
    const line = byId(`row-${cycle.id}`);
    if (!line) continue;
    const [first, second] = [state.model, state.compare].map((model) => state.scores[model]?.[timeKey(cycle)]);
    const doubtful = first && LABELS.confidence(first) < state.threshold;
    if (first && !doubtful) sure += 1;
    if (first && second) both += 1;
    if (first && second && first.label === second.label) alike += 1;
    line.classList.toggle("doubtful", Boolean(doubtful) && !cycle.confirmed);
    line.querySelector(".mark").textContent = mark(cycle, first, doubtful);
    line.querySelector(".probabilities").replaceChildren(
      bars(first, state.compare ? state.model : null),
      state.compare ? bars(second, state.compare, first && second && first.label !== second.label) : "",
    );
  }
  const many = state.cycles.length;
  byId("agreement").textContent = state.compare && both ? `The models agree on ${alike} of ${both} cycles` : "";
  byId("threshold-text").textContent = `${percent(state.threshold)} · ${sure} of ${many} cycles reach it`;
}

function mark(cycle, scores, doubtful) {
  const said = [];
  if (cycle.confirmed) said.push("confirmed");
  if (scores?.label && scores.label !== cycle.label) said.push(`model: ${scores.label}`);
  if (doubtful && !cycle.confirmed) said.push("uncertain");
  return said.join(", ");
}

function bars(scores, model, differs = false) {
  if (!scores) return h("div", { className: "bars soft" }, model ? `${model}: ` : "", "waits for the model …");
  if (!scores.label) return h("div", { className: "bars soft" }, model ? `${model}: ` : "", `not judged: ${scores.quality_reason}`);
  const share = (name) => scores[`p_${name}`];
  const shown = [...LABELS.classes].sort((a, b) => share(b) - share(a)).slice(0, MOST_BARS);
  const rest = LABELS.classes.length - shown.length;
  return h(
    "div",
    { className: "bars" },
    model ? h("span", { className: "whose" }, model, differs ? h("strong", {}, " differs") : "") : null,
    h("dl", {}, ...LABELS.classes.filter((name) => shown.includes(name))
      .map((name) => bar(name, share(name), LABELS.parts(scores.label).includes(name)))),
    rest ? h("span", { className: "whose" }, `${rest} others below ${percent(share(shown.at(-1)))}`) : null,
  );
}

function bar(name, p, top) {
  const fill = colour(h("span", { className: "fill" }), name);
  fill.style.width = `${Math.max(2, p * 100)}%`;
  return h("div", { className: top ? "top" : "" },
    h("dt", {}, h("abbr", { title: LABELS.words(name) }, LABELS.letters(name))),
    h("dd", {}, h("span", { className: "track", "aria-hidden": "true" }, fill), h("span", { className: "figures" }, percent(p))));
}
