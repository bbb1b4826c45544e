// How loud a sound is as people hear it: ITU-R BS.1770, K-weighting and both gates, of one channel.

const STEP_S = 0.1;
const STEPS = 4; // of a block, which begins at every step
const OFFSET_DB = -0.691; // so that 997 Hz at full scale are -3.01 LUFS
const QUIETEST = -70; // LUFS of a block that counts
const BELOW_DB = 10; // under the mean of those, for the second gate
export const TARGET = -20; // LUFS
const MOST_DB = 40; // that anything is lifted by

/** K-weighted samples in -1 to 1 -> LUFS; -Infinity where nothing is louder than -70.
 * @type {(samples: Float32Array, rate_hz: number) => number} */
export function gatedLoudness(samples, rate_hz) {
  const step = Math.round(STEP_S * rate_hz);
  const steps = []; // sums of squares
  for (let from = 0; from + step <= samples.length; from += step) steps.push(energy(samples, from, from + step));
  const powers = [];
  for (let first = 0; first + STEPS <= steps.length; first += 1)
    powers.push(steps.slice(first, first + STEPS).reduce((sum, each) => sum + each) / (STEPS * step));
  if (!powers.length) powers.push(energy(samples, 0, samples.length) / Math.max(1, samples.length)); // shorter than a block
  const mean = (/** @type {number[]} */ some) => some.reduce((sum, power) => sum + power, 0) / some.length;
  const loud = powers.filter((power) => toLufs(power) > QUIETEST);
  const least = toLufs(mean(loud)) - BELOW_DB;
  const louder = loud.filter((power) => toLufs(power) > least);
  return louder.length ? toLufs(mean(louder)) : -Infinity;
}

/** @type {(samples: Float32Array, from: number, to: number) => number} */
function energy(samples, from, to) {
  let sum = 0;
  for (let i = from; i < to; i += 1) sum += samples[i] * samples[i];
  return sum;
}

/** @type {(power: number) => number} */
const toLufs = (power) => OFFSET_DB + 10 * Math.log10(power);

/** LUFS -> decibels that bring it to the target, 0 for silence. @type {(lufs: number) => number} */
export const gainTo = (lufs) => (Number.isFinite(lufs) ? Math.min(MOST_DB, TARGET - lufs) : 0);

/** 16-bit samples behind the filter that `wire(context, source)` makes -> LUFS.
 * @type {(samples: Int16Array, rate_hz: number, wire: (context: BaseAudioContext, source: AudioNode) => AudioNode) => Promise<number>} */
export async function measureLoudness(samples, rate_hz, wire) {
  const context = new OfflineAudioContext(1, Math.max(1, samples.length), rate_hz);
  const sound = context.createBuffer(1, Math.max(1, samples.length), rate_hz);
  const scaled = sound.getChannelData(0);
  for (let i = 0; i < samples.length; i += 1) scaled[i] = samples[i] / 32768; // from() takes 50 times as long
  const source = new AudioBufferSourceNode(context, { buffer: sound });
  wire(context, source)
    .connect(new BiquadFilterNode(context, { type: "highshelf", frequency: 1500, gain: 4 }))
    .connect(new BiquadFilterNode(context, { type: "highpass", frequency: 38, Q: 20 * Math.log10(0.5) }))
    .connect(context.destination);
  source.start();
  return gatedLoudness((await context.startRendering()).getChannelData(0), rate_hz);
}
