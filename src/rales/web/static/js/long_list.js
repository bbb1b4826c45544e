// A list of any length, of which only the rows near what is seen are elements of the page; a row that has not changed
// stays the same element, so that it keeps the focus. Rows may be of any height: one that was never seen counts as the
// mean of those that were.

const BEYOND_PX = 800; // above and below what is seen
/** @typedef {{ key: string, stamp: unknown[], make: () => HTMLElement }} Row */
const UNSEEN_PX = 56; // a row of which nothing is known

/** Heights of rows (undefined: not known), what is seen of them in px from the top of the first -> which rows are to be
 * there, {first, last}, the last one not included, and `tops`: where each begins, and behind the last where all end.
 * @type {(heights: (number | undefined)[], from_px: number, to_px: number) => { first: number, last: number, tops: Float64Array }} */
export function inSight(heights, from_px, to_px) {
  const known = heights.filter((height) => height !== undefined);
  const mean = known.length ? known.reduce((sum, height) => sum + height, 0) / known.length : UNSEEN_PX;
  const tops = new Float64Array(heights.length + 1);
  heights.forEach((height, row) => (tops[row + 1] = tops[row] + (height ?? mean)));
  let [first, last] = [0, heights.length];
  while (first < last - 1 && tops[first + 1] <= from_px) first += 1;
  while (last > first + 1 && tops[last - 1] >= to_px) last -= 1;
  return { first, last, tops };
}

/** A <ul> in an element that scrolls -> `show(rows)` and `reveal(key)`. A row is {key, stamp, make}: `make()` gives its
 * <li> anew where one of the values of `stamp` is another one than before.
 * @type {(list: HTMLElement, scroller: HTMLElement) => { show: (rows: Row[]) => void, reveal: (key?: string) => void }} */
export function longList(list, scroller) {
  let rows = /** @type {Row[]} */ ([]);
  let places = /** @type {Map<string | undefined, number>} */ (new Map()); // key -> number of its row
  const made = /** @type {Map<string | undefined, { stamp: unknown[], element: HTMLElement }>} */ (new Map()); // key -> {stamp, element}
  const heights = /** @type {Map<string, number | undefined>} */ (new Map()); // key -> px
  let due = false;

  const draw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      place();
    });
  };
  scroller.addEventListener("scroll", draw, { passive: true });
  let width = 0;
  new ResizeObserver(() => {
    if (scroller.clientWidth !== width) heights.clear();
    width = scroller.clientWidth;
    draw();
  }).observe(scroller);

  /** From the top of what is seen to that of the list, in px. */
  const below = () => list.getBoundingClientRect().top - scroller.getBoundingClientRect().top;
  const sight = () => {
    const top = -below();
    const known = rows.map(({ key }) => heights.get(key));
    return inSight(known, top - BEYOND_PX, top + scroller.clientHeight + BEYOND_PX);
  };

  function place() {
    const { first, last, tops } = sight();
    const focused = list.contains(document.activeElement) ? document.activeElement?.closest("li")?.dataset.key : undefined;
    const there = [...rows.keys()].slice(first, last);
    const at = places.get(focused);
    if (at !== undefined && at < first) there.unshift(at); // who is there is not sent away
    if (at !== undefined && at >= last) there.push(at);
    let next = list.firstElementChild;
    let before = 0;
    const fresh = /** @type {[string, HTMLElement][]} */ ([]);
    const kept = new Set();
    for (const number of there) {
      const { key, stamp, make } = rows[number];
      const known = made.get(key);
      let element = known?.element;
      if (!element || !known || known.stamp.some((value, part) => value !== stamp[part])) {
        element = make();
        element.dataset.key = key;
        made.set(key, { stamp, element });
        if (known?.element === next) next = next.nextElementSibling;
        known?.element.replaceWith(element);
        fresh.push([key, element]);
      }
      element.ariaSetSize = `${rows.length}`;
      element.ariaPosInSet = `${number + 1}`;
      element.style.marginTop = tops[number] > tops[before] ? `${tops[number] - tops[before]}px` : "";
      before = number + 1;
      if (element === next) next = next.nextElementSibling;
      else list.insertBefore(element, next);
      kept.add(element);
    }
    for (const element of Array.from(list.children)) if (!kept.has(element)) element.remove();
    for (const [key, { element }] of made) if (!kept.has(element)) made.delete(key);
    list.style.paddingBottom = `${tops[rows.length] - tops[before]}px`;
    for (const [key, element] of fresh) heights.set(key, element.offsetHeight || undefined);
    if (focused !== undefined && !list.contains(document.activeElement)) made.get(focused)?.element.querySelector("button")?.focus({ preventScroll: true });
  }

  return {
    show(shown) {
      rows = shown;
      places = new Map(rows.map(({ key }, number) => [key, number]));
      for (const key of heights.keys()) if (!places.has(key)) heights.delete(key);
      place();
    },
    /** Scroll as little as brings a row into sight. */
    reveal(key) {
      const number = places.get(key);
      if (number === undefined) return;
      if (!made.has(key)) {
        scroller.scrollTop += sight().tops[number] + below() - scroller.clientHeight / 3;
        place();
      }
      made.get(key)?.element.scrollIntoView({ block: "nearest" });
    },
  };
}
