// Who reads: the name and the round, kept by the browser; and what other readers have decided of the open recording.

import { call } from "./api.js";
import { alarm, byId, h, tell } from "./dom.js";
import { refresh } from "./listing.js";
import { close, openRecording, showExample } from "./recordings.js";
import { saveNow } from "./saving.js";
import { EXAMPLE, state, update, when } from "./state.js";

const KEY = "rales-reader";
let asked = 0;

export function start() {
  const { reader = "", round = 1 } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  update({ reader, round });
  when(["reader", "round"], show);
  when(["current"], () => load().catch(() => {})); // a lane of others is no reason to disturb
  // Before it is shown, not after: what is typed at once would be lost
  byId("reader-menu").addEventListener("beforetoggle", (event) => event.newState === "open" && fill());
  byId("reader-use").addEventListener("click", use);
  byId("reader-none").addEventListener("click", () => become("", 1));
  byId("reader-name").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // else the button of the menu, which has the focus again, is pressed
    byId("reader-menu").hidePopover();
    use();
  });
  show();
}

/** Read as somebody else, or as nobody. What was open stays open.
 * @type {(reader: string, round: number) => Promise<void>} */
export async function become(reader, round) {
  if (reader === state.reader && round === state.round) return;
  const open = state.current?.id;
  await saveNow();
  close();
  update({ reader, round, recordings: [], readings: [] });
  localStorage.setItem(KEY, JSON.stringify({ reader, round }));
  try {
    await refresh();
    if (open && open !== EXAMPLE) await openRecording(open);
    else await showExample();
    byId("main").focus(); // so that keys are for the cycles, not for the button of the menu
    tell(reader ? `${nameOf(reader, round)} reads; what others say is hidden until you decide` : "No reader: what stands for all");
  } catch (error) {
    alarm(error.message);
  }
}

/** @type {(reader: string, round: number) => string} */
export const nameOf = (reader, round) => (round > 1 ? `${reader}, round ${round}` : reader);

function use() {
  const reader = byId("reader-name").value.replace(/\s+/g, " ").trim();
  const round = Math.min(Math.max(Math.round(Number(byId("reader-round").value)) || 1, 1), 99);
  if (reader) become(reader, round);
  else alarm("A reader needs a name");
}

function show() {
  byId("show-reader").textContent = state.reader ? nameOf(state.reader, state.round) : "No reader";
  byId("show-reader").title = state.reader ? "Who reads" : "Nobody reads: these labels stand for all";
  document.documentElement.dataset.blind = `${Boolean(state.reader)}`;
}

async function fill() {
  byId("reader-name").value = state.reader;
  byId("reader-round").value = `${state.round}`;
  if (!state.session) return;
  const known = await call("GET", `/sessions/${state.session}/readers`).catch(() => []);
  const names = [...new Set(known.map(({ reader }) => reader))];
  byId("reader-names").replaceChildren(...names.map((value) => h("option", { value })));
}

/** Ask what others have decided, whenever the recording or its revision is another one. */
let last = "";
async function load() {
  const { current } = state;
  const query = new URLSearchParams({ reader: state.reader, round: `${state.reader ? state.round : state.compared}` });
  const wanted = current && current.id !== EXAMPLE ? /** @type {const} */ (`/recordings/${current.id}/readings?${query}`) : "";
  const key = `${wanted} ${current?.revision}`;
  if (key === last) return;
  last = key;
  const number = (asked += 1);
  const readings = wanted ? await call("GET", wanted) : /** @type {Service.OtherReading[]} */ ([]);
  if (number === asked && (readings.length || state.readings.length)) update({ readings });
}
