// What a reader may see. Models, files and other readers are hidden for each cycle until this reader has decided it; whoever
// is no reader sees everything.

import { LABELS } from "./classes.js";
import { state } from "./state.js";

const LEAST_OVERLAP = 0.5; // from which on two cycles are the same breath, as in `rales agreement`
const MOST_LANES = 4;

/** Whether what others say of a cycle is hidden. @type {(cycle: Cycle) => boolean} */
export const isBlind = (cycle) => Boolean(state.reader) && !cycle.confirmed;

/** Whether a cycle has no label yet: a reader's begin as normal, which nobody has said, unless its events say something.
 * @type {(cycle: Cycle) => boolean} */
export const isUndecided = (cycle) => isBlind(cycle) && cycle.label === LABELS.normal;

/** Two cycles -> the time that they share / the time that either covers.
 * @type {(one: Service.Span, other: Service.Span) => number} */
export function overlap(one, other) {
  const shared_s = Math.min(one.end_s, other.end_s) - Math.max(one.start_s, other.start_s);
  const covered_s = Math.max(one.end_s, other.end_s) - Math.min(one.start_s, other.start_s);
  return covered_s > 0 ? Math.max(0, shared_s / covered_s) : 0;
}

/** Whether a cycle of somebody else lies over one that is decided. @type {(cycle: Service.Span) => boolean} */
export const isSeen = (cycle) =>
  !state.reader || state.cycles.some((each) => each.confirmed && overlap(each, cycle) >= LEAST_OVERLAP);

/** -> what another reader calls a cycle, in words. @type {(reading: Service.OtherReading, cycle: Cycle) => string} */
export function readersOf(reading, cycle) {
  const [best] = [...reading.cycles].sort((a, b) => overlap(b, cycle) - overlap(a, cycle));
  if (!best || overlap(best, cycle) < LEAST_OVERLAP) return "not decided";
  return best.unusable ? "unusable" : LABELS.words(best.label);
}

/** -> the readers that have a lane of their own, {reader, cycles}; the inspector names all of them. */
export const readerLanes = () =>
  state.readings.filter(({ cycles }) => cycles.length).slice(0, MOST_LANES)
    .map(({ reader, cycles }) => ({ reader, cycles: cycles.filter(isSeen) }));
