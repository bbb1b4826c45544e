// Everything the page knows, in one object; whoever shows a part of it is told when that part changes.

export const state = {
  sessions: [],
  session: null, // id
  recordings: [], // facts of the list
  current: null, // detail of the open recording
  heard: false, // whether its sound is in the player, so that it can be judged
  level: "", // how loud it is, in words
  cycles: [], // its cycles as they stand: {id, start_s, end_s, label, confirmed}
  selected: null, // id of a cycle
  events: [], // the events of the recording as they stand (events.js)
  event: null, // id of the selected one
  marking: null, // the kind of event that a drag or a click on the picture makes
  scores: {}, // model -> time key -> {label, p_normal, …}
  limits: null, // what the service takes
  models: [],
  model: null, // whose probabilities are shown
  compare: "", // whose stand beside them
  threshold: 0.5,
  view: { start_s: 0, end_s: 1 }, // the stretch of time that is seen
  picture: null, // how it is drawn (picture_settings.js)
  looping: false,
  reviewing: false, // whether a label leads to the next cycle
  explain: false,
};

const listeners = [];

/** Call `show` whenever one of the parts named changes. */
export function when(parts, show) {
  listeners.push({ parts, show });
}

/** Change parts of the state and tell everyone who shows them. */
export function update(change) {
  Object.assign(state, change);
  for (const { parts, show } of listeners) if (parts.some((part) => part in change)) show();
}

/** A recording's line in the list is now this one, unless a later state of it is known already. */
export function updateLine(facts) {
  update({ recordings: state.recordings.map((each) => (each.id === facts.id ? later(each, facts) : each)) });
}

/** Two lines of one recording -> the one that knows of more revisions, else the second. */
export const later = (one, other) => (one && one.revision > other.revision ? one : other);

export const EXAMPLE = "example"; // the recording that is shown where there is none; what is done to it is not kept

/** A recording -> where the service answers about it. */
export const pathOf = (id) => (id === EXAMPLE ? "/example" : `/recordings/${id}`);

export const selectedEvent = () => state.events.find((event) => event.id === state.event) ?? null;
export const selectedCycle = () => state.cycles.find((cycle) => cycle.id === state.selected) ?? null;
