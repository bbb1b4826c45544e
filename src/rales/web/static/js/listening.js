// What one hears: a band-pass of steep slopes, as clinicians use for lung sounds, and a gain for quiet recordings, with
// a limiter behind it for whatever is not quiet in them.

import { byId } from "./dom.js";

const LIMITER = { threshold: -12, knee: 0, ratio: 20, attack: 0.001, release: 0.1 };
const MAKE_UP_DB = -0.6 * LIMITER.threshold * (1 - 1 / LIMITER.ratio); // that browsers add behind a compressor
const BANDS = { wide: null, lung: { low_hz: 100, high_hz: 1000 }, bell: { low_hz: 20, high_hz: 200 } };
const Q = [0.541, 1.307]; // two biquads make a Butterworth filter of fourth order: 24 dB an octave

/** Audio context, its source and limits in hertz -> the last node of the chain. */
export function bandPass(context, source, low_hz, high_hz) {
  let node = source;
  for (const [type, frequency] of [["highpass", low_hz], ["lowpass", high_hz]]) {
    for (const q of Q) {
      const filter = new BiquadFilterNode(context, { type, frequency, Q: 20 * Math.log10(q) });
      node = node.connect(filter);
    }
  }
  return node;
}

/** Audio context, a node and decibels -> the last node of a chain that lifts the sound by as much, but what would pass
 * full scale is held below it. Without a gain the sound is left as it is. */
export function lift(context, node, decibels) {
  if (decibels <= 0) return node;
  return node
    .connect(new GainNode(context, { gain: 10 ** (decibels / 20) }))
    .connect(new DynamicsCompressorNode(context, LIMITER))
    .connect(new GainNode(context, { gain: 10 ** (-MAKE_UP_DB / 20) }));
}

let context = null;
let source = null;
let end = null; // of the chain

/** Lead the sound of a media element through the filter; browsers allow that only once a person has done something. */
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
  const { value } = document.querySelector("[name=band]:checked");
  if (value !== "own") return BANDS[value];
  const low_hz = Math.min(Math.max(Number(byId("low").value) || 100, 20), 4000);
  const high_hz = Math.min(Math.max(Number(byId("high").value) || 1000, low_hz + 50), 8000);
  return { low_hz, high_hz };
}

export function rewire() {
  const decibels = Number(byId("gain").value);
  byId("gain").setAttribute("aria-valuetext", `${decibels} decibels`);
  byId("gain-text").textContent = `+${decibels} dB`;
  byId("own-band").hidden = document.querySelector("[name=band]:checked").value !== "own";
  if (context === null) return;
  source.disconnect();
  end?.disconnect();
  const limits = band();
  const filtered = limits === null ? source : bandPass(context, source, limits.low_hz, limits.high_hz);
  end = lift(context, filtered, decibels);
  end.connect(context.destination);
}

export function resetGain() {
  byId("gain").value = 0;
  rewire();
}
