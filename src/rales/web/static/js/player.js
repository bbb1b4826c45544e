// The sound that is heard: one media element, what is played of it, and the playhead.

import { bytes } from "./api.js";
import { byId, chosenOf, clock } from "./dom.js";
import { filling, showing, xOf } from "./geometry.js";
import { prepare, retune, rewire, setSound, startLevel } from "./listening.js";
import * as overview from "./overview.js";
import * as spectrogram from "./spectrogram.js";
import { pathOf, selectedCycle, state, update, when } from "./state.js";
import { measureLevel, readWav } from "./wav.js";

const WIDEST_S = 25; // of what is seen when a recording opens
const CYCLE_SHARE = 0.6; // of the width, for a cycle that is reviewed

const TYPED_MS = 300; // without another key or step, after which a band is what was meant

const media = new Audio();
/** @typedef {{ signal: AbortSignal, answer: ReturnType<typeof bytes> }} Coming a sound on its way */
let coming = /** @type {AbortController | null} */ (null); // stops the load of a sound that is not there yet
let address = ""; // of the sound
let span = /** @type {(Service.Span & { loop: boolean }) | null} */ (null); // what is played, null for everything

export function start() {
  media.addEventListener("play", () => {
    showPlaying();
    requestAnimationFrame(follow);
  });
  media.addEventListener("pause", showPlaying);
  media.addEventListener("seeked", showTime);
  media.addEventListener("timeupdate", watch); // also where no frame is drawn, as in a tab that is not seen
  media.addEventListener("ended", () => span?.loop && playSpan(span));
  when(["view"], showPlayhead);
  new ResizeObserver(showPlayhead).observe(byId("picture"));
  for (const name of ["band", "low", "high", "gain"])
    for (const field of document.querySelectorAll(`#${name}, [name=${name}]`))
      field.addEventListener("input", () => {
        if (name === "gain") rewire();
        else retune(TYPED_MS);
        update({ band: null }); // the axis shows it
      });
  for (const field of document.querySelectorAll(/** @type {"input"} */ ("[name=speed]")))
    field.addEventListener("input", () => setSpeed(Number(field.value)));
  startLevel();
  media.preservesPitch = false; // half speed sounds an octave lower: nothing is stretched, so no click is smeared
}

/** Let go of the sound, at once: until another one is loaded nothing can be played. */
export function empty() {
  coming?.abort();
  span = null;
  update({ heard: false, level: "" });
  media.pause();
  media.removeAttribute("src");
  media.load(); // without this it would go on with what it has
  URL.revokeObjectURL(address);
  byId("clock").textContent = `${clock(0)} / ${clock(0)}`;
  overview.load(null);
  spectrogram.empty();
  setSound(null);
}

/** Ask for a recording's sound, for `load`; it comes while other things about the recording do.
 * @type {(recording: string) => Coming} */
export function fetchSound(recording) {
  coming = new AbortController();
  const { signal } = coming;
  const answer = bytes(`${pathOf(recording)}/audio`, signal);
  answer.catch(() => {}); // whoever loads it hears of it
  return { signal, answer };
}

/** Load a sound that was asked for into the empty player; resolves when it can be played. Errors: it cannot be loaded.
 * @type {(coming: Coming) => Promise<void>} */
export async function load({ signal, answer }) {
  const { content } = await answer;
  if (signal.aborted) return; // another recording was opened meanwhile
  const { samples, rate_hz } = readWav(content);
  address = URL.createObjectURL(new Blob([content], { type: "audio/wav" }));
  const playable = new Promise((resolve, reject) => {
    media.addEventListener("canplay", resolve, { once: true, signal });
    media.addEventListener("error", () => reject(new Error("The browser cannot play it")), { once: true, signal });
    signal.addEventListener("abort", resolve);
    media.src = address;
  });
  const view = { start_s: 0, end_s: Math.min(state.current.duration_s, WIDEST_S) };
  update({ view }); // the picture is on its way while the browser makes ready to play
  spectrogram.load(samples, rate_hz);
  overview.load(samples);
  await playable;
  if (signal.aborted) return;
  setSpeed(Number(chosenOf("speed")));
  setSound({ samples, rate_hz });
  update({ heard: true, level: levelWords(samples), view });
  showTime();
}

