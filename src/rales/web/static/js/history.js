// The saved states of the open recording's annotation, and going back to one of them.

import { call } from "./api.js";
import { alarm, byId, h, say } from "./dom.js";
import { standing } from "./edits.js";
import { reopen } from "./recordings.js";
import { saveNow } from "./saving.js";
import { asReader, state, updateLine, whoReads } from "./state.js";

export function start() {
  byId("history").addEventListener("click", () => open().catch((error) => alarm(error.message)));
}

async function open() {
  await saveNow();
  const { current } = state;
  if (!current) return;
  const revisions = await call("GET", asReader(`/recordings/${current.id}/revisions`));
  byId("revisions-list").replaceChildren(...revisions.map((one, index) => entry(current, one, index === 0)));
  byId("revisions-note").textContent = revisions.length ? "" : "Nothing has been saved yet.";
  byId("revisions").showModal();
}

/** @type {(current: Service.RecordingDetail, one: Service.Revision, stands: boolean) => HTMLElement} */
function entry(current, one, stands) {
  const events = one.events ? `, ${one.events} ${one.events === 1 ? "event" : "events"}` : "";
  const many = `${one.cycles} ${one.cycles === 1 ? "cycle" : "cycles"}, ${one.confirmed} confirmed${events}`;
  const title = one.revision ? `Revision ${one.revision}` : "Before the first change";
  const restore = h("button", { type: "button", "aria-label": `Restore: ${title}`, onclick: () => back(current, one) }, "Restore");
  return h("li", {},
    h("span", {}, h("strong", {}, title), h("span", { className: "soft" }, [when(one.saved), many].filter(Boolean).join(" · "))),
    stands ? h("span", { className: "soft" }, "stands now") : restore);
}

/** An earlier state becomes the newest; the one that stood before stays in the list.
 * @type {(current: Service.RecordingDetail, one: Service.Revision) => Promise<void>} */
async function back(current, one) {
  try {
    const [before, who] = [standing(), whoReads()];
    const { revision, facts } = await call("POST", asReader(`/recordings/${current.id}/revisions/${one.revision}/restore`));
    updateLine(facts, who);
    byId("revisions").close();
    await reopen(current.id, before);
    say(`Restored, and saved as revision ${revision}`);
  } catch (error) {
    alarm(error.message);
  }
}

/** @type {(saved: number | null) => string} */
const when = (saved) =>
  saved === null ? "" : new Date(1000 * saved).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
