// Cycles and what can be done to them: every function takes a list and gives a new one, sorted by start.

export const SHORTEST_S = 0.05; // as the service asks
const TOUCHING_S = 0.005;

let last = 0;
export const withId = (cycle) => ({ ...cycle, id: `c${(last += 1)}` });

/** What two cycles of the same stretch of time share; the service rounds to milliseconds as well. */
export const timeKey = (cycle) => `${cycle.start_s.toFixed(3)}-${cycle.end_s.toFixed(3)}`;

export const round = (seconds) => Math.round(seconds * 1000) / 1000;

/** Move one edge ("start_s" or "end_s") of a cycle. A neighbour that touches it moves along, another one is a wall. */
export function move(cycles, id, edge, seconds, duration_s) {
  const index = cycles.findIndex((cycle) => cycle.id === id);
  const cycle = cycles[index];
  const isStart = edge === "start_s";
  const neighbour = cycles[isStart ? index - 1 : index + 1];
  const other = isStart ? "end_s" : "start_s";
  const touches = neighbour && Math.abs(neighbour[other] - cycle[edge]) < TOUCHING_S;
  let low = isStart ? 0 : cycle.start_s + SHORTEST_S;
  let high = isStart ? cycle.end_s - SHORTEST_S : duration_s;
  if (neighbour && isStart) low = touches ? neighbour.start_s + SHORTEST_S : Math.min(neighbour.end_s, cycle.start_s);
  if (neighbour && !isStart) high = touches ? neighbour.end_s - SHORTEST_S : Math.max(neighbour.start_s, cycle.end_s);
  const there = round(Math.min(Math.max(seconds, low), high));
  return cycles.map((each) => {
    if (each === cycle) return { ...each, [edge]: there };
    return touches && each === neighbour ? { ...each, [other]: there } : each;
  });
}

export function relabel(cycles, id, label) {
  return cycles.map((cycle) => (cycle.id === id ? { ...cycle, label, confirmed: true } : cycle));
}

/** A cycle -> two of the same label; null where a part would be too short. */
export function split(cycles, id, seconds) {
  const cycle = cycles.find((each) => each.id === id);
  const there = round(seconds);
  if (there - cycle.start_s < SHORTEST_S || cycle.end_s - there < SHORTEST_S) return null;
  const parts = [{ ...cycle, end_s: there }, withId({ ...cycle, start_s: there })];
  return cycles.flatMap((each) => (each === cycle ? parts : [each]));
}

/** A cycle and the one after it -> one cycle that holds what both hold; null for the last one. */
export function merge(cycles, id) {
  const index = cycles.findIndex((cycle) => cycle.id === id);
  const [first, second] = cycles.slice(index, index + 2);
  if (!second) return null;
  const end_s = Math.max(first.end_s, second.end_s);
  const confirmed = first.confirmed && second.confirmed;
  const merged = { ...first, end_s, label: union(first.label, second.label), confirmed };
  return [...cycles.slice(0, index), merged, ...cycles.slice(index + 2)];
}

export const remove = (cycles, id) => cycles.filter((cycle) => cycle.id !== id);

/** A new cycle in the gap around a time, a second long at most; null where there is no room. */
export function add(cycles, seconds, duration_s) {
  if (cycles.some((cycle) => cycle.start_s - SHORTEST_S < seconds && seconds < cycle.end_s)) return null;
  const next = cycles.find((cycle) => cycle.start_s >= seconds);
  const end_s = Math.min(seconds + 1, next ? next.start_s : duration_s);
  if (end_s - seconds < SHORTEST_S) return null;
  const cycle = withId({ start_s: round(seconds), end_s: round(end_s), label: "normal", confirmed: false });
  return [...cycles, cycle].sort((a, b) => a.start_s - b.start_s);
}

function union(a, b) {
  const held = new Set([a, b].filter((label) => label !== "normal"));
  if (held.size === 0) return "normal";
  return held.size === 1 ? [...held][0] : "both";
}
