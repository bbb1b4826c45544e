// Levels of a short-time Fourier transform, a tile of columns at a time. Nothing here touches the page.
//
// A level is a byte: LEVEL_DB decibels a step from FLOOR_DB on, where 0 dB is a sine of full scale.

export const LEVEL_DB = 0.5;
export const FLOOR_DB = -127.5;
const FULL_SCALE = 32768;
const MOST_LOOKS = 8; // windows of a column that is wider than one; the loudest is shown, so that no click is lost

/** Size, a power of two -> a function that turns (re, im), Float64Arrays of that size, into their spectrum, in place.
 * @type {(size: number) => (re: Float64Array, im: Float64Array) => void} */
export function fourier(size) {
  const bits = Math.log2(size);
  const [cos, sin] = [Math.cos, Math.sin].map((f) => Float64Array.from({ length: size / 2 }, (_, i) => f((2 * Math.PI * i) / size)));
  const reversed = Uint32Array.from({ length: size }, (_, i) => {
    let turned = 0;
    for (let bit = 0; bit < bits; bit += 1) turned |= ((i >> bit) & 1) << (bits - 1 - bit);
    return turned;
  });
  return (re, im) => {
    for (let i = 0; i < size; i += 1) {
      const j = reversed[i];
      if (j <= i) continue;
      const x = re[i]; // pairs of brackets that swap cost an array each
      const y = im[i];
      re[i] = re[j];
      im[i] = im[j];
      re[j] = x;
      im[j] = y;
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let from = 0; from < size; from += 2 * half) {
        for (let k = 0; k < half; k += 1) {
          const a = from + k;
          const b = a + half;
          const c = cos[k * stride];
          const s = sin[k * stride];
          const x = re[b] * c + im[b] * s;
          const y = im[b] * c - re[b] * s;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  };
}

/** @typedef {{ hann: Float64Array, scale: number, spectrum: ReturnType<typeof fourier>, re: Float64Array, im: Float64Array }} Prepared */
const kept = new Map(); // window and size -> what a transform needs

/** @type {(window: number, size: number) => Prepared} */
function prepared(window, size) {
  const key = `${window} ${size}`;
  if (!kept.has(key)) {
    const hann = Float64Array.from({ length: window }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 0.5)) / window));
    const scale = 2 / (FULL_SCALE * hann.reduce((sum, x) => sum + x, 0));
    kept.set(key, { hann, scale, spectrum: fourier(size), re: new Float64Array(size), im: new Float64Array(size) });
  }
  return kept.get(key);
}

/** Power in every one of `bins` bins of the windows around two samples; real sounds go through one complex transform.
 * @type {(samples: Int16Array, window: number, size: number, bins: number, centres: number[], out: Float64Array[]) => void} */
function powers(samples, window, size, bins, centres, out) {
  const { hann, scale, spectrum, re, im } = prepared(window, size);
  re.fill(0);
  im.fill(0);
  centres.forEach((centre, which) => {
    const [part, first] = [which ? im : re, Math.round(centre - window / 2)];
    const last = Math.min(window, samples.length - first);
    for (let i = Math.max(0, -first); i < last; i += 1) part[i] = samples[first + i] * hann[i];
  });
  spectrum(re, im);
  for (let bin = 0; bin < bins; bin += 1) {
    const other = (size - bin) % size;
    const a = re[bin] + re[other];
    const b = im[bin] - im[other];
    const c = im[bin] + im[other];
    const d = re[other] - re[bin];
    out[0][bin] = Math.max(out[0][bin], (scale * scale * (a * a + b * b)) / 4);
    out[1][bin] = Math.max(out[1][bin], (scale * scale * (c * c + d * d)) / 4);
  }
}

/** 16-bit samples -> levels of `columns` columns from the one numbered `first` on, column by column, the lowest bin first.
 *
 * Column i shows what lies around sample (i + 1/2) hop; of a hop wider than the window, the loudest of several looks.
 * @type {(samples: Int16Array, about: Transform & { hop: number, first: number, columns: number, most_looks?: number }) => Uint8Array<ArrayBuffer>} */
export function tile(samples, { window, size, bins, hop, first, columns, most_looks = MOST_LOOKS }) {
  const levels = new Uint8Array(columns * bins);
  const looks = Math.min(most_looks, Math.max(1, Math.ceil(hop / window)));
  const found = [new Float64Array(bins), new Float64Array(bins)];
  for (let column = 0; column < columns; column += 2) {
    found.forEach((each) => each.fill(0));
    for (let look = 0; look < looks; look += 1) {
      const centre = (/** @type {number} */ which) => (first + column + which + (look + 0.5) / looks) * hop;
      powers(samples, window, size, bins, [centre(0), centre(1)], found);
    }
    for (let which = 0; which < Math.min(2, columns - column); which += 1) {
      const from = (column + which) * bins;
      for (let bin = 0; bin < bins; bin += 1) levels[from + bin] = levelOf(found[which][bin]);
    }
  }
  return levels;
}

/** @type {(power: number) => number} */
const levelOf = (power) => Math.min(255, Math.max(0, Math.round((10 * Math.log10(power + 1e-20) - FLOOR_DB) / LEVEL_DB)));

/** Levels of a tile -> the one that all but a thousandth of those from the bin `lowest` on do not exceed.
 * @type {(levels: Uint8Array, bins: number, lowest: number) => number} */
export function highLevel(levels, bins, lowest) {
  const counts = new Uint32Array(256);
  let left = 0;
  for (let at = 0; at < levels.length; at += 1) {
    if (at % bins < lowest) continue;
    counts[levels[at]] += 1;
    left += 1 / 1000;
  }
  for (let level = 255; level > 0; level -= 1) if ((left -= counts[level]) < 0) return level;
  return 0;
}
