// What the page says of sets of labels, and of what a model has learned.

const ANY = "any";
const OR = " | ";
const MAYBE = "?";

/** The set of labels that a cycle may have, as the service writes it -> in words; "" where there is none.
 * @type {(set: string, labels: LabelRules) => string} */
export function setWords(set, labels) {
  if (!set) return "";
  if (set === ANY) return "any label, 90 %";
  if (set === "no label") return "no label fits: unlike what taught the model";
  const word = (/** @type {string} */ name) => labels.words(name).toLowerCase();
  if (!labels.independent) return `${set.split(OR).map(word).join(" or ")}, 90 %`;
  const parts = set.split("+");
  const heard = parts.filter((name) => !name.endsWith(MAYBE)).map(word);
  const maybe = parts.filter((name) => name.endsWith(MAYBE)).map((name) => `perhaps ${word(name.slice(0, -1))}`);
  return `${[...heard, ...maybe].join(", ")}, 90 %`;
}

/** A figure with its interval -> "0.71 (0.60 to 0.80)"; a dash for what does not exist.
 * @type {(figure: Service.Measured, sign?: string) => string} */
export function figureWords(figure, sign = "") {
  if (!figure || figure.value === null) return "–";
  const number = (/** @type {number} */ value) => `${sign && value >= 0 ? sign : ""}${value.toFixed(2)}`;
  const { value, low, high } = figure;
  return low === null || high === null ? number(value) : `${number(value)} (${number(low)} to ${number(high)})`;
}

/** A job that runs -> how far it is, and the share that is done (null where nobody knows).
 * @type {(job: Service.Job) => { words: string, share: number | null }} */
export function progressWords({ kind, phase, epoch, epochs, epoch_s }) {
  if (kind === "calibrate") return { words: "Calibrating: the model answers for the confirmed cycles …", share: null };
  if (phase === "measure") return { words: "Old and new model answer for the held-out patients …", share: 1 };
  if (phase === "prepare") return { words: "Preparing the sound …", share: null };
  const left_min = Math.ceil(((epochs - epoch) * epoch_s) / 60);
  return { words: `Epoch ${epoch} of ${epochs}, about ${left_min} min left`, share: epoch / epochs };
}

/** @type {(count: number, noun: string) => string} */
const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** What of a session is confirmed -> sentences about it. @type {(survey: Service.Survey) => string[]} */
export function surveyWords({ cycles, recordings, patients, unnamed, heard, left_out }) {
  const said = [`Confirmed by a person: ${many(cycles, "cycle")} of ${many(patients, "patient")}, in ${many(recordings, "recording")}.`];
  if (unnamed) said.push(`${many(unnamed, "recording")} without a patient in the name: each counts as a patient.`);
  if (heard) said.push(`The model was trained on ${many(heard, "patient")} of them: ${heard === 1 ? "that one does" : "these do"} not calibrate it.`);
  if (heard === null) said.push("The model does not tell whom it was trained on; these patients may be among them.");
  return [...said, ...left_out.map((sentence) => `Left out: ${sentence}`)];
}

/** A job that is done or has failed -> whose figures these are. @type {(job: Service.Job) => string} */
export function outcomeWords({ status, kind, model, learns, epochs, seed, problem, tested_cycles, tested_patients }) {
  if (status === "failed") return problem;
  const whom = `${many(tested_cycles, "cycle")} of ${many(tested_patients, "patient")}`;
  if (kind === "calibrate") return `${model}, calibrated by ${whom}. The error with the new temperature is of each patient by the others.`;
  const how = [learns === "head" ? "head only" : "all of it", many(epochs, "epoch"), ...(seed === null ? [] : [`seed ${seed}`])];
  return `Trained: ${how.join(", ")}. Old and new model on ${whom} who did not train; intervals of 95 % by patient.`;
}
