// The waveform, its regions and the playhead: wavesurfer.js shows them, this file says what they mean.

import Regions from "/static/vendor/regions.esm.js";
import Timeline from "/static/vendor/timeline.esm.js";
import WaveSurfer from "/static/vendor/wavesurfer.esm.js";
import { bytes } from "./api.js";
import { LABELS, colour, region as background } from "./classes.js";
import { move, timeKey } from "./cycles.js";
import { byId, clock, h } from "./dom.js";
import { change } from "./edits.js";
import { prepare, resetGain, rewire } from "./listening.js";
import { selectedCycle, state, update, when } from "./state.js";

const FIT = 0; // the zoom that shows everything
let surfer = null;
let regions = null;
let coming = null; // stops the load of a sound that is not there yet
let span = null; // what is played: {start_s, end_s, loop}, null for everything

/** Make the player; `onView(start_s, end_s)` hears which stretch is seen, `onTime(seconds)` where the playhead is. */
export function start(onView, onTime) {
  regions = Regions.create();
  const nonce = document.querySelector("meta[name=nonce]").content;
  surfer = WaveSurfer.create({
    container: byId("wave"),
    height: 130,
    sampleRate: 16000,
    normalize: true,
    dragToSeek: false,
    cspNonce: nonce,
    cursorWidth: 2,
    ...colours(),
    plugins: [regions, Timeline.create({ height: 18, secondaryLabelOpacity: 0.8, formatTimeCallback: (seconds) => `${seconds} s` })],
  });
  const view = () => state.heard && onView(...visible());
  for (const event of ["scroll", "zoom", "redraw", "ready", "resize"]) surfer.on(event, view);
  const showTime = () => {
    byId("clock").textContent = `${clock(now())} / ${clock(state.heard ? surfer.getDuration() : 0)}`;
    onTime(now());
  };
  surfer.on("timeupdate", (seconds) => {
    if (span && surfer.isPlaying() && seconds >= span.end_s) atEnd();
    showTime();
  });
  surfer.on("ready", showTime);
  surfer.on("finish", () => span?.loop && playSpan(span));
  surfer.on("play", showPlaying);
  surfer.on("pause", showPlaying);
  surfer.on("interaction", () => (span = null));
  regions.on("region-clicked", (region) => update({ selected: region.id }));
  regions.on("region-updated", dragged);
  when(["cycles", "selected", "scores", "model", "threshold"], showRegions);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  for (const id of ["filter", "low", "high", "gain"]) byId(id).addEventListener("input", rewire);
}

/** Let go of the sound, at once: until another one is loaded nothing can be played. */
export function empty() {
  coming?.abort();
  span = null;
  update({ heard: false });
  surfer.pause();
  regions.clearRegions();
  surfer.empty();
  const media = surfer.getMediaElement();
  media.removeAttribute("src");
  media.load(); // without this it would go on with what it has
  byId("zoom").value = FIT;
  byId("clock").textContent = `${clock(0)} / ${clock(0)}`;
  resetGain(); // what one recording needs may be far too loud for the next
}

/** Load a recording's sound into the empty player; resolves when it can be played. Errors: it cannot be loaded. */
export async function load(recording) {
  coming = new AbortController();
  const { signal } = coming;
  const { content } = await bytes(`/recordings/${recording}/audio`, signal);
  if (signal.aborted) return; // another recording was opened meanwhile
  let unheard;
  const broken = new Promise((_, reject) => (unheard = surfer.once("error", reject))); // the browser cannot decode it
  await Promise.race([surfer.loadBlob(new Blob([content], { type: "audio/wav" })), broken]).finally(unheard);
  if (signal.aborted) return;
  update({ heard: true });
  byId("clock").textContent = `${clock(0)} / ${clock(surfer.getDuration())}`;
  zoom(FIT);
  showRegions();
}

export function recolour() {
  surfer.setOptions(colours());
}

function colours() {
  const probe = h("span");
  byId("wave").append(probe);
  const shade = (name) => {
    probe.style.color = `var(${name})`; // a canvas knows neither variables nor light-dark()
    return getComputedStyle(probe).color;
  };
  const found = { waveColor: shade("--wave"), progressColor: shade("--wave-played"), cursorColor: shade("--playhead") };
  probe.remove();
  return found;
}

// Playing

export async function playPause() {
  if (!state.heard) return;
  await prepare(surfer.getMediaElement());
  if (!state.heard) return; // another recording was opened meanwhile
  if (surfer.isPlaying()) return surfer.pause();
  if (state.looping && selectedCycle()) return playCycle(selectedCycle());
  span = null;
  return surfer.play();
}

/** Play one cycle, again and again while looping is on. */
export async function playCycle(cycle, loop = state.looping) {
  if (!state.heard) return;
  await prepare(surfer.getMediaElement());
  if (!state.heard || !state.cycles.includes(cycle)) return; // another recording was opened meanwhile
  update({ selected: cycle.id });
  playSpan({ start_s: cycle.start_s, end_s: cycle.end_s, loop });
}

