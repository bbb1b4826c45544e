// How loud a sound is as people hear it: ITU-R BS.1770, K-weighting and both gates, of one channel.

const BLOCK_S = 0.4;
const STEP_S = 0.1;
const OFFSET_DB = -0.691; // so that 997 Hz at full scale are -3.01 LUFS
const QUIETEST = -70; // LUFS of a block that counts
const BELOW_DB = 10; // under the mean of those, for the second gate
export const TARGET = -20; // LUFS
const MOST_DB = 40; // that anything is lifted by

/** K-weighted samples in -1 to 1 -> LUFS; -Infinity where nothing is louder than -70. */
export function gatedLoudness(samples, rate_hz) {
  const [block, step] = [BLOCK_S, STEP_S].map((seconds) => Math.round(seconds * rate_hz));
  const powers = [];
  for (let from = 0; from === 0 || from + block <= samples.length; from += step) {
    const end = Math.min(from + block, samples.length); // of a sound shorter than a block, all of it
    let sum = 0;
    for (let i = from; i < end; i += 1) sum += samples[i] * samples[i];
    powers.push(sum / Math.max(1, end - from));
  }
  const mean = (some) => some.reduce((sum, power) => sum + power, 0) / some.length;
  const loud = powers.filter((power) => toLufs(power) > QUIETEST);
  const louder = loud.filter((power) => toLufs(power) > toLufs(mean(loud)) - BELOW_DB);
  return louder.length ? toLufs(mean(louder)) : -Infinity;
}

const toLufs = (power) => OFFSET_DB + 10 * Math.log10(power);

/** LUFS -> decibels that bring it to the target, 0 for silence. */
export const gainTo = (lufs) => (Number.isFinite(lufs) ? Math.min(MOST_DB, TARGET - lufs) : 0);

/** 16-bit samples behind the filter that `wire(context, source)` makes -> LUFS. */
export async function measureLoudness(samples, rate_hz, wire) {
  const context = new OfflineAudioContext(1, Math.max(1, samples.length), rate_hz);
  const sound = context.createBuffer(1, Math.max(1, samples.length), rate_hz);
  sound.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
  const source = new AudioBufferSourceNode(context, { buffer: sound });
  wire(context, source)
    .connect(new BiquadFilterNode(context, { type: "highshelf", frequency: 1500, gain: 4 }))
    .connect(new BiquadFilterNode(context, { type: "highpass", frequency: 38, Q: 20 * Math.log10(0.5) }))
    .connect(context.destination);
  source.start();
  return gatedLoudness((await context.startRendering()).getChannelData(0), rate_hz);
}
