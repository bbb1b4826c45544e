// What is known of sound that comes in: its level, and which part of it the service has confirmed. Nothing here touches
// the page.

const CLIPPED = 0.999; // of full scale

/** Samples in -1 to 1 -> {peak_db, rms_db, clipped}: dB below full scale, and how many samples are at its ends.
 * @type {(samples: Float32Array) => { peak_db: number, rms_db: number, clipped: number }} */
export function levelOf(samples) {
  let [peak, power, clipped] = [0, 0, 0];
  for (const sample of samples) {
    const size = Math.abs(sample);
    if (size > peak) peak = size;
    if (size >= CLIPPED) clipped += 1;
    power += sample * sample;
  }
  return { peak_db: 20 * Math.log10(peak), rms_db: 10 * Math.log10(power / Math.max(1, samples.length)), clipped };
}

/** Decibels -> the place on a meter from -60 dBFS (0) to full scale (1). @type {(decibels: number) => number} */
export const placeOnMeter = (decibels) => Math.min(1, Math.max(0, 1 + decibels / 60));

/** Status of a refused piece of sound -> whether it would be refused for ever: the recording is gone, has been ended or is
 * as long as it may be, or the piece is none. Whatever else is wrong may pass, so the sound is held until then.
 * @type {(status: number) => boolean} */
export const isFinal = (status) => [404, 409, 413, 422].includes(status);

/** Sound on its way to the service: nothing is let go of before it was confirmed. */
export function outbox() {
  let held = /** @type {Float32Array<ArrayBuffer>[]} */ ([]); // pieces behind the sample `from`
  let from = 0;
  let total = 0;
  return {
    /** @param {Float32Array<ArrayBuffer>} samples */
    push(samples) {
      held.push(samples);
      total += samples.length;
    },
    /** -> {at, samples} of what was not confirmed, `most` samples of it; null if there are fewer than `least`.
     * @param {number} least @param {number} most */
    next(least, most) {
      if (total - from < Math.max(1, least)) return null;
      const samples = new Float32Array(Math.min(total - from, most));
      let at = 0;
      for (const piece of held) {
        if (at === samples.length) break;
        const part = piece.subarray(0, samples.length - at);
        samples.set(part, at);
        at += part.length;
      }
      return { at: from, samples };
    },
    /** The service has everything before this sample. @param {number} sample */
    confirm(sample) {
      while (held.length && from < sample) {
        const gone = Math.min(held[0].length, sample - from);
        held = gone === held[0].length ? held.slice(1) : [held[0].subarray(gone), ...held.slice(1)];
        from += gone;
      }
    },
    get total() {
      return total;
    },
    get left() {
      return total - from;
    },
  };
}