function playSpan(next) {
  span = next;
  jump(next.start_s);
  return surfer.play();
}

function atEnd() {
  if (span.loop) return jump(span.start_s);
  const end_s = span.end_s;
  span = null;
  surfer.pause();
  jump(end_s);
}

/** Loop or stop looping; the cycle that is playing goes on either way. */
export function setLooping(looping) {
  update({ looping });
  byId("loop").setAttribute("aria-pressed", looping);
  const cycle = selectedCycle();
  if (looping && cycle && surfer.isPlaying()) span = { start_s: cycle.start_s, end_s: cycle.end_s, loop: true };
  else if (span) span.loop = looping;
}

export function seek(seconds) {
  if (!state.heard) return;
  span = null;
  jump(Math.min(Math.max(seconds, 0), surfer.getDuration()));
}

export const now = () => surfer.getMediaElement().currentTime;

/** Not surfer.setTime, which forgets a jump that is asked for while another one is under way. */
function jump(seconds) {
  surfer.getMediaElement().currentTime = seconds;
}

function showPlaying() {
  const playing = surfer.isPlaying();
  byId("play").textContent = playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", playing);
}

// Seeing

/** 0 (everything fits) to 100 -> the zoom, keeping the playhead or the selected cycle in sight. */
export function zoom(value) {
  if (!state.heard) return;
  const fit = surfer.getWidth() / surfer.getDuration();
  const closest = Math.max(600, fit * 2);
  const pixels = fit * (closest / fit) ** (value / 100);
  byId("zoom").value = value;
  surfer.zoom(value <= FIT ? 0 : pixels);
  if (value > FIT) show(selectedCycle()?.start_s ?? now());
}

/** Scroll so that a time is in sight. */
export function show(seconds) {
  if (!state.heard) return;
  const [start_s, end_s] = visible();
  if (seconds < start_s || seconds > start_s + 0.8 * (end_s - start_s)) {
    surfer.setScrollTime(Math.max(0, seconds - 0.1 * (end_s - start_s)));
  }
}

/** -> the stretch of time that is seen. */
function visible() {
  const whole = surfer.getWrapper().clientWidth || 1;
  const seconds = (pixels) => (pixels / whole) * surfer.getDuration();
  return [seconds(surfer.getScroll()), seconds(surfer.getScroll() + surfer.getWidth())];
}

// Regions

function showRegions() {
  if (!state.heard) return;
  const known = new Map(regions.getRegions().map((region) => [region.id, region]));
  state.cycles.forEach((cycle, index) => {
    const region = known.get(cycle.id);
    known.delete(cycle.id);
    const chosen = cycle.id === state.selected;
    const options = { start: cycle.start_s, end: cycle.end_s, resize: chosen };
    if (!region) paint(regions.addRegion({ ...options, id: cycle.id, drag: false, color: "transparent" }), cycle, index);
    else {
      if (region.start !== cycle.start_s || region.end !== cycle.end_s || region.resize !== chosen) region.setOptions(options);
      paint(region, cycle, index);
    }
  });
  for (const region of known.values()) region.remove();
}

function paint(region, cycle, index) {
  const scores = state.scores[state.model]?.[timeKey(cycle)];
  const doubtful = scores && !cycle.confirmed && LABELS.confidence(scores) < state.threshold;
  const look = `${cycle.label} ${doubtful} ${cycle.id === state.selected} ${index}`;
  if (region.look === look || !region.element) return;
  region.look = look;
  Object.assign(region.element.style, {
    background: doubtful ? `var(--doubt), ${background(cycle.label)}` : background(cycle.label),
    boxShadow: cycle.id === state.selected ? "inset 0 0 0 2px var(--ink)" : "inset 1px 0 0 var(--line)",
  });
  const tag = colour(h("span", {}, `${index + 1} ${LABELS.letters(cycle.label)}`), cycle.label);
  Object.assign(tag.style, {
    display: "inline-block",
    margin: "3px",
    padding: "0 5px",
    borderRadius: "4px",
    whiteSpace: "nowrap",
    font: "600 12px/18px system-ui, sans-serif",
    background: "var(--class)",
    color: "var(--on-class)",
  });
  region.setContent(tag);
}

/** An edge was dragged: the neighbour may move along, so the region gets its place from the cycles. */
function dragged(region) {
  const cycle = state.cycles.find((each) => each.id === region.id);
  if (!cycle) return;
  const edge = Math.abs(region.start - cycle.start_s) > Math.abs(region.end - cycle.end_s) ? "start_s" : "end_s";
  const seconds = edge === "start_s" ? region.start : region.end;
  change(move(state.cycles, cycle.id, edge, seconds, state.current.duration_s), "Boundary moved", cycle.id);
  showRegions(); // back to its place where that was not possible
}
