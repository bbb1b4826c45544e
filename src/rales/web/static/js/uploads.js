// Files that are dropped or chosen: sent two at a time, each with its annotation if one came along.

import { call } from "./api.js";
import { byId, h, say } from "./dom.js";
import { preview } from "./imports.js";
import { names, paired, withoutSuffix } from "./pairing.js";
import { whole } from "./listing.js";
import { isOpen, openRecording } from "./recordings.js";
import { mergeLines, state, when, whoReads } from "./state.js";

const AT_ONCE = 2;

const waiting = /** @type {(import("./pairing.js").Pair<Dropped> & { session: string | null })[]} */ ([]);
let total = 0;
let done = 0;
let working = 0;
let twice = /** @type {Dropped[]} */ ([]); // recordings that the session had already
let sessionReady = async () => {};

/** `ready()` resolves once there is a session to add to. @type {(ready: () => Promise<void>) => void} */
export function start(ready) {
  sessionReady = ready;
  when(["limits"], () => (byId("files").accept = [...state.limits.suffixes, ".txt", ".json", "audio/*"].join()));
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", () => {
    send([...(byId("files").files ?? [])].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    byId("files").value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("over").hidden = !event.dataTransfer?.types.includes("Files");
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && (byId("over").hidden = true));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    byId("over").hidden = true;
    const { session } = state; // folders take a moment to read
    const { items = [], files: loose = [] } = event.dataTransfer ?? {};
    const entries = [...items].map((item) => item.webkitGetAsEntry?.() ?? null).filter((entry) => entry !== null);
    const files = [...loose].map((file) => ({ file, path: file.name }));
    if (!entries.some((entry) => entry.isDirectory)) return send(files, session);
    const unread = /** @type {{ path: string }[]} */ ([]);
    send((await Promise.all(entries.map((entry) => inside(entry, unread)))).flat(), session, unread);
  });
}

/** Files, {file, path} each -> uploads of the recordings among them to the session of the drop, whichever is open when
 * their turn comes; `unread` are paths that the browser could not read.
 * @type {(files: Dropped[], session?: string | null, unread?: { path: string }[]) => Promise<void>} */
async function send(files, session = state.session, unread = []) {
  byId("refused").replaceChildren();
  if (unread.length) refuse(`${names(unread)}: cannot be read; is it still there, and may it be opened?`);
  const { suffixes } = state.limits ?? (await call("GET", "/limits"));
  await whole().catch(() => {}); // else what is there already is not known
  const listed = session && session === state.session ? state.recordings.map((facts) => facts.path) : [];
  const { sounds, late, refused } = paired(files, suffixes, listed);
  refused.forEach(refuse);
  if (late.length) await preview(late);
  if (sounds.length === 0) return;
  if (!session) {
    await sessionReady();
    session = state.session;
  }
  waiting.push(...sounds.map((pair) => ({ session, ...pair })));
  total += sounds.length;
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  while (waiting.length) {
    showProgress();
    const [{ session, sound, text, events }] = waiting.splice(0, 1);
    const body = new FormData();
    body.append("audio", sound.file);
    body.append("path", sound.path);
    body.append("only_new", "true");
    if (text) body.append("annotation", text.file);
    if (events) body.append("events", events.file);
    try {
      const facts = await call("POST", `/sessions/${session}/recordings`, body);
      if (session === state.session && !whoReads()) mergeLines([facts], []); // a reader's line comes by itself
      if (!isOpen() && session === state.session) await openRecording(facts.id);
    } catch (error) {
      if (error.status === 409 && !text && !events) twice.push(sound);
      else refuse(error.message.includes(withoutSuffix(sound.path)) ? error.message : `${sound.path}: ${error.message}`);
    }
    done += 1;
  }
  working -= 1;
  showProgress();
}

function showProgress() {
  byId("progress").hidden = done >= total;
  byId("progress-text").textContent = `Sending ${Math.min(done + 1, total)} of ${total}`;
  byId("progress-bar").max = total;
  byId("progress-bar").value = done;
  if (done >= total && total > 0) {
    if (twice.length) refuse(`${names(twice)}: in the list already, not added again`);
    say(`${total === 1 ? "The recording was" : `${total} recordings were`} sent`);
    total = done = 0;
    twice = [];
  }
}

/** @type {(sentence: string) => void} */
function refuse(sentence) {
  byId("refused").append(h("li", { role: "alert" }, sentence));
}

/** Entry of a drop -> its files, through all folders, each with its path; `unread` takes what cannot be read.
 * @type {(entry: FileSystemEntry, unread: { path: string }[]) => Promise<Dropped[]>} */
async function inside(entry, unread) {
  const path = entry.fullPath.replace(/^\//, "");
  try {
    if (entry.isFile) {
      const one = /** @type {FileSystemFileEntry} */ (entry);
      return [{ file: await new Promise((resolve, reject) => one.file(resolve, reject)), path }];
    }
    const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return (await Promise.all(found.map((each) => inside(each, unread)))).flat();
      found.push(...some);
    }
  } catch {
    unread.push({ path });
    return [];
  }
}
