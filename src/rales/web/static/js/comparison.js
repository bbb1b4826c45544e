// The readers of a round side by side: how far they are, how far they agree, and which cycles they call differently.

import { call, download } from "./api.js";
import { LABELS } from "./classes.js";
import { alarm, ask, byId, clock, h, percent, tableRow, tell } from "./dom.js";
import { refresh } from "./listing.js";
import { become, nameOf } from "./readers.js";
import { openRecording } from "./recordings.js";
import { saveNow } from "./saving.js";
import { state, update } from "./state.js";
import { showView } from "./views.js";

let progress = /** @type {Service.Progress[]} */ ([]);
let changes = /** @type {Service.ReaderChange[]} */ ([]); // of readers' names

export function start() {
  byId("compare-round").addEventListener("change", () => compare().catch((error) => alarm(error.message)));
  byId("settle-round").addEventListener("click", () => settle().catch((error) => alarm(error.message)));
  byId("export-readers").addEventListener("click", () => download(`/sessions/${state.session}/readers/export`));
}

export async function show() {
  await saveNow();
  const { session } = state;
  [progress, changes] = !session ? [[], []] : await Promise.all([
    call("GET", `/sessions/${session}/readers`), call("GET", `/sessions/${session}/readers/changes`)]);
  const rounds = [...new Set([...progress.map(({ round }) => round), state.round])].sort((a, b) => a - b);
  const before = Number(byId("compare-round").value) || state.round;
  byId("compare-round").replaceChildren(...rounds.map((round) => h("option", { value: `${round}` }, `${round}`)));
  byId("compare-round").value = `${rounds.includes(before) ? before : state.round}`;
  showProgress();
  await compare();
}

function showProgress() {
  byId("export-readers").disabled = !progress.some(({ confirmed }) => confirmed);
  byId("readers-progress").hidden = !progress.length;
  byId("readers-progress").replaceChildren(
    h("thead", {}, tableRow("th", ["Reader", "Recordings", "Decided", "Change"])),
    h("tbody", {}, ...progress.map((each) => tableRow("td", [nameOf(each.reader, each.round), `${each.recordings}`,
      `${each.confirmed} of ${each.cycles}`, h("span", {},
        button("Rename", () => rename(each.reader), each.reader), " ", button("Remove", () => remove(each.reader), each.reader))]))));
  byId("readers-changed").replaceChildren(...changes.map(({ made, reader, became }) =>
    h("li", {}, `${new Date(1000 * made).toLocaleString()}: ${reader} ${became ? `is now called ${became}` : "was removed"}`)));
}

/** @type {(word: string, act: () => Promise<void>, reader: string) => HTMLElement} */
const button = (word, act, reader) => h("button", {
  type: "button", "aria-label": `${word} ${reader}`, onclick: () => act().catch((error) => alarm(error.message)),
}, word);

/** All rounds and revisions of a reader get another name. @type {(reader: string) => Promise<void>} */
async function rename(reader) {
  const name = await ask(`Rename ${reader}`, "Name", reader, "Save");
  if (name === null || name === reader) return;
  await saveNow();
  await call("PATCH", `/sessions/${state.session}/readers`, { reader, name });
  if (state.reader === reader) await become(name.replace(/\s+/g, " ").trim(), state.round);
  await show();
}

/** @type {(reader: string) => Promise<void>} */
async function remove(reader) {
  if (!(await ask(`Remove all that ${reader} has said in this session, in every round? What was settled stays.`, null, null, "Remove"))) return;
  await saveNow();
  await call("DELETE", `/sessions/${state.session}/readers?${new URLSearchParams({ reader })}`);
  if (state.reader === reader) await become("", 1);
  await show();
}

