// On a narrow screen one of three is seen: the queue, the picture with the labels, or everything about the cycles.

import { byId } from "./dom.js";
import { state, when } from "./state.js";

const SCREENS = /** @type {const} */ (["queue", "picture", "details"]);

export function start() {
  for (const name of SCREENS) byId(`screen-${name}`).addEventListener("click", () => show(name));
  show("picture");
  let open = /** @type {string | null} */ (null);
  when(["current"], () => {
    if (state.current && state.current.id !== open) show("picture"); // one was chosen
    open = state.current?.id ?? null;
  });
}

/** @type {(name: (typeof SCREENS)[number]) => void} */
function show(name) {
  byId("recordings-view").dataset.screen = name;
  for (const each of SCREENS) byId(`screen-${each}`).setAttribute("aria-pressed", each === name);
}
