// Events in the files of other programs: read into the open recording, which an undo takes back, and saved.

import { call, download } from "./api.js";
import { alarm, byId, h } from "./dom.js";
import { changeEvents } from "./edits.js";
import { joined } from "./events.js";
import { saveNow } from "./saving.js";
import { EXAMPLE, state, when } from "./state.js";
import { readText } from "./text_files.js";

const FORMS = { raven: "Raven boxes", audacity: "Audacity", icbhi: "ICBHI events", sprsound: "SPRSound", aoef: "AOEF" };

export function start() {
  byId("read-events").addEventListener("click", () => byId("event-file").click());
  byId("event-file").addEventListener("change", async () => {
    const [file] = byId("event-file").files ?? [];
    if (file) await read(file).catch((error) => alarm(error.message));
    byId("event-file").value = "";
  });
  saveAs("export-events", (form) => download(`/recordings/${state.current.id}/events/export?format=${form}`));
  saveAs("export-all-events", (form) => download(`/sessions/${state.session}/events/export?format=${form}`));
  when(["events", "current", "heard"], () => {
    const none = !state.events.length || state.current?.id === EXAMPLE;
    for (const button of byId("export-events").querySelectorAll("button")) button.disabled = none;
    byId("read-events").disabled = state.current?.id === EXAMPLE;
  });
}

/** @type {(file: File) => Promise<void>} */
async function read(file) {
  const { current, limits } = state;
  const { events, notes } = await call("POST", `/recordings/${current.id}/events`, { name: file.name, text: await readText(file) });
  if (state.current?.id !== current.id) return; // another recording was opened meanwhile
  const next = joined(state.events, events, limits.events);
  if (next === null) return alarm(`${file.name}: with its events there would be more than ${limits.events}`);
  const many = next.length - state.events.length;
  changeEvents(next, `${many} ${many === 1 ? "event" : "events"} read from ${file.name}`);
  if (notes.length) alarm(notes.join(". "));
}

/** @type {(id: "export-events" | "export-all-events", save: (form: string) => void) => void} */
function saveAs(id, save) {
  byId(id).replaceChildren(...Object.entries(FORMS).map(([value, words]) =>
    h("button", { type: "button", value, onclick: async () => {
      await saveNow();
      const unclear = state.events.filter(({ kind }) => kind === "crackle").length;
      if (value === "sprsound" && unclear && id === "export-events")
        return alarm(`SPRSound has no word for a crackle that is neither fine nor coarse, and there are ${unclear}; say which they are`);
      save(value);
    } }, words)));
}
