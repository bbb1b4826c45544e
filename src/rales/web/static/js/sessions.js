// Sessions: choose, begin, rename and remove one. The one that was open last opens again.

import { call } from "./api.js";
import { ask, byId, h } from "./dom.js";
import { dismiss as dismissFacts } from "./facts.js";
import { refresh, whole } from "./listing.js";
import { close, openRecording, showExample } from "./recordings.js";
import { dismiss } from "./saving.js";
import { state, update, when } from "./state.js";

export async function start() {
  when(["sessions", "session"], show);
  byId("session").addEventListener("change", () => enter(byId("session").value));
  byId("session-new").addEventListener("click", async () => {
    const name = await ask("New session", "Name", today(), "Begin");
    if (name !== null) await begin(name);
  });
  byId("session-rename").addEventListener("click", rename);
  byId("session-remove").addEventListener("click", remove);
  await list();
  const last = localStorage.getItem("rales-session");
  const known = state.sessions.find((session) => session.id === last) ?? state.sessions[0];
  if (known) await enter(known.id);
  else showExample();
}

/** Resolves once there is a session. */
export async function ready() {
  if (!state.session) await begin(today());
}

async function list() {
  update({ sessions: await call("GET", "/sessions") });
}

/** @type {(name: string) => Promise<void>} */
async function begin(name) {
  const session = await call("POST", "/sessions", { name });
  await list();
  await enter(session.id);
}

/** @type {(session: string) => Promise<void>} */
async function enter(session) {
  localStorage.setItem("rales-session", session);
  close();
  update({ session, recordings: [] });
  await refresh();
  const last = localStorage.getItem(`rales-open-${session}`);
  const open = (await isThere(last)) ? last : state.recordings[0]?.id;
  if (open) await openRecording(open);
  else showExample();
}

/** Whether a recording is in the session, of whose list only a part may be there.
 * @type {(id: string | null) => Promise<boolean>} */
async function isThere(id) {
  if (!id || state.whole || state.recordings.some((facts) => facts.id === id)) return state.recordings.some((facts) => facts.id === id);
  return (await call("GET", `/recordings/${id}`).catch(() => null))?.session === state.session;
}

async function rename() {
  const name = await ask("Rename the session", "Name", chosen()?.name, "Save");
  if (name === null || !state.session) return;
  await call("PATCH", `/sessions/${state.session}`, { name });
  await list();
}

async function remove() {
  const session = chosen();
  if (!session) return;
  await whole(); // else the rest would not be counted, and what is not saved of it would be sent at every start
  if (session.id !== state.session) return; // another one was opened meanwhile
  const many = state.recordings.length;
  const sure = await ask(`Remove ${session.name} with its ${many} recordings and annotations?`, null, null, "Remove");
  if (!sure) return;
  const { recordings } = state;
  await call("DELETE", `/sessions/${session.id}`);
  for (const { id } of recordings) {
    dismiss(id);
    dismissFacts(id);
  }
  await list();
  if (state.sessions.length) return enter(state.sessions[0].id);
  close();
  update({ session: null, recordings: [] });
  showExample();
}

const chosen = () => state.sessions.find((session) => session.id === state.session);

function show() {
  byId("session").replaceChildren(...state.sessions.map((session) => h("option", { value: session.id }, session.name)));
  if (state.sessions.length === 0) byId("session").append(h("option", { value: "" }, "none yet"));
  byId("session").value = state.session ?? "";
  byId("session-rename").disabled = byId("session-remove").disabled = !state.session;
}

const today = () => new Date().toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