async function compare() {
  const round = Number(byId("compare-round").value);
  const readers = progress.filter((each) => each.round === round);
  update({ compared: round });
  const found = readers.length > 1
    ? await call("GET", `/sessions/${state.session}/agreement?${new URLSearchParams({ reader: state.reader, round: `${round}` })}`)
    : /** @type {Service.Agreement} */ (/** @type {unknown} */ (
      { cycles: 0, findings: {}, pairs: [], differences: [], readers: [] }));
  byId("readers-note").textContent = readers.length < 2
    ? "Agreement needs two readers in a round: choose one at the top left, and label."
    : found.cycles ? `Decided by two readers or more: ${found.cycles} cycles; patients: ${found.patients}.` : "No cycle has been decided by two readers yet.";
  const parts = Object.entries(found.findings);
  if (found.alpha) parts.unshift(["All classes", found]);
  byId("readers-figures").replaceChildren(...(found.cycles ? parts.map(([name, part]) => figures(name, part, found.readers)) : []));
  byId("differences").replaceChildren(...found.differences.map((each) => difference(each)));
  byId("differences-title").textContent = found.cycles ? `${found.differences.length} called differently` : "Differences";
  byId("settle-round").disabled = !found.cycles || Boolean(state.reader);
  byId("settle-round").title = state.reader ? "For whoever is no reader: choose that at the top left" : "";
}

/** @type {(name: string, part: Service.Finding, readers: string[]) => HTMLElement} */
function figures(name, part, readers) {
  const words = LABELS.classes.includes(name) ? LABELS.words(name) : name;
  /** @type {[string, Service.Figure | null][]} */
  const rows = [["Krippendorff's alpha", part.alpha]];
  if (readers.length > 2) rows.push(["Fleiss' kappa", part.fleiss_kappa]);
  for (const pair of part.pairs) rows.push([`Cohen's kappa, ${pair.readers.join(" and ")}`, pair.kappa]);
  return h("table", { "aria-label": `Agreement: ${words}` },
    h("thead", {}, tableRow("th", [words, "Value", "95 %", "Same", "Cycles"])),
    h("tbody", {}, ...rows.map(([what, figure]) => tableRow("td", [what, ...cells(figure)]))));
}

/** @type {(figure: Service.Figure | null) => string[]} */
function cells(figure) {
  if (!figure) return ["–", "", "", "0"];
  const [low, high] = figure.ci95;
  const number = (/** @type {number | null} */ value) => (value === null ? "–" : value.toFixed(2));
  return [number(figure.value), low === null ? "no interval" : `${number(low)} to ${number(high)}`, percent(figure.agreed), `${figure.cycles}`];
}

/** @type {(each: Service.Difference) => HTMLElement} */
function difference(each) {
  const said = Object.entries(each.labels).map(([reader, label]) => `${reader}: ${LABELS.isLabel(label) ? LABELS.words(label) : label}`);
  return h("li", {}, h("button", { type: "button", className: "entry", onclick: () => open(each) },
    h("span", { className: "entry-name" }, `${each.title}, ${clock(each.start_s)} to ${clock(each.end_s)}`),
    h("span", { className: "entry-facts" }, said.join(" · "))));
}

/** Open the cycle that is called differently, for whoever reads or is to settle it.
 * @type {(each: Service.Difference) => Promise<void>} */
async function open({ recording, start_s, end_s }) {
  showView("recordings");
  if (state.current?.id !== recording) await openRecording(recording);
  const middle = (start_s + end_s) / 2;
  const distance = (/** @type {Cycle} */ cycle) => Math.abs((cycle.start_s + cycle.end_s) / 2 - middle);
  const [nearest] = [...state.cycles].sort((a, b) => distance(a) - distance(b));
  if (nearest) update({ selected: nearest.id });
}

/** What all readers of the round say becomes what stands; the differences are then what is left to review. */
async function settle() {
  const round = Number(byId("compare-round").value);
  const { settled, recordings, differ } = await call("POST", `/sessions/${state.session}/settle`, { round });
  tell(`Labels taken: ${settled}`);
  const id = state.current?.id;
  await refresh();
  if (id) await openRecording(id);
  byId("readers-note").textContent = `Taken as confirmed: ${settled} (recordings: ${recordings}). Left to review, as readers differ: ${differ}.`;
}
