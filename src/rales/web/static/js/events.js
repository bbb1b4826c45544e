// Events inside cycles and what can be done to them: every function takes a list and gives a new one, sorted by start, or
// null for what is not possible. Times are whole milliseconds, frequencies tenths of a hertz, as the service keeps them,
// so that it never refuses what was made here. Nothing here touches the page; tests run it in node.

import { LABELS } from "./classes.js";

/** `sound`: what a cycle that holds one of these is called for; `box`: whether it has a length and a pitch, or is a point. */
export const KINDS = {
  wheeze: { words: "Wheeze", sound: "wheeze", box: true },
  rhonchus: { words: "Rhonchus", sound: "wheeze", box: true },
  stridor: { words: "Stridor", sound: "wheeze", box: true },
  "fine crackle": { words: "Fine crackle", sound: "crackle", box: false },
  "coarse crackle": { words: "Coarse crackle", sound: "crackle", box: false },
  crackle: { words: "Crackle", sound: "crackle", box: false },
  expiration: { words: "Expiration", sound: null, box: false },
};
/** @typedef {{ cycles: Cycle[], duration_s: number, most: number }} Surroundings of an event */
const TURN = "expiration";
const ORDER = ["wheeze", "rhonchus", "stridor", "crackle", "fine crackle", "coarse crackle", TURN]; // as the service sorts
const SHORTEST_MS = 10; // of a box
const LOWEST_BOX = 100; // of its height, in tenths of a hertz
const HIGHEST = 960000; // tenths of a hertz that the service takes
const NEW_MS = 200; // that a point lasts once it becomes a box

let last = 0;
/** An event as it arrives -> the same with an id.
 * @type {(event: Omit<SoundEvent, "id" | "low_hz" | "high_hz"> & Partial<SoundEvent>) => SoundEvent} */
export const named = (event) => ({ low_hz: null, high_hz: null, ...event, id: `e${(last += 1)}` });

/** @type {(seconds: number) => number} */
const ms = (seconds) => Math.round(seconds * 1000);
/** @type {(hertz: number | null) => number} */
const tenths = (hertz) => Math.round((hertz ?? 0) * 10);
/** @type {(duration_s: number) => number} */
const lastMs = (duration_s) => Math.floor(duration_s * 1000 + 1e-6);
/** @type {(value: number, low: number, high: number) => number} */
const within = (value, low, high) => Math.min(Math.max(value, low), high);
/** @type {(event: Service.MarkedEvent) => string} */
const keyOf = ({ kind, start_s, end_s, low_hz, high_hz }) => JSON.stringify([kind, ms(start_s), ms(end_s), low_hz, high_hz]);

/** The events, sorted; null where two are the same, which the service refuses.
 * @type {(events: SoundEvent[]) => SoundEvent[] | null} */
function distinct(events) {
  if (new Set(events.map(keyOf)).size < events.length) return null;
  return [...events].sort((a, b) => a.start_s - b.start_s || a.end_s - b.end_s
    || ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind) || (a.low_hz ?? 0) - (b.low_hz ?? 0));
}

/** @type {(event: Service.Span) => number} */
const middle = (event) => (event.start_s + event.end_s) / 2;
/** @type {(event: Service.Span) => boolean} */
export const isPoint = (event) => ms(event.start_s) === ms(event.end_s);
/** -> the cycle at a time, or undefined. @type {(cycles: Cycle[], seconds: number) => Cycle | undefined} */
export const cycleAt = (cycles, seconds) => cycles.find((cycle) => cycle.start_s <= seconds && seconds < cycle.end_s);
/** -> the events whose middle lies in a cycle. @type {(events: SoundEvent[], cycle: Service.Span) => SoundEvent[]} */
export const inCycle = (events, cycle) => events.filter((event) => cycle.start_s <= middle(event) && middle(event) < cycle.end_s);

