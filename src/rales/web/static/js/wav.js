// The sound that the service sends: WAV of one channel, 16 bits a sample.

/** Bytes of a WAV file -> {samples: Int16Array, rate_hz}. Errors: it is none of this kind.
 * @type {(bytes: Uint8Array<ArrayBuffer>) => Sound} */
export function readWav(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (/** @type {number} */ at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  let rate_hz = 0;
  if (bytes.length >= 12 && word(0) === "RIFF" && word(8) === "WAVE") {
    for (let at = 12; at + 8 <= bytes.length; ) {
      const [kind, size] = [word(at), view.getUint32(at + 4, true)];
      if (kind === "fmt ") {
        const [format, channels, bits] = [0, 2, 14].map((by) => view.getUint16(at + 8 + by, true));
        if (format !== 1 || channels !== 1 || bits !== 16) break;
        rate_hz = view.getUint32(at + 12, true);
      }
      if (kind === "data" && rate_hz) {
        const end = Math.min(at + 8 + size, bytes.length);
        const many = (end - at - 8) >> 1;
        const there = bytes.byteOffset + at + 8; // ten minutes are 19 MB, which nobody copies without need
        if (there % 2 === 0) return { samples: new Int16Array(bytes.buffer, there, many), rate_hz };
        return { samples: new Int16Array(bytes.slice(at + 8, at + 8 + 2 * many).buffer), rate_hz };
      }
      at += 8 + size + (size % 2);
    }
  }
  throw new Error("The service sent a sound that is no WAV of one channel and 16 bits");
}

/** Samples -> {peak_db, clipped} as they stand beside the name: dB below full scale, share of samples at its ends.
 * @type {(samples: Int16Array) => { peak_db: number, clipped: number }} */
export function measureLevel(samples) {
  let peak = 0;
  let clipped = 0;
  for (let i = 0; i < samples.length; i += 1) { // a list that is iterated takes ten times as long
    const size = samples[i] < 0 ? -samples[i] : samples[i];
    if (size > peak) peak = size;
    if (size >= 32767) clipped += 1;
  }
  return { peak_db: 20 * Math.log10(peak / 32768), clipped: clipped / Math.max(1, samples.length) };
}

/** Samples -> [lowest, highest] of each of `columns` parts, -1 to 1.
 * @type {(samples: Int16Array, columns: number) => [number, number][]} */
export function peaksOf(samples, columns) {
  return Array.from({ length: columns }, (_, column) => {
    const from = Math.floor((column * samples.length) / columns);
    const to = Math.max(from + 1, Math.floor(((column + 1) * samples.length) / columns));
    let low = 0;
    let high = 0;
    for (let i = from; i < to && i < samples.length; i += 1) {
      const sample = samples[i];
      if (sample < low) low = sample;
      else if (sample > high) high = sample;
    }
    return [low / 32768, high / 32768];
  });
}