/** @type {(samples: Int16Array) => string} */
function levelWords(samples) {
  const { peak_db, clipped } = measureLevel(samples);
  const loud = Number.isFinite(peak_db) ? `peak ${peak_db.toFixed(1)} dBFS` : "silence";
  return clipped > 0.0005 ? `${loud}, clipped ${(100 * clipped).toFixed(1)} %` : loud;
}

/** @type {(speed: number) => void} */
function setSpeed(speed) {
  media.playbackRate = media.defaultPlaybackRate = speed;
}

// Playing

export const now = () => media.currentTime;

export async function playPause() {
  if (!state.heard) return;
  await prepare(media);
  if (!state.heard) return; // another recording was opened meanwhile
  if (!media.paused) return media.pause();
  const cycle = selectedCycle();
  if (state.looping && cycle) return playCycle(cycle);
  span = null;
  return begin();
}

/** Play one cycle, again and again while looping is on. @type {(cycle: Cycle, loop?: boolean) => Promise<void>} */
export async function playCycle(cycle, loop = state.looping) {
  if (!state.heard) return;
  await prepare(media);
  if (!state.heard || !state.cycles.includes(cycle)) return; // another recording was opened meanwhile
  update({ selected: cycle.id });
  playSpan({ start_s: cycle.start_s, end_s: cycle.end_s, loop });
}

/** @type {(next: NonNullable<typeof span>) => Promise<void>} */
function playSpan(next) {
  span = next;
  media.currentTime = next.start_s;
  return begin();
}

/** Play from where it is; that something else is played before it begins is no error. */
const begin = () => media.play().catch((error) => {
  if (error.name !== "AbortError") throw error;
});

/** While it plays: the end of what is played, and the playhead in sight. */
function watch() {
  if (!media.paused && span && now() >= span.end_s) {
    if (span.loop) media.currentTime = span.start_s;
    else {
      const { end_s } = span;
      span = null;
      media.pause();
      media.currentTime = end_s;
    }
  }
  showTime();
}

function follow() {
  if (media.paused) return;
  watch();
  if (state.heard && (now() > state.view.end_s || now() < state.view.start_s)) show(now());
  requestAnimationFrame(follow);
}

/** Loop or stop looping; the cycle that is playing goes on either way. @type {(looping: boolean) => void} */
export function setLooping(looping) {
  update({ looping });
  byId("loop").setAttribute("aria-pressed", looping);
  const cycle = selectedCycle();
  if (looping && cycle && !media.paused) span = { start_s: cycle.start_s, end_s: cycle.end_s, loop: true };
  else if (span) span.loop = looping;
}

/** @type {(seconds: number) => void} */
export function seek(seconds) {
  if (!state.heard) return;
  span = null;
  media.currentTime = Math.min(Math.max(seconds, 0), media.duration);
  showTime();
}

export function pause() {
  media.pause();
}

function showPlaying() {
  const playing = !media.paused;
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  byId("play").setAttribute("aria-pressed", playing);
}

function showTime() {
  byId("clock").textContent = `${clock(now())} / ${clock(state.heard ? media.duration : 0)}`;
  showPlayhead();
}

// Seeing

function showPlayhead() {
  const width = byId("picture").clientWidth;
  const x = xOf(state.view, width, now());
  byId("playhead").hidden = !state.heard || x < 0 || x > width;
  byId("playhead").style.transform = `translateX(${x}px)`;
}

/** Go to a view in which a time is seen. @type {(seconds: number) => void} */
export function show(seconds) {
  if (!state.heard) return;
  const view = showing(state.view, byId("picture").clientWidth, state.current.duration_s, seconds);
  if (view !== state.view) update({ view });
}

/** A cycle fills most of the picture. @type {(cycle: Cycle) => void} */
export function showCycle(cycle) {
  if (!state.heard) return;
  update({ view: filling(cycle, byId("picture").clientWidth, state.current.duration_s, CYCLE_SHARE) });
}