/** A new event of a kind between two places, {seconds, hertz} each: a box as far as the cycle around the first goes, a point
 * at the first. A cycle turns once: a second turn takes the place of the first. Null where a box is too small, or a turn
 * outside every cycle, and where there are `most` already.
 * @type {(events: SoundEvent[], kind: EventKind, from: Place, to: Place, about: Surroundings) => SoundEvent[] | null} */
export function add(events, kind, from, to, { cycles, duration_s, most }) {
  const cycle = cycleAt(cycles, from.seconds);
  const [floor, wall] = cycle ? [ms(cycle.start_s), ms(cycle.end_s)] : [0, lastMs(duration_s)];
  const at = within(ms(from.seconds), floor, wall);
  if (events.length >= most) return null;
  if (!KINDS[kind].box) {
    if (kind === TURN && !cycle) return null;
    const turns = kind === TURN && cycle ? inCycle(events, cycle).filter((event) => event.kind === TURN) : [];
    return distinct([...events.filter((event) => !turns.includes(event)), named({ kind, start_s: at / 1000, end_s: at / 1000 })]);
  }
  const other = within(ms(to.seconds), floor, wall);
  const [one, two] = [from, to].map(({ hertz }) => within(Math.round(hertz) * 10, 0, HIGHEST));
  if (Math.abs(other - at) < SHORTEST_MS || Math.abs(one - two) < LOWEST_BOX) return null;
  return distinct([...events, named({
    kind, start_s: Math.min(at, other) / 1000, end_s: Math.max(at, other) / 1000,
    low_hz: Math.min(one, two) / 10, high_hz: Math.max(one, two) / 10,
  })]);
}

/** @type {(events: SoundEvent[], id: string, make: (event: SoundEvent) => Partial<SoundEvent>) => SoundEvent[] | null} */
const changed = (events, id, make) => distinct(events.map((event) => (event.id === id ? { ...event, ...make(event) } : event)));

/** Move an event as it is, as far as the recording and the frequencies go.
 * @type {(events: SoundEvent[], id: string, by_s: number, by_hz: number, duration_s: number) => SoundEvent[] | null} */
export function move(events, id, by_s, by_hz, duration_s) {
  return changed(events, id, ({ start_s, end_s, low_hz, high_hz }) => {
    const by = within(ms(by_s), -ms(start_s), Math.max(0, lastMs(duration_s) - ms(end_s)));
    const times = { start_s: (ms(start_s) + by) / 1000, end_s: (ms(end_s) + by) / 1000 };
    if (low_hz === null) return times;
    const up = within(tenths(by_hz), -tenths(low_hz), HIGHEST - tenths(high_hz));
    return { ...times, low_hz: (tenths(low_hz) + up) / 10, high_hz: (tenths(high_hz) + up) / 10 };
  });
}

/** Move one edge of an event, "start_s", "end_s", "low_hz" or "high_hz"; a point as a whole. Null where it has no such edge.
 * @type {(events: SoundEvent[], id: string, edge: Edge, value: number, duration_s: number) => SoundEvent[] | null} */
export function resize(events, id, edge, value, duration_s) {
  const event = /** @type {SoundEvent} */ (events.find((each) => each.id === id));
  if (edge.endsWith("_s") && isPoint(event) && !KINDS[event.kind].box) return move(events, id, value - event.start_s, 0, duration_s);
  if (edge.endsWith("_hz") && event.low_hz === null) return null;
  const [start, end, low, high] = [ms(event.start_s), ms(event.end_s), tenths(event.low_hz), tenths(event.high_hz)];
  const shortest = Math.min(SHORTEST_MS, end - start); // one of another program may be smaller
  const lowest = Math.min(LOWEST_BOX, high - low);
  const there = {
    start_s: () => within(ms(value), 0, end - shortest) / 1000,
    end_s: () => within(ms(value), start + shortest, Math.max(end, lastMs(duration_s))) / 1000,
    low_hz: () => within(tenths(value), 0, high - lowest) / 10,
    high_hz: () => within(tenths(value), low + lowest, HIGHEST) / 10,
  }[edge]();
  return changed(events, id, () => ({ [edge]: there }));
}

