// The session's list: loaded in parts, then told by the service what changes, as it happens. A tab that nobody sees asks
// nothing; a browser opens few connections to one place, and every tab that listens takes one.

import { call, eventsOf } from "./api.js";
import { asReader, mergeLines, state, update } from "./state.js";

const AGAIN_MS = 5000; // to wait where the service refused to tell

let loads = 0; // counts, so that an answer for what has been left meanwhile is known as one
let stream = /** @type {EventSource | null} */ (null);
let since = /** @type {string | null} */ (null); // up to which change is known what there is, null before the list is there
let again = 0; // timer
let loading = Promise.resolve(); // until the whole list is there

export function start() {
  document.addEventListener("visibilitychange", follow);
}

/** Load the session's list anew; resolves with its first part, and `whole()` with all of it. Errors: Refused. */
export async function refresh() {
  const number = (loads += 1);
  since = null;
  follow();
  if (!state.session) {
    loading = Promise.resolve();
    return update({ recordings: [], whole: true });
  }
  const known = new Set();
  const next = async (/** @type {string} */ after) => {
    const part = await call("GET", asReader(`/sessions/${state.session}/recordings?${new URLSearchParams({ after })}`));
    if (number !== loads) return null;
    const { recordings, begun, taken } = part;
    for (const { id } of recordings) known.add(id);
    const ended = part.next === null;
    mergeLines(recordings, ended ? gone(known) : [], { begun, taken, whole: ended });
    return part;
  };
  update({ whole: false });
  const first = next("");
  loading = rest(number, first, next);
  loading.catch(() => number === loads && later()); // whoever waits hears of it
  await first;
}

/** Resolves once the whole list is there, whichever load brings it. Errors: Refused. @type {() => Promise<void>} */
export async function whole() {
  const mine = loading;
  const failed = await mine.then(() => null, (error) => error);
  if (mine !== loading) return whole(); // it was loaded anew meanwhile
  if (failed) throw failed;
}

/** The parts after the first one; then what changes is listened for.
 * @type {(number: number, first: Promise<Service.SessionPart | null>, next: (after: string) => Promise<Service.SessionPart | null>) => Promise<void>} */
async function rest(number, first, next) {
  const part = await first;
  let after = part?.next ?? null;
  while (after !== null) after = (await next(after))?.next ?? null;
  if (!part || number !== loads) return;
  since = part.mark; // the first one: what came after that may be missing in any part
  follow();
}

/** What was in the list before and is not in the one that has come now. @type {(known: Set<string>) => string[]} */
const gone = (known) => state.recordings.filter(({ id }) => !known.has(id)).map(({ id }) => id);

/** Listen for changes where somebody looks, and only there. */
function follow() {
  clearTimeout(again);
  if (stream) stream.close();
  stream = null;
  if (since === null || document.hidden) return;
  const mine = eventsOf(asReader(`/sessions/${state.session}/changes?${new URLSearchParams({ since })}`));
  stream = mine;
  mine.addEventListener("message", ({ data, lastEventId }) => {
    if (stream !== mine) return;
    since = lastEventId;
    const { recordings, gone: left, begun, taken } = JSON.parse(data);
    mergeLines(recordings, left, { begun, taken });
  });
  mine.addEventListener("again", () => stream === mine && refresh().catch(later));
  mine.addEventListener("error", () => stream === mine && mine.readyState === mine.CLOSED && later()); // else it tries again by itself
}

/** After a while, see whether the service answers again. */
function later() {
  clearTimeout(again);
  again = setTimeout(() => (since === null ? refresh().catch(later) : follow()), AGAIN_MS);
}
