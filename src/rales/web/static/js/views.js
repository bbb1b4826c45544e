// Which of the views is seen: the recordings, the comparison of readers, learning, or the runs.

import { alarm, byId } from "./dom.js";

/** @typedef {(typeof VIEWS)[number]} View */
const VIEWS = /** @type {const} */ (["recordings", "readers", "learn", "runs"]);
let fill = /** @type {{ [view in View]?: () => Promise<void> }} */ ({});

/** `show` has for some views a function that fills them. @type {(show: typeof fill) => void} */
export function start(show) {
  fill = show;
  for (const name of VIEWS) byId(`view-${name}`).addEventListener("click", () => showView(name));
}

/** @type {(name: View) => void} */
export function showView(name) {
  for (const each of VIEWS) {
    byId(`${each}-view`).hidden = each !== name;
    byId(`view-${each}`).setAttribute("aria-pressed", each === name);
  }
  fill[name]?.().catch((error) => alarm(error.message));
}
