// What one hears: a band-pass of steep slopes, as clinicians use for lung sounds, and a gain for quiet recordings.

import { byId } from "./dom.js";

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

let context = null;
let source = null;
let gain = null;

/** Lead the sound of a media element through the filter; browsers allow that only once a person has done something. */
export function prepare(media) {
  if (context === null) {
    context = new AudioContext();
    source = context.createMediaElementSource(media);
    gain = new GainNode(context);
    gain.connect(context.destination);
    rewire();
  }
  return context.resume();
}

/** -> limits of the band in hertz, null where nothing is filtered. */
export function band() {
  if (!byId("filter").checked) return null;
  const low_hz = Math.min(Math.max(Number(byId("low").value) || 100, 20), 4000);
  const high_hz = Math.min(Math.max(Number(byId("high").value) || 1000, low_hz + 50), 8000);
  return { low_hz, high_hz };
}

export function rewire() {
  const decibels = Number(byId("gain").value);
  byId("gain").setAttribute("aria-valuetext", `${decibels} decibels`);
  if (context === null) return;
  source.disconnect();
  const limits = band();
  const end = limits === null ? source : bandPass(context, source, limits.low_hz, limits.high_hz);
  end.connect(gain);
  gain.gain.value = 10 ** (decibels / 20);
}
