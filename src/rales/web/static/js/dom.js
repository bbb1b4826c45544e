// Elements: find them, make them from text only, speak to the person.

/**
 * -> an element of index.html.
 * @template {keyof PageElements} Id
 * @param {Id} id
 * @returns {PageElements[Id]}
 */
export const byId = (id) => /** @type {any} */ (document.getElementById(id));

/**
 * Tag, properties and children -> element. Strings become text, so no file name can become markup.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties<Tag>} properties
 * @param {(Node | string | null | undefined)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties = /** @type {Properties<Tag>} */ ({}), ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(/** @type {Record<string, any>} */ (properties))) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") Object.assign(element, { [name]: value });
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** -> the element that has the focus. */
export const focused = () => /** @type {HTMLElement | null} */ (document.activeElement);

/** The name of some radio buttons -> the value of the chosen one. @type {(name: string) => string} */
export const chosenOf = (name) => /** @type {HTMLInputElement} */ (document.querySelector(`[name=${name}]:checked`)).value;

/** A line of a table: of heads ("th"), or of cells ("td") with a head in front.
 * @type {(tag: "th" | "td", texts: (string | Node)[]) => HTMLTableRowElement} */
export function tableRow(tag, texts) {
  const head = (/** @type {string | Node} */ text) => h("th", { scope: tag === "th" ? "col" : "row" }, text);
  return h("tr", {}, ...texts.map((text, place) => (place === 0 || tag === "th" ? head(text) : h("td", {}, text))));
}

/** Say something to a screen reader without taking the focus. @type {(sentence: string) => void} */
export function say(sentence) {
  byId("said").textContent = "";
  requestAnimationFrame(() => (byId("said").textContent = sentence));
}

let fading = 0;
/** Say something to everyone: to a screen reader, and on the screen for a moment. @type {(sentence: string) => void} */
export function tell(sentence) {
  say(sentence);
  byId("toast").textContent = sentence;
  clearTimeout(fading);
  fading = setTimeout(() => (byId("toast").textContent = ""), 3000);
}

let timer = 0;
/** Show an error until it has been read. @type {(sentence: string) => void} */
export function alarm(sentence) {
  const box = byId("alert");
  box.replaceChildren(
    h("p", {}, sentence),
    h("button", { type: "button", onclick: () => box.replaceChildren() }, "Close"),
  );
  clearTimeout(timer);
  timer = setTimeout(() => box.replaceChildren(), 15000);
}

/** Title, label of a text field or null, its text, word on the button -> the text, true without a field, or null.
 * @type {(title: string, label: string | null, text: string | null | undefined, yes: string) => Promise<any>} */
export function ask(title, label, text, yes) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-field").hidden = label === null;
  byId("ask-label").textContent = label ?? "";
  byId("ask-text").value = text ?? "";
  byId("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue !== "yes" ? null : label === null ? true : byId("ask-text").value),
      { once: true },
    ),
  );
}

/** Seconds -> 1:02.3 @type {(seconds: number) => string} */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}

/** @type {(fraction: number) => string} */
export const percent = (fraction) => `${Math.round(fraction * 100)} %`;