/** Give an event another kind: a turn becomes a point, and what must have a length gets one.
 * @type {(events: SoundEvent[], id: string, kind: EventKind, duration_s: number) => SoundEvent[] | null} */
export function setKind(events, id, kind, duration_s) {
  return changed(events, id, (event) => {
    if (kind === TURN) return { kind, end_s: event.start_s, low_hz: null, high_hz: null };
    if (!KINDS[kind].box || !isPoint(event)) return { kind };
    const end = Math.min(ms(event.start_s) + NEW_MS, lastMs(duration_s));
    return { kind, start_s: Math.min(ms(event.start_s), end - SHORTEST_MS) / 1000, end_s: end / 1000 };
  });
}

/** Give an event frequencies, or take them away.
 * @type {(events: SoundEvent[], id: string, band: { low_hz: number, high_hz: number } | null) => SoundEvent[] | null} */
export const setBand = (events, id, band) =>
  changed(events, id, ({ kind }) => (kind === TURN || !band ? { low_hz: null, high_hz: null } : band));

/** @type {(events: SoundEvent[], id: string) => SoundEvent[]} */
export const remove = (events, id) => events.filter((event) => event.id !== id);

/** Both lists as one, each event once; null for more than `most`.
 * @type {(events: SoundEvent[], more: Service.MarkedEvent[], most: number) => SoundEvent[] | null} */
export function joined(events, more, most) {
  const known = new Set(events.map(keyOf));
  const fresh = more.map(named).filter((event) => !known.has(keyOf(event)));
  return events.length + fresh.length > most ? null : distinct([...events, ...fresh]);
}

/** -> the kinds of sound among some events. @type {(events: SoundEvent[]) => EventKind[]} */
const sounds = (events) => [...new Set(events.map(({ kind }) => kind))].filter((kind) => KINDS[kind].sound);

/** A cycle and the events of its recording -> the label that those in it say it has; null where there are none, or no class
 * says that.
 * @type {(cycle: Cycle, events: SoundEvent[], labels?: LabelRules) => string | null} */
export function labelOf(cycle, events, labels = LABELS) {
  const kinds = sounds(inCycle(events, cycle));
  return kinds.length ? labels.ofSounds(cycle.label, kinds, kinds.map((kind) => KINDS[kind].sound ?? kind)) : null;
}

/** -> the label that the events of a cycle say, where its own is another one; else null.
 * @type {(cycle: Cycle, events: SoundEvent[], labels?: LabelRules) => string | null} */
export function disagreement(cycle, events, labels = LABELS) {
  const said = cycle.unusable ? null : labelOf(cycle, events, labels);
  return said === cycle.label ? null : said;
}

/** The cycles once the events have become others: the label of one that nobody has confirmed follows the events in it. With
 * the last of them goes the label that they gave.
 * @type {(cycles: Cycle[], before: SoundEvent[], after: SoundEvent[], labels?: LabelRules) => Cycle[]} */
export function following(cycles, before, after, labels = LABELS) {
  return cycles.map((cycle) => {
    if (cycle.confirmed || cycle.unusable) return cycle;
    const [old, said] = [before, after].map((events) => sounds(inCycle(events, cycle)).join());
    const emptied = old && !said && labelOf(cycle, before, labels) === cycle.label;
    const label = emptied ? labels.ofSounds(cycle.label, [], []) : old === said ? null : labelOf(cycle, after, labels);
    return label === null || label === cycle.label ? cycle : { ...cycle, label };
  });
}

/** An event in words: "8.45–8.85 s, 720–960 Hz", "9.380 s". @type {(event: Service.MarkedEvent) => string} */
export function extent({ start_s, end_s, low_hz, high_hz }) {
  const times = ms(start_s) === ms(end_s) ? `${start_s.toFixed(3)} s` : `${start_s.toFixed(2)}–${end_s.toFixed(2)} s`;
  return low_hz === null || high_hz === null ? times : `${times}, ${Math.round(low_hz)}–${Math.round(high_hz)} Hz`;
}
