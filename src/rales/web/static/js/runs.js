// The runs that `rales serve --runs` names, and their reports in a frame that may run nothing.

import { call, showIn } from "./api.js";
import { byId, h, percent } from "./dom.js";

let known = false;

/** Fill the view, once. */
export async function show() {
  if (known) return;
  const found = await call("GET", "/runs");
  known = true;
  if (found.length === 0) {
    byId("runs-note").textContent = "No run to show. Start the service with --runs and a folder of training runs.";
    return;
  }
  const all = { name: "", recipe: `${found.length} runs`, finished: true, score: null };
  byId("runs").replaceChildren(...(found.length > 1 ? [all, ...found] : found).map(entry));
}

/** @type {(run: Service.RunFacts) => HTMLElement} */
function entry(run) {
  const facts = [run.recipe, run.finished ? null : "unfinished", run.score === null ? null : `Score ${percent(run.score)}`];
  const button = h("button", { type: "button", className: "entry", disabled: !run.finished },
    h("span", { className: "entry-name" }, run.name || "All runs"),
    h("span", { className: "entry-facts soft" }, facts.filter(Boolean).join(" · ")));
  button.addEventListener("click", () => openReport(run, button));
  return h("li", {}, button);
}

/** @type {(run: Service.RunFacts, button: HTMLElement) => void} */
function openReport(run, button) {
  for (const other of document.querySelectorAll("#runs [aria-current]")) other.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  byId("runs-note").textContent = "The report is drawn …";
  byId("report").hidden = false;
  byId("report").onload = () => (byId("runs-note").textContent = run.name || "All runs");
  showIn(byId("report"), `/runs/report?name=${encodeURIComponent(run.name)}`);
}
