// Files that are dropped or chosen: sent two at a time, each with its annotation if one came along.

import { call } from "./api.js";
import { byId, h, say } from "./dom.js";
import { openRecording, refresh } from "./recordings.js";
import { state } from "./state.js";

const AUDIO = /\.(wav|flac|mp3|ogg|oga|opus|aif|aiff|m4a|aac)$/i;
const AT_ONCE = 2;

let waiting = [];
let total = 0;
let done = 0;
let working = 0;
let sessionReady = null;

/** `ready()` resolves once there is a session to add to. */
export function start(ready) {
  sessionReady = ready;
  const drop = byId("drop");
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", () => {
    send([...byId("files").files]);
    byId("files").value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const { session } = state; // folders take a moment to read
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...event.dataTransfer.files];
    const folders = entries.some((entry) => entry.isDirectory);
    send(folders ? (await Promise.all(entries.map(inside))).flat() : files, session);
  });
}

/** Files -> uploads of the recordings among them to the session of the drop, whichever is open when their turn comes. */
async function send(files, session = state.session) {
  const texts = new Map(files.filter((file) => /\.txt$/i.test(file.name)).map((file) => [stem(file), file]));
  const sounds = files.filter((file) => AUDIO.test(file.name));
  const others = files.filter((file) => !AUDIO.test(file.name) && !/\.txt$/i.test(file.name));
  byId("refused").replaceChildren();
  if (others.length === files.length) others.forEach((file) => refuse(file.name, "not a recording that is known here"));
  if (sounds.length === 0 && texts.size) refuse([...texts.values()][0].name, "an annotation without its recording");
  if (!session) {
    await sessionReady();
    session = state.session;
  }
  waiting.push(...sounds.map((sound) => ({ session, sound, text: texts.get(stem(sound)) })));
  total += sounds.length;
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  while (waiting.length) {
    showProgress();
    const { session, sound, text } = waiting.shift();
    const body = new FormData();
    body.append("audio", sound);
    if (text) body.append("annotation", text);
    try {
      const facts = await call("POST", `/sessions/${session}/recordings`, body);
      if (!state.current && session === state.session) await openRecording(facts.id);
    } catch (error) {
      refuse(sound.name, error.message);
    }
    done += 1;
    await refresh().catch(() => {});
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
    say(`${total === 1 ? "The recording was" : `${total} recordings were`} sent`);
    total = done = 0;
  }
}

function refuse(name, sentence) {
  const text = sentence.startsWith(`${stem({ name })}:`) ? sentence : `${name}: ${sentence}`;
  byId("refused").append(h("li", { role: "alert" }, text));
}

const stem = (file) => file.name.replace(/\.[^.]+$/, "");

/** Entry of a drop -> its files, through all folders. */
async function inside(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return (await Promise.all(found.map(inside))).flat();
    found.push(...some);
  }
}
