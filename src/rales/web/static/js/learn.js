// Learning from confirmed cycles: what is there, calibrating and training in the background, old beside new, use or discard.

import { Refused, call } from "./api.js";
import { LABELS, colour } from "./classes.js";
import { alarm, ask, byId, chosenOf, h, tableRow, tell } from "./dom.js";
import { figureWords, outcomeWords, progressWords, surveyWords } from "./learn_words.js";
import { refresh as refreshModels } from "./models.js";
import { saveNow } from "./saving.js";
import { state, when } from "./state.js";

const LOOK_MS = 1000;
let timer = 0;
let unheard = 0; // looks in a row that had no answer
let survey = /** @type {Service.Survey | null} */ (null);
let job = /** @type {Service.Job} */ ({ status: "none" });

export function start() {
  byId("learn-model").addEventListener("change", () => look().catch((error) => alarm(error.message)));
  byId("learn-calibrate").addEventListener("click", () => act(() => begin({ kind: "calibrate" })));
  byId("learn-train").addEventListener("click", () => act(train));
  byId("learn-stop").addEventListener("click", () => act(discard));
  byId("learn-discard").addEventListener("click", () => act(discard));
  byId("learn-use").addEventListener("click", () => act(use));
  when(["models"], showModels);
  when(["session"], () => {
    survey = null; // nothing is begun by what another session holds
    showWays();
    if (!byId("learn-view").hidden) act(look);
  });
}

export async function show() {
  await saveNow();
  showModels();
  await look();
  await follow();
}

/** @type {(doing: () => Promise<void>) => Promise<void>} */
const act = (doing) => doing().catch((error) => alarm(error.message));

/** Ask what of the session is confirmed, and what the chosen model can learn from it. */
async function look() {
  const [session, model] = [state.session, byId("learn-model").value];
  const found = session ? await call("GET", `/sessions/${session}/learning?${new URLSearchParams({ model })}`) : null;
  if (session !== state.session || model !== byId("learn-model").value) return; // asked again meanwhile
  survey = found;
  byId("learn-note").replaceChildren(...(survey ? surveyWords(survey) : ["No session is open."]).map((said) => h("p", {}, said)));
  byId("learn-counts").replaceChildren(...Object.entries(survey?.classes ?? {}).map(([name, count]) =>
    h("li", {}, colour(h("span", { className: "badge small" }, `${count}`), name), ` ${LABELS.words(name)}`)));
  showWays();
}

function showWays() {
  const busy = job.status === "running" ? "A job is at work." : job.status === "done" ? "Use or discard what was learned first." : "";
  for (const kind of /** @type {const} */ (["calibrate", "train"])) {
    const why = survey ? busy || survey[kind] : "";
    byId(`learn-${kind}`).disabled = !survey || Boolean(why);
    byId(`learn-${kind}-why`).textContent = why;
  }
}

/** Ask how far the job is, again and again while it runs, also where the service is away meanwhile: it may be started again. */
async function follow() {
  clearTimeout(timer);
  const before = job.status;
  try {
    job = await call("GET", "/learning");
    unheard = 0;
    showJob();
  } catch (error) {
    const away = error instanceof Refused && (error.status === 0 || error.status >= 500);
    if (!away || before !== "running") throw error;
    unheard += 1;
    if (unheard > 1) byId("learn-progress-text").textContent = "The service does not answer; it is asked again …";
  }
  if (job.status === "running") timer = setTimeout(() => act(follow), LOOK_MS);
  else if (before === "running") tell(job.status === "done" ? "The model has learned" : "Nothing was learned");
}

function showJob() {
  const { status, figures = [], notes = [] } = job;
  byId("learn-job").hidden = status === "none";
  const titles = { none: "", running: "The model learns from", done: "Old and new:", failed: "Nothing was learned from" };
  byId("learn-job-title").textContent = `${titles[status]} ${job.session_name}`.trim();
  byId("learn-running").hidden = status !== "running";
  byId("learn-done").hidden = status !== "done" && status !== "failed";
  byId("learn-use").hidden = status !== "done";
  byId("learn-discard").textContent = status === "done" ? "Discard" : "Close";
  if (status === "running") {
    const { words, share } = progressWords(job);
    byId("learn-progress-text").textContent = words;
    if (share === null) byId("learn-progress").removeAttribute("value");
    else byId("learn-progress").value = share;
  }
  byId("learn-outcome").textContent = status === "done" || status === "failed" ? outcomeWords(job) : "";
  byId("learn-figures").hidden = !figures.length;
  const differs = figures.some(({ difference }) => difference);
  byId("learn-figures").replaceChildren(
    h("thead", {}, tableRow("th", ["", `Old: ${job.model}`, "New", ...(differs ? ["New less old"] : [])])),
    h("tbody", {}, ...figures.map((each) => tableRow("td", [each.name, figureWords(each.old), figureWords(each.new),
      ...(differs ? [each.difference ? figureWords(each.difference, "+") : ""] : [])]))));
  byId("learn-notes").replaceChildren(...notes.map((note) => h("li", {}, note)));
  showWays();
}

/** @type {(asked: Sent.LearnRequest) => Promise<void>} */
async function begin(asked) {
  await call("POST", `/sessions/${state.session}/learning`, { model: byId("learn-model").value, ...asked });
  await follow();
}

async function train() {
  const learns = /** @type {"head" | "all"} */ (chosenOf("learns"));
  await begin({ kind: "train", learns, epochs: Math.round(Number(byId("learn-epochs").value)) || 30 });
}

async function discard() {
  await call("DELETE", "/learning");
  await follow();
}

async function use() {
  const name = await ask("Use this model", "Name", `${job.model}, ${job.session_name}`.slice(0, 60), "Use");
  if (name === null) return;
  await call("POST", "/learning/use", { name });
  await refreshModels();
  tell("The model can be chosen now");
  await follow();
}

/** The models that can learn, and those that were made here. */
function showModels() {
  const chosen = byId("learn-model").value;
  byId("learn-model").replaceChildren(...state.models.map(({ name }) => h("option", { value: name }, name)));
  byId("learn-model").value = state.models.some(({ name }) => name === chosen) ? chosen : state.model;
  const made = state.models.filter(({ learned }) => learned);
  byId("learned-models").replaceChildren(...made.map((model) => h("li", {},
    h("p", {}, h("strong", {}, model.name), ` ${model.origin}`),
    h("button", { type: "button", onclick: () => act(() => remove(model)) }, "Remove"))));
  byId("no-learned").hidden = made.length > 0;
}

/** @type {(model: Service.ModelFacts) => Promise<void>} */
async function remove({ name, learned }) {
  if (!(await ask(`Remove the model ${name}? What it said of recordings is no longer shown.`, null, null, "Remove"))) return;
  await call("DELETE", `/models/${learned}`);
  await refreshModels();
  await look();
}
