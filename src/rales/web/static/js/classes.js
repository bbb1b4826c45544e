// The four classes: word, letter, and how they look. Colour never stands alone: a letter and a pattern go with it.

export const CLASSES = ["normal", "crackle", "wheeze", "both"];
export const LETTERS = { normal: "N", crackle: "C", wheeze: "W", both: "B" };
export const WORDS = { normal: "Normal", crackle: "Crackle", wheeze: "Wheeze", both: "Both" };

/** Scores of a cycle -> its largest probability. */
export const confidence = (scores) => Math.max(...CLASSES.map((name) => scores[`p_${name}`]));
