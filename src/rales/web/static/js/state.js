// Everything the page knows, in one object; whoever shows a part of it is told when that part changes.

export const state = {
  sessions: [],
  session: null, // id
  recordings: [], // facts of the list
  current: null, // detail of the open recording
  cycles: [], // its cycles as they stand: {id, start_s, end_s, label, confirmed}
  selected: null, // id of a cycle
  scores: {}, // model -> time key -> {label, p_normal, …}
  models: [],
  model: null, // whose probabilities are shown
  compare: "", // whose stand beside them
  threshold: 0.5,
  looping: false,
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

export const selectedCycle = () => state.cycles.find((cycle) => cycle.id === state.selected) ?? null;
