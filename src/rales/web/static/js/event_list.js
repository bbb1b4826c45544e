// The events of the selected cycle in the inspector: the same as on the picture, with numbers to type, for the keyboard and
// for screen readers; and whether the label of the cycle agrees with them.

import { LABELS } from "./classes.js";
import { byId, focused, h } from "./dom.js";
import { changeEvents } from "./edits.js";
import { chooseKind, keptKind, markHere, removeEvent, select, setMarking, takeLabel } from "./event_acts.js";
import { KINDS, cycleAt, disagreement, extent, inCycle, resize, setBand, setKind } from "./events.js";
import { selectedCycle, state, update, when } from "./state.js";

// edge, words, step of the arrows, decimals
const FIELDS = /** @type {[Edge, string, number, number][]} */ ([
  ["start_s", "From, s", 0.005, 3], ["end_s", "To, s", 0.005, 3], ["low_hz", "Low, Hz", 10, 1], ["high_hz", "High, Hz", 10, 1],
]);
const BAND = { low_hz: 200, high_hz: 800 }; // to begin with, for one that had none

export function start() {
  const kinds = () => Object.entries(KINDS).map(([value, { words }]) => h("option", { value }, words));
  byId("event-kind").replaceChildren(...kinds());
  byId("event-kind").value = keptKind();
  byId("event-kind").addEventListener("change", () => chooseKind(/** @type {EventKind} */ (byId("event-kind").value)));
  byId("mark").addEventListener("click", () => setMarking(!state.marking));
  byId("mark-here").addEventListener("click", () => markHere());
  byId("take-label").addEventListener("click", takeLabel);
  when(["marking"], () => byId("mark").setAttribute("aria-pressed", Boolean(state.marking)));
  when(["events", "event", "cycles", "selected", "current"], show);
}

function show() {
  const cycle = selectedCycle();
  const here = cycle ? inCycle(state.events, cycle) : [];
  const outside = state.events.filter((event) => !cycleAt(state.cycles, (event.start_s + event.end_s) / 2));
  const field = focused()?.closest("#event-list") ? focused()?.dataset.field : null;
  byId("event-list").replaceChildren(...[...here, ...outside].map(entry));
  byId("no-events").hidden = here.length + outside.length > 0;
  if (field) byId("event-list").querySelector(`[data-field="${field}"]`)?.focus();
  const said = cycle && disagreement(cycle, state.events);
  byId("disagrees").hidden = !said;
  byId("disagrees-words").textContent = said ? `Its events say ${LABELS.words(said).toLowerCase()}` : "";
}

/** @type {(event: SoundEvent) => HTMLElement} */
function entry(event) {
  const { words, sound, box } = KINDS[event.kind];
  const outside = cycleAt(state.cycles, (event.start_s + event.end_s) / 2) ? "" : ", outside every cycle";
  const chosen = event.id === state.event;
  return h("li", {},
    h("button", { type: "button", className: `event-entry ${sound ?? "turn"}`, "aria-pressed": chosen, "data-field": `pick-${event.id}`,
      onclick: () => (chosen ? update({ event: null }) : select(event)) },
      h("span", { className: "event-sign", "aria-hidden": "true" }, sound === null ? "┆" : box ? "▭" : "▯"),
      h("span", {}, words), h("span", { className: "figures soft" }, extent(event) + outside)),
    ...(chosen ? [fields(event)] : []));
}

/** What can be typed of the selected event. @type {(event: SoundEvent) => HTMLElement} */
function fields(event) {
  const { duration_s } = state.current;
  const kind = h("select", { "aria-label": "Kind of the event", "data-field": "kind",
    onchange: () => {
      const value = /** @type {EventKind} */ (kind.value);
      changeEvents(setKind(state.events, event.id, value, duration_s), KINDS[value].words);
    } },
    ...Object.entries(KINDS).map(([value, { words }]) => h("option", { value }, words)));
  kind.value = event.kind;
  const turn = KINDS[event.kind].sound === null;
  const point = !KINDS[event.kind].box && event.start_s === event.end_s;
  const numbers = FIELDS.filter(([edge]) => !(point && edge === "end_s") && (edge.endsWith("_s") || event.low_hz !== null));
  const known = event.low_hz !== null;
  const band = turn ? [] : [h("label", { className: "check" },
    h("input", { type: "checkbox", checked: known, "data-field": "band",
      onchange: () => changeEvents(setBand(state.events, event.id, known ? null : BAND), "Event changed") }), "Frequencies")];
  return h("div", { className: "event-fields", role: "group", "aria-label": `${KINDS[event.kind].words}, ${extent(event)}` },
    kind,
    h("button", { type: "button", "data-field": "delete", onclick: () => { removeEvent(); byId("mark").focus(); } }, "Delete"),
    ...numbers.map(([edge, words, step, digits]) => number(event, edge, point ? "At, s" : words, step, digits)), ...band);
}

/** @type {(event: SoundEvent, edge: Edge, words: string, step: number, digits: number) => HTMLElement} */
function number(event, edge, words, step, digits) {
  const text = Number(event[edge]).toFixed(digits);
  const field = h("input", { type: "number", step: `${step}`, min: "0", value: text, "data-field": edge,
    onchange: () => {
      const value = field.value === "" ? NaN : Number(field.value);
      field.value = text; // which stays where the change is not possible
      if (!Number.isNaN(value)) changeEvents(resize(state.events, event.id, edge, value, state.current.duration_s), "Event changed");
    } });
  return h("label", {}, words, field);
}

