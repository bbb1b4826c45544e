// Annotations of recordings that are in the list already: what each would change is shown before it counts.

import { call } from "./api.js";
import { LABELS } from "./classes.js";
import { alarm, byId, h, tell } from "./dom.js";
import { names, withoutSuffix } from "./pairing.js";
import { refresh } from "./listing.js";
import { isOpen, openRecording } from "./recordings.js";
import { saveNow } from "./saving.js";
import { state } from "./state.js";
import { readText } from "./text_files.js";

/**
 * A file: with `cycles` it can be imported, into `recording` as the revision after `revision`.
 * @typedef {{ path: string, notes: string[], cycles?: Service.MarkedCycle[], recording?: string, revision?: number,
 *   replaced?: Service.RecordingFacts }} Line
 */
let ready = /** @type {Required<Line>[]} */ ([]); // what is imported if a person says so

export function start() {
  byId("imports").addEventListener("close", () => {
    if (byId("imports").returnValue === "yes") take(ready).catch((error) => alarm(error.message));
    ready = [];
  });
}

/** Files {file, path} -> a table of what is in them, beside what stands; a person takes all that can be read, or nothing.
 * @type {(files: Dropped[]) => Promise<void>} */
export async function preview(files) {
  if (state.reader) return alarm(`${names(files)}: choose no reader at the top left to import annotations, which stand for all`);
  await saveNow();
  const lines = /** @type {Line[]} */ ([]);
  for (const each of files) lines.push(await look(each));
  ready = /** @type {Required<Line>[]} */ (lines.filter(({ cycles }) => cycles));
  /** @type {(list: unknown[], word: string) => string} */
  const many = (list, word) => `${list.length} ${word}${list.length === 1 ? "" : "s"}`;
  const cycles = ready.flatMap((line) => line.cycles);
  byId("imports-sum").textContent = `${many(cycles, "cycle")} for ${many(ready, "recording")}`
    + (ready.length < lines.length ? `; ${lines.length - ready.length} of ${many(lines, "file")} cannot be used` : "")
    + ". Nothing is changed yet; what stands now stays in the history.";
  byId("imports-rows").replaceChildren(...lines.map(row));
  byId("imports-yes").disabled = !ready.length;
  byId("imports").returnValue = "no";
  byId("imports").showModal();
}

/** One file -> {path, cycles, notes, replaced, revision, recording}; without cycles it cannot be used.
 * @type {(file: Dropped) => Promise<Line>} */
async function look({ file, path }) {
  const alike = state.recordings.filter((facts) => withoutSuffix(facts.path).toLowerCase() === withoutSuffix(path).toLowerCase());
  if (alike.length > 1) return { path, notes: [`${alike.length} recordings of this name are in the list; it could belong to each`] };
  if (!alike.length) return { path, notes: ["its recording is not in the list any more"] };
  const [facts] = alike;
  try {
    const found = await call("POST", `/recordings/${facts.id}/annotation`, { name: path, text: await readText(file) });
    return { path, ...found, recording: facts.id, revision: facts.revision, replaced: facts };
  } catch (error) {
    return { path, notes: [error.message] };
  }
}

/** @type {(line: Line) => HTMLElement} */
function row({ path, cycles, notes, replaced }) {
  /** @type {(found: Record<string, number>) => string} */
  const counts = (found) => Object.entries(found).filter(([, many]) => many).map(([name, many]) => `${many} ${LABELS.letters(name)}`).join(", ");
  const byLabel = /** @type {Record<string, number>} */ ({});
  for (const { label } of cycles ?? []) byLabel[label] = (byLabel[label] ?? 0) + 1;
  const standing = replaced ? `${replaced.cycles} (${replaced.confirmed} confirmed)` : "–";
  return h("tr", {}, h("th", { scope: "row" }, path), h("td", {}, cycles ? `${cycles.length}: ${counts(byLabel)}` : "not used"),
    h("td", {}, standing), h("td", {}, notes.join("; ")));
}

/** Import what a person has said yes to; a file that is refused costs no other.
 * @type {(lines: Required<Line>[]) => Promise<void>} */
async function take(lines) {
  const refused = [];
  for (const { path, recording, cycles, revision } of lines) {
    try {
      await call("POST", "/annotations", { recording, cycles, base: revision });
    } catch (error) {
      refused.push(`${path}: ${error.message}`);
    }
  }
  const said = `Annotations imported: ${lines.length - refused.length}`;
  if (refused.length) alarm(`${said} of ${lines.length}. Refused: ${refused.join("; ")}`);
  else tell(said);
  await refresh();
  if (isOpen() && lines.some(({ recording }) => recording === state.current?.id)) await openRecording(state.current.id);
}
