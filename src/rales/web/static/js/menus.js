// Menus open beside their buttons, and close once something in them was chosen.

const APART_PX = 6;

export function start() {
  for (const button of document.querySelectorAll(/** @type {"button"} */ ("[popovertarget]"))) {
    const menu = /** @type {HTMLElement} */ (button.popoverTargetElement);
    menu.addEventListener("toggle", (event) => {
      button.setAttribute("aria-expanded", event.newState === "open");
      if (event.newState === "open") place(menu, button.getBoundingClientRect());
    });
    menu.addEventListener("click", ({ target }) => /** @type {Element} */ (target).matches("button:not([popovertarget])") && menu.hidePopover());
  }
}

/** Below its button, or above one at the bottom; never out of the window.
 * @type {(menu: HTMLElement, box: DOMRect) => void} */
function place(menu, box) {
  const left = Math.max(APART_PX, Math.min(box.left, innerWidth - menu.offsetWidth - APART_PX));
  const below = box.bottom + APART_PX + menu.offsetHeight <= innerHeight;
  const top = below ? box.bottom + APART_PX : Math.max(APART_PX, box.top - menu.offsetHeight - APART_PX);
  Object.assign(menu.style, { left: `${left}px`, top: `${top}px` });
}
