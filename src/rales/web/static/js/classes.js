// The classes that the service's model tells apart: words, letters, and how they look. Colour never stands alone: letters
// or words go with it. The service writes its label set into the head of the page, and nowhere else.

const ICBHI = { classes: ["normal", "crackle", "wheeze", "both"], forms: ["icbhi", "csv", "audacity", "raven"] };
const NOTHING = "normal"; // the label of a cycle that has none of several independent classes
const JOINED = "+"; // between the independent classes that one cycle has
const MOST_KEYS = 9;
const ABOUT_SOUNDS = ["crackle", "wheeze", "abnormal", "rhonchus", "stridor", "fine crackle", "coarse crackle"];
/** @type {(name: string) => string} */
const folded = (name) => name.replace(/[\s_-]+/g, " ").trim().toLowerCase();

/**
 * What the service tells of its label set -> the rules of its labels.
 * @param {{ classes: string[], independent?: boolean, forms: string[] }} told
 */
export function labelSet({ classes, independent = false, forms }) {
  const names = independent ? [NOTHING, ...classes] : classes; // the first: nothing is heard
  const letters = shortNames(names);
  const isIcbhi = !independent && classes.join() === ICBHI.classes.join();
  /** @type {(label: string) => string[]} */
  const parts = (label) => (independent ? label.split(JOINED) : [label]);
  /** @type {(held: string[]) => string} */
  const inOrder = (held) => classes.filter((name) => held.includes(name)).join(JOINED) || NOTHING;
  return {
    classes,
    independent,
    forms,
    isIcbhi,
    names,
    normal: names[0],
    parts,
    keyed: classes.slice(0, MOST_KEYS),
    /** @type {(label: string) => boolean} */
    isLabel: (label) => parts(label).every((name) => names.includes(name)),
    /** -> "C", of several independent classes "C+W". @type {(label: string) => string} */
    letters: (label) => parts(label).map((name) => letters[name] ?? name).join(JOINED),
    /** @type {(label: string) => string} */
    words: (label) => (isIcbhi && label === "both" ? "Crackle + wheeze" : label.charAt(0).toUpperCase() + label.slice(1)),
    /** -> the number of its colour: that of the first class of several. @type {(label: string) => number} */
    look: (label) => names.indexOf(parts(label)[0]),
    /** -> the label of what two cycles hold together; null where no class says that.
     * @type {(a: string, b: string) => string | null} */
    union: (a, b) => {
      if (independent) return inOrder([...parts(a), ...parts(b)]);
      const held = [...new Set([a, b])].filter((label) => label !== names[0]);
      if (held.length < 2) return held[0] ?? names[0];
      return isIcbhi ? "both" : null;
    },
    /** -> the label with one independent class more or less. @type {(label: string, name: string) => string} */
    toggled: (label, name) => {
      const held = parts(label);
      return inOrder(held.includes(name) ? held.filter((each) => each !== name) : [...held, name]);
    },
    /** A label, kinds of events and what each of them is (crackle, wheeze) -> the label with just these sounds; null where
     * no class says that. Independent classes that are about other things stay. Of no kind it is the label without sounds.
     * @type {(label: string, kinds: string[], heard: string[]) => string | null} */
    ofSounds: (label, kinds, heard) => {
      const known = Object.fromEntries(names.map((name) => [folded(name), name]));
      if (independent) {
        const others = parts(label).filter((name) => classes.includes(name) && !ABOUT_SOUNDS.includes(folded(name)));
        const found = [...heard, ...kinds, ...(kinds.length ? ["abnormal"] : [])].map((word) => known[word]).filter(Boolean);
        return found.length || !kinds.length ? inOrder([...others, ...found]) : null;
      }
      if (!kinds.length) return names[0];
      const both = new Set(heard).size > 1;
      return (kinds.length === 1 && known[kinds[0]]) || known[both ? "both" : heard[0]] || known.abnormal || null;
    },
    /** Scores of a cycle -> how sure the answer is: the largest probability, or that of the least certain yes or no.
     * @type {(scores: Service.ScoredSpan) => number} */
    confidence: (scores) => {
      const shares = classes.map((name) => Number(scores[`p_${name}`]));
      return independent ? Math.min(...shares.map((p) => Math.max(p, 1 - p))) : Math.max(...shares);
    },
    /** What the list can be filtered by: [value, words, names that count as it]. @type {[string, string, string[]][]} */
    findings: isIcbhi
      ? [["crackle", "with crackles", ["crackle", "both"]], ["wheeze", "with wheezes", ["wheeze", "both"]]]
      : names.slice(1).map((name) => [`with ${name}`, `with ${name}`, [name]]),
  };
}

/** Names -> name -> as few of its first letters as no name before it has, else its number.
 * @type {(names: string[]) => Record<string, string>} */
function shortNames(names) {
  const taken = new Set();
  const found = /** @type {Record<string, string>} */ ({});
  names.forEach((name, index) => {
    const first = [1, 2, 3].map((many) => name.charAt(0).toUpperCase() + name.slice(1, many).trim());
    found[name] = first.find((letters) => !taken.has(letters)) ?? `${index + 1}`;
    taken.add(found[name]);
  });
  return found;
}

const told = /** @type {HTMLMetaElement | null} */ (globalThis.document?.querySelector("meta[name=labels]"));
export const LABELS = labelSet(told ? JSON.parse(told.content) : ICBHI);

/** An element gets the colour of a label, as `--class` and, for what is written on it, `--on-class`.
 * @type {<Made extends HTMLElement>(element: Made, label: string) => Made} */
export function colour(element, label) {
  element.style.setProperty("--class", `var(--c${LABELS.look(label)})`);
  element.style.setProperty("--on-class", `var(--on-c${LABELS.look(label)})`);
  return element;
}
