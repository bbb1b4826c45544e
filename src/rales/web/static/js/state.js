// Everything the page knows, in one object; whoever shows a part of it is told when that part changes. What is declared
// without null is there as soon as the page can use it: a recording wherever there are cycles, the rest once it has come up.

export const state = {
  sessions: /** @type {Service.Session[]} */ ([]),
  session: /** @type {string | null} */ (null), // id
  recordings: /** @type {Service.RecordingFacts[]} */ ([]), // facts of the list
  whole: true, // whether all of them are there
  begun: 0, // turn of the recording that the model works on
  taken: /** @type {[number, number] | null} */ (null), // files of the folder that are taken in, and all of them
  current: /** @type {Service.RecordingDetail} */ (/** @type {any} */ (null)), // detail of the open recording
  heard: false, // whether its sound is in the player, so that it can be judged
  level: "", // how loud it is, in words
  cycles: /** @type {Cycle[]} */ ([]), // its cycles as they stand
  selected: /** @type {string | null} */ (null), // id of a cycle
  events: /** @type {SoundEvent[]} */ ([]), // the events of the recording as they stand (events.js)
  event: /** @type {string | null} */ (null), // id of the selected one
  marking: /** @type {EventKind | null} */ (null), // the kind of event that a drag or a click on the picture makes
  scores: /** @type {Record<string, Record<string, Service.ScoredSpan>>} */ ({}), // model -> time key -> {label, p_normal, …}
  limits: /** @type {Service.Accepted} */ (/** @type {any} */ (null)), // what the service takes
  models: /** @type {Service.ModelFacts[]} */ ([]),
  model: "", // whose probabilities are shown
  compare: "", // whose stand beside them
  threshold: 0.5,
  view: { start_s: 0, end_s: 1 }, // the stretch of time that is seen
  picture: /** @type {Picture} */ (/** @type {any} */ (null)), // how it is drawn (picture_settings.js)
  reader: "", // whose annotation is made; "" makes what stands for all
  round: 1, // of that reader
  compared: 1, // the round of the readers that whoever is none sees
  readings: /** @type {Service.OtherReading[]} */ ([]), // what other readers have decided of the open recording, as far as this one may see it
  looping: false,
  reviewing: false, // whether a label leads to the next cycle
  explain: false,
};

/** @typedef {keyof typeof state | "band"} Part of what is shown; the band that is heard is kept by its fields */

const listeners = /** @type {{ parts: Part[], show: () => void }[]} */ ([]);

/**
 * Call `show` whenever one of the parts named changes.
 * @param {Part[]} parts
 * @param {() => void} show
 */
export function when(parts, show) {
  listeners.push({ parts, show });
}

/**
 * Change parts of the state and tell everyone who shows them.
 * @param {Partial<typeof state & { band: null }>} change
 */
export function update(change) {
  Object.assign(state, change);
  for (const { parts, show } of listeners) if (parts.some((part) => part in change)) show();
}

/** Who reads now, "" for nobody: what was asked by another is not about what is shown. */
export const whoReads = () => (state.reader ? `${state.round} ${state.reader}` : "");

/** A recording's line in the list is now this one, unless a later state of it is known already, or somebody else reads than
 * `who`, whose line it is.
 * @type {(facts: Service.RecordingFacts, who: string) => void} */
export function updateLine(facts, who) {
  if (who === whoReads() && state.recordings.some(({ id }) => id === facts.id)) mergeLines([facts], []);
}

/** Lines that have come and ids of recordings that are gone -> the list with them; `more` is changed along with it. A line
 * may be overtaken by a later one on its way. What of `more` is as it was is told nobody: every few seconds the service says
 * only that it is there.
 * @type {(lines: Service.RecordingFacts[], gone: string[], more?: Partial<Pick<typeof state, "begun" | "taken" | "whole">>) => void} */
export function mergeLines(lines, gone, more = {}) {
  const told = /** @type {[string, unknown][]} */ (Object.entries(more)).filter(([part, value]) => `${value}` !== `${state[/** @type {"begun"} */ (part)]}`);
  if (lines.length || gone.length) {
    const list = new Map(state.recordings.map((facts) => [facts.id, facts]));
    for (const facts of lines) {
      const known = list.get(facts.id);
      if (!known || known.changed <= facts.changed) list.set(facts.id, facts);
    }
    for (const id of gone) list.delete(id);
    told.push(["recordings", [...list.values()]]);
  }
  if (told.length) update(Object.fromEntries(told));
}

export const EXAMPLE = "example"; // the recording that is shown where there is none; what is done to it is not kept

/**
 * A recording -> where the service answers about it.
 * @param {string} id
 * @returns {"/example" | `/recordings/${string}`}
 */
export const pathOf = (id) => (id === EXAMPLE ? "/example" : `/recordings/${id}`);

/**
 * A path of the service -> the same for the reader and the round, by default those that are chosen.
 * @template {string} Path
 * @param {Path} path
 * @param {{ reader?: string, round?: number }} who
 */
export function asReader(path, { reader, round } = state) {
  if (!reader) return path;
  const query = new URLSearchParams({ reader, round: `${round}` });
  return /** @type {Path} */ (`${path}${path.includes("?") ? "&" : "?"}${query}`);
}

/** @type {() => SoundEvent | null} */
export const selectedEvent = () => state.events.find((event) => event.id === state.event) ?? null;
/** @type {() => Cycle | null} */
export const selectedCycle = () => state.cycles.find((cycle) => cycle.id === state.selected) ?? null;
