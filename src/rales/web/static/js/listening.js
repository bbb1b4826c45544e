// What one hears: a band-pass of steep slopes, as clinicians use for lung sounds, one loudness for all recordings if that
// is wanted, and a gain, with a limiter behind it for whatever is not quiet in them. What is exported stays as it is.

import { pause } from "./api.js";
import { byId, chosenOf, tell } from "./dom.js";
import { TARGET, gainTo, measureLoudness } from "./loudness.js";

const LIMITER = { threshold: -12, knee: 0, ratio: 20, attack: 0.001, release: 0.1 };
const MAKE_UP_DB = -0.6 * LIMITER.threshold * (1 - 1 / LIMITER.ratio); // that browsers add behind a compressor
/** @type {Record<string, { low_hz: number, high_hz: number } | null>} */
const BANDS = { wide: null, lung: { low_hz: 100, high_hz: 1000 }, bell: { low_hz: 20, high_hz: 200 } };
const Q = [0.541, 1.307]; // two biquads make a Butterworth filter of fourth order: 24 dB an octave

/** Audio context, its source and limits in hertz -> the last node of the chain.
 * @type {(context: BaseAudioContext, source: AudioNode, low_hz: number, high_hz: number) => AudioNode} */
export function bandPass(context, source, low_hz, high_hz) {
  let node = source;
  for (const [type, frequency] of /** @type {const} */ ([["highpass", low_hz], ["lowpass", high_hz]])) {
    for (const q of Q) {
      const filter = new BiquadFilterNode(context, { type, frequency, Q: 20 * Math.log10(q) });
      node = node.connect(filter);
    }
  }
  return node;
}

/** Audio context, a node and decibels -> the last node of a chain that lifts the sound by as much, but what would pass
 * full scale is held below it. Of 0 dB the sound is left as it is, and of less it is only made quieter.
 * @type {(context: BaseAudioContext, node: AudioNode, decibels: number) => AudioNode} */
export function lift(context, node, decibels) {
  if (decibels === 0) return node;
  const louder = node.connect(new GainNode(context, { gain: 10 ** (decibels / 20) }));
  if (decibels < 0) return louder;
  return louder
    .connect(new DynamicsCompressorNode(context, LIMITER))
    .connect(new GainNode(context, { gain: 10 ** (-MAKE_UP_DB / 20) }));
}

let context = /** @type {AudioContext | null} */ (null);
let source = /** @type {AudioNode | null} */ (null);
let end = /** @type {AudioNode | null} */ (null); // of the chain
let sound = /** @type {Sound | null} */ (null); // what is played: {samples, rate_hz}
let even_db = 0; // that bring it to one loudness, in the band that is heard
let turn = 0; // of the measurements; only the last one counts

/** Lead the sound of a media element through the filter; browsers allow that only once a person has done something.
 * @type {(media: HTMLMediaElement) => Promise<void>} */
export function prepare(media) {
  if (context === null) {
    context = new AudioContext();
    source = context.createMediaElementSource(media);
    rewire();
  }
  return context.resume();
}

/** -> limits of the band in hertz, null where nothing is filtered. */
export function band() {
  const value = chosenOf("band");
  if (value !== "own") return BANDS[value];
  const low_hz = Math.min(Math.max(Number(byId("low").value) || 100, 20), 4000);
  const high_hz = Math.min(Math.max(Number(byId("high").value) || 1000, low_hz + 50), 8000);
  return { low_hz, high_hz };
}

const isEven = () => byId("even").getAttribute("aria-pressed") === "true";

/** The original level or one loudness: what was chosen last; the button and the key change between them. */
export function startLevel() {
  byId("even").setAttribute("aria-pressed", localStorage.getItem("rales-even") === "true");
  byId("even").addEventListener("click", otherLevel);
}

export async function otherLevel() {
  const even = !isEven();
  byId("even").setAttribute("aria-pressed", even);
  localStorage.setItem("rales-even", `${even}`);
  const lufs = await retune();
  const measured = lufs !== null && Number.isFinite(lufs)
    ? `${lufs.toFixed(0)} LUFS, ${even_db < 0 ? "" : "+"}${even_db.toFixed(0)} dB` : "silence";
  tell(even ? `Even: at ${TARGET} LUFS (${measured})` : "At its original level");
}

/** This is what will be heard, null for nothing. What one recording needs may be far too loud for the next.
 * @type {(next: Sound | null) => void} */
export function setSound(next) {
  sound = next;
  byId("gain").value = "0";
  retune();
}

/** Another band, level or sound: measure what is heard, where that is wanted and, within `wait_ms`, nothing else is; -> LUFS,
 * null where it is not. */
export async function retune(wait_ms = 0) {
  const asked = (turn += 1);
  even_db = 0;
  rewire();
  if (!sound || !isEven()) return null;
  if (wait_ms) await pause(wait_ms);
  if (asked !== turn) return null;
  const limits = band();
  /** @type {(offline: BaseAudioContext, from: AudioNode) => AudioNode} */
  const wire = (offline, from) => (limits ? bandPass(offline, from, limits.low_hz, limits.high_hz) : from);
  const lufs = await measureLoudness(sound.samples, sound.rate_hz, wire);
  if (asked !== turn) return null;
  even_db = gainTo(lufs);
  rewire();
  return lufs;
}

export function rewire() {
  const decibels = Number(byId("gain").value);
  byId("gain").setAttribute("aria-valuetext", `${decibels} decibels`);
  byId("gain-text").textContent = `+${decibels} dB`;
  byId("own-band").hidden = chosenOf("band") !== "own";
  if (context === null || source === null) return;
  source.disconnect();
  end?.disconnect();
  const limits = band();
  const filtered = limits === null ? source : bandPass(context, source, limits.low_hz, limits.high_hz);
  end = lift(context, filtered, decibels + even_db);
  end?.connect(context.destination);
}
