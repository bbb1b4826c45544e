// Which model's probabilities are shown, and whose stand beside them; and why a model says what it says.

import { call } from "./api.js";
import { LABELS } from "./classes.js";
import { timeKey } from "./cycles.js";
import { alarm, byId, h } from "./dom.js";
import { keepScores, scoreMissing } from "./scores.js";
import { setOverlay } from "./spectrogram.js";
import { isBlind } from "./blind.js";
import { EXAMPLE, asReader, pathOf, selectedCycle, state, update, updateLine, when, whoReads } from "./state.js";

const explained = new Map(); // model, recording and times -> explanation

export async function start() {
  await refresh();
  byId("threshold").min = `${LABELS.independent ? 0.5 : Math.floor(100 / LABELS.classes.length) / 100}`;
  byId("model").addEventListener("change", () => choose({ model: byId("model").value }));
  byId("compare").addEventListener("change", () => choose({ compare: byId("compare").value }));
  byId("explain").addEventListener("change", () => update({ explain: byId("explain").checked }));
  byId("threshold").addEventListener("input", () => update({ threshold: Number(byId("threshold").value) }));
  when(["selected", "explain", "model", "cycles"], explain);
}

/** Ask which models there are; who was chosen stays chosen as long as it is there. */
export async function refresh() {
  const models = await call("GET", "/models");
  const options = () => models.map((model) => {
    const other = !knowsLabels(model); // whose answers would be read as those of other classes
    const words = `${model.name} (${model.recipe}${model.learned ? ", learned here" : ""}${other ? ", other classes" : ""})`;
    return h("option", { value: model.name, disabled: other, title: model.origin }, words);
  });
  const isThere = (/** @type {string} */ chosen) => models.some(({ name }) => name === chosen);
  const first = models.find((model) => model.default)?.name ?? models[0]?.name;
  byId("model").replaceChildren(...options());
  byId("compare").replaceChildren(h("option", { value: "" }, "no other model"), ...options());
  update({ models, model: isThere(state.model) ? state.model : first, compare: isThere(state.compare) ? state.compare : "" });
  byId("model").value = state.model;
  byId("compare").value = state.compare;
  const { version } = await call("GET", "/health");
  byId("about").replaceChildren(`Rales ${version}, serving:`, ...models.filter(({ digest }) => digest).map(({ name, recipe, digest }) =>
    h("span", { className: "figures" }, ` ${name} (${recipe}), digest ${digest.slice(0, 16)};`)));
}

/** Whether a model tells the classes apart that the page shows. @type {(model: Service.ModelFacts) => boolean} */
const knowsLabels = ({ classes, independent }) =>
  JSON.stringify([classes, independent]) === JSON.stringify([LABELS.classes, LABELS.independent]);

/** @type {(change: { model: string } | { compare: string }) => Promise<void>} */
async function choose(change) {
  update(change);
  const name = Object.values(change)[0];
  const [{ current }, who] = [state, whoReads()];
  if (!name || !current || current.id === EXAMPLE) return;
  try {
    if (!state.scores[name]) {
      const answer = await call("POST", asReader(`/recordings/${current.id}/predictions?model=${encodeURIComponent(name)}`));
      updateLine(answer.facts, who);
      if (state.current?.id !== current.id) return; // another recording was opened meanwhile
      keepScores(name, answer.cycles);
    }
    await scoreMissing();
  } catch (error) {
    alarm(error.message);
  }
}

let asked = 0;
/** Show why the model calls the selected cycle what it does, as long as that is wanted. */
async function explain() {
  const cycle = selectedCycle();
  const number = (asked += 1);
  const unwanted = !state.explain || !cycle || isBlind(cycle);
  byId("why").hidden = unwanted;
  if (unwanted || !state.current) return setOverlay(null);
  const key = `${state.model} ${state.current.id} ${timeKey(cycle)}`;
  if (!explained.has(key)) {
    setOverlay(null);
    byId("why").textContent = "The model is asked why …";
    try {
      const query = new URLSearchParams({ model: state.model, start_s: `${cycle.start_s}`, end_s: `${cycle.end_s}` });
      explained.set(key, await call("GET", `${pathOf(state.current.id)}/explanation?${query}`));
    } catch (error) {
      if (number === asked) byId("why").textContent = error.message;
      return;
    }
  }
  if (number !== asked) return; // another cycle was selected meanwhile
  const found = explained.get(key);
  byId("why").textContent = `Tinted: what spoke for “${found.label}” (${state.model}). It explains the model, not the patient.`;
  setOverlay(found);
}
