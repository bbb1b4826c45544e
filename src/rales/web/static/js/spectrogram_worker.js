// Computes tiles of the picture beside the page, so that it never waits: the newest wishes first, one tile at a time.

import { highLevel, tile } from "./stft.js";

const LOOKED_AT = 512; // columns of the whole recording that its loudness is taken from
// Of the rate: what lies below it (62.5 Hz) says nothing of breath, and is often the loudest; a short window smears it.
const RUMBLE = 1 / 256;

let samples = new Int16Array(0);
let turn = 0; // of the recording; what is computed of another one is not wanted any more
let wanted = /** @type {{ key: string, about: any }[]} */ ([]);
let busy = false;
let latest = ""; // key of the tile that is on its way to the page, which may still wish for it

addEventListener("message", ({ data }) => {
  if (data.samples) [samples, turn, wanted, latest] = [data.samples, data.turn, [], ""];
  else wanted = data.wanted.filter((/** @type {{ key: string }} */ { key }) => key !== latest);
  if (!busy) work();
});

async function work() {
  busy = true;
  while (wanted.length) {
    const [{ key, about }] = wanted.splice(0, 1);
    latest = key;
    if (about.loudness) {
      const hop = Math.max(about.window / 2, Math.ceil(samples.length / LOOKED_AT));
      const columns = Math.max(1, Math.floor(samples.length / hop));
      const looked = tile(samples, { ...about, hop, first: 0, columns, most_looks: 1 }); // the picture waits for it
      const level = highLevel(looked, about.bins, Math.ceil(about.size * Math.max(RUMBLE, 2 / about.window)));
      postMessage({ turn, key, level });
    } else {
      const levels = tile(samples, about);
      postMessage({ turn, key, levels }, { transfer: [levels.buffer] });
    }
    await new Promise((resolve) => setTimeout(resolve)); // newer wishes come in
  }
  busy = false;
}
