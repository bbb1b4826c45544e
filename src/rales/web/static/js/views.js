// Which of the views is seen: the recordings, the comparison of readers, learning, or the runs.

import { alarm, byId } from "./dom.js";

const VIEWS = /** @type {const} */ (["recordings", "readers", "learn", "runs"]);
let fill = {};

/** `show` has for some views a function that fills them. */
export function start(show) {
  fill = show;
  for (const name of VIEWS) byId(`view-${name}`).addEventListener("click", () => showView(name));
}

export function showView(name) {
  for (const each of VIEWS) {
    byId(`${each}-view`).hidden = each !== name;
    byId(`view-${each}`).setAttribute("aria-pressed", each === name);
  }
  fill[name]?.().catch((error) => alarm(error.message));
}
