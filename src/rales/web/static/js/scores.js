// What models say of the cycles that are shown: kept by their times, and asked for where they are new.

import { call } from "./api.js";
import { timeKey } from "./cycles.js";
import { EXAMPLE, asReader, state, update, updateLine, whoReads } from "./state.js";

/** Ask each model that is shown about the cycles it has not answered for. */
export async function scoreMissing() {
  const [{ current }, who] = [state, whoReads()];
  if (current.id === EXAMPLE) return; // whose cycles the service has answered for
  for (const model of [state.model, state.compare].filter(Boolean)) {
    const known = state.scores[model] ?? {};
    const missing = state.cycles.filter((cycle) => !(timeKey(cycle) in known));
    if (missing.length === 0) continue;
    const spans = missing.map(({ start_s, end_s }) => ({ start_s, end_s }));
    const answer = await call("POST", asReader(`/recordings/${current.id}/scores`), { model, cycles: spans });
    updateLine(answer.facts, who);
    if (state.current?.id !== current.id) return; // another recording was opened meanwhile
    keepScores(model, answer.cycles);
  }
}

/** @type {(model: string, cycles: Service.ScoredSpan[]) => void} */
export function keepScores(model, cycles) {
  const known = { ...state.scores[model] };
  for (const cycle of cycles) known[timeKey(cycle)] = cycle;
  update({ scores: { ...state.scores, [model]: known } });
}
