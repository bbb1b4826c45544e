// Cycles and what can be done to them: every function takes a list and gives a new one, sorted by start, or null for what
// is not possible. Times are whole milliseconds from their arrival on, as the service keeps them, and are compared as
// such, so that it never refuses what was made here.

import { LABELS } from "./classes.js";

const SHORTEST_MS = 50; // as the service asks
const TOUCHING_MS = 5;
const LONGEST_NOTE = 300; // letters, as the service takes

let last = 0;
/** @type {(cycle: Omit<Cycle, "id">) => Cycle} */
export const withId = (cycle) => ({ ...cycle, start_s: round(cycle.start_s), end_s: round(cycle.end_s), id: `c${(last += 1)}` });

/** What two cycles of the same stretch of time share; the service rounds to milliseconds as well.
 * @type {(cycle: Service.Span) => string} */
export const timeKey = (cycle) => `${cycle.start_s.toFixed(3)}-${cycle.end_s.toFixed(3)}`;

/** @type {(seconds: number) => number} */
const ms = (seconds) => Math.round(seconds * 1000);
/** @type {(seconds: number) => number} */
const round = (seconds) => ms(seconds) / 1000;
/** Length of a recording -> its last whole millisecond. @type {(duration_s: number) => number} */
const lastMs = (duration_s) => Math.floor(duration_s * 1000 + 1e-6);
/** @type {(cycles: Cycle[]) => Cycle[]} */
const sorted = (cycles) => [...cycles].sort((a, b) => a.start_s - b.start_s || a.end_s - b.end_s);
/** The cycles, sorted; null where two would be the same stretch of time, which the service refuses.
 * @type {(cycles: Cycle[]) => Cycle[] | null} */
const distinct = (cycles) => (new Set(cycles.map(timeKey)).size === cycles.length ? sorted(cycles) : null);

/** Move one edge ("start_s" or "end_s") of a cycle. A neighbour that touches it moves along, another one is a wall. Null
 * where it cannot move, or another cycle is just there.
 * @type {(cycles: Cycle[], id: string, edge: "start_s" | "end_s", seconds: number, duration_s: number) => Cycle[] | null} */
export function move(cycles, id, edge, seconds, duration_s) {
  const index = cycles.findIndex((cycle) => cycle.id === id);
  const cycle = cycles[index];
  const isStart = edge === "start_s";
  const neighbour = cycles[isStart ? index - 1 : index + 1];
  const other = isStart ? "end_s" : "start_s";
  const touches = neighbour && Math.abs(ms(neighbour[other]) - ms(cycle[edge])) < TOUCHING_MS;
  const [start, end] = [ms(cycle.start_s), ms(cycle.end_s)];
  let low = isStart ? 0 : start + SHORTEST_MS;
  let high = isStart ? end - SHORTEST_MS : lastMs(duration_s);
  if (neighbour && isStart) low = touches ? ms(neighbour.start_s) + SHORTEST_MS : Math.min(ms(neighbour.end_s), start);
  if (neighbour && !isStart) high = touches ? ms(neighbour.end_s) - SHORTEST_MS : Math.max(ms(neighbour.start_s), end);
  if (low > high) return null; // between two cycles of the shortest length
  const there = Math.min(Math.max(ms(seconds), low), high) / 1000;
  return distinct(cycles.map((each) => {
    if (each === cycle) return { ...each, [edge]: there };
    return touches && each === neighbour ? { ...each, [other]: there } : each;
  }));
}

/** Give a cycle a label, with which it is confirmed and usable.
 * @type {(cycles: Cycle[], id: string, label: string) => Cycle[]} */
export function relabel(cycles, id, label) {
  return setUnusable(cycles, id, false).map((cycle) => (cycle.id === id ? { ...cycle, label, confirmed: true } : cycle));
}

/** A cycle -> two of the same label; null where a part would be too short or is a cycle already, or there are `most` already.
 * @type {(cycles: Cycle[], id: string, seconds: number, most: number) => Cycle[] | null} */
export function split(cycles, id, seconds, most) {
  const cycle = /** @type {Cycle} */ (cycles.find((each) => each.id === id));
  const there = ms(seconds);
  if (there - ms(cycle.start_s) < SHORTEST_MS || ms(cycle.end_s) - there < SHORTEST_MS || cycles.length >= most) return null;
  const parts = [{ ...cycle, end_s: there / 1000 }, withId({ ...cycle, start_s: there / 1000 })];
  return distinct(cycles.flatMap((each) => (each === cycle ? parts : [each])));
}

/** A cycle and the one after it -> one cycle that holds what both hold; null for the last one, where no class says what
 * both hold, and where one of them alone is unusable.
 * @type {(cycles: Cycle[], id: string, labels?: LabelRules) => Cycle[] | null} */
export function merge(cycles, id, labels = LABELS) {
  const index = cycles.findIndex((cycle) => cycle.id === id);
  const [first, second] = cycles.slice(index, index + 2);
  const label = second ? labels.union(first.label, second.label) : null;
  if (label === null || Boolean(first.unusable) !== Boolean(second.unusable)) return null;
  const end_s = Math.max(first.end_s, second.end_s);
  const confirmed = first.confirmed && second.confirmed;
  const note = [...new Set([first.note, second.note])].filter(Boolean).join("; ").slice(0, LONGEST_NOTE);
  const merged = { ...first, end_s, label, confirmed, note };
  return [...cycles.slice(0, index), merged, ...cycles.slice(index + 2)];
}

/** @type {(cycles: Cycle[], id: string) => Cycle[]} */
export const remove = (cycles, id) => cycles.filter((cycle) => cycle.id !== id);

/** A new cycle from one time towards another, as far as the gap around the first goes; null where that is inside a cycle,
 * there is no room, or there are `most` already.
 * @type {(cycles: Cycle[], from_s: number, to_s: number, duration_s: number, most: number) => Cycle[] | null} */
export function add(cycles, from_s, to_s, duration_s, most) {
  const at = Math.min(Math.max(ms(from_s), 0), lastMs(duration_s));
  if (cycles.length >= most || cycles.some((cycle) => ms(cycle.start_s) < at && at < ms(cycle.end_s))) return null;
  const [floor, wall] = [
    Math.max(0, ...cycles.map((cycle) => ms(cycle.end_s)).filter((end) => end <= at)),
    Math.min(lastMs(duration_s), ...cycles.map((cycle) => ms(cycle.start_s)).filter((start) => start >= at)),
  ];
  const start = Math.max(Math.min(at, ms(to_s)), floor);
  const end = Math.min(Math.max(at, ms(to_s)), wall);
  if (end - start < SHORTEST_MS) return null;
  const cycle = withId({ start_s: start / 1000, end_s: end / 1000, label: LABELS.normal, confirmed: false });
  return distinct([...cycles, cycle]);
}

/** Give a cycle a note, "" for none. @type {(cycles: Cycle[], id: string, note: string) => Cycle[]} */
export const setNote = (cycles, id, note) => cycles.map((cycle) => (cycle.id === id ? { ...cycle, note } : cycle));

/** Say that nothing can be told of a cycle, which a person has then found, or take that back: its label is unjudged.
 * @type {(cycles: Cycle[], id: string, unusable: boolean) => Cycle[]} */
export function setUnusable(cycles, id, unusable) {
  return cycles.map((cycle) => {
    if (cycle.id !== id) return cycle;
    const { unusable: before, ...rest } = cycle;
    return unusable ? { ...rest, confirmed: true, unusable } : { ...rest, confirmed: false };
  });
}
