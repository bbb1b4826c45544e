// Recording on the page: a device is heard, its sound goes to the service piece by piece, and what the model says of each
// breath comes back as it ends. Nothing is let go of before the service has it on its disk.

import { call, pause, sendLast } from "./api.js";
import { alarm, ask, byId, clock, h } from "./dom.js";
import { refresh } from "./listing.js";
import { listInputs, openInput } from "./live_capture.js";
import { livePicture } from "./live_picture.js";
import { isFinal, levelOf, outbox, placeOnMeter } from "./live_sound.js";
import * as player from "./player.js";
import { openRecording } from "./recordings.js";
import { state, when } from "./state.js";

const PIECE_S = 0.25; // that goes to the service at once
const MOST = 250_000; // samples of a request, when the service could not be reached for a while
const AT_ONCE = 15_000; // that a page which is closed can still send
const CLIPPED_S = 3; // that clipping is said after it happened
const UNPLUGGED = "The device was unplugged: what it heard until then is here";

let sessionReady = async () => {};
/**
 * @typedef {object} Live
 * @property {string} id
 * @property {import("./live_capture.js").Input} input
 * @property {number} rate_hz
 * @property {ReturnType<typeof outbox>} unsent
 * @property {ReturnType<typeof livePicture>} picture
 * @property {boolean} recording
 * @property {number} clipped_s
 * @property {boolean} [complete]
 * @property {Promise<void>} [sending]
 * @property {Promise<unknown>} [asking]
 */
let live = /** @type {Live | null} */ (null);

/** `ready()` resolves once there is a session to add to. @type {(ready: () => Promise<void>) => void} */
export function start(ready) {
  sessionReady = ready;
  when(["session"], () => showLeft().catch(() => {}));
  byId("record").addEventListener("click", open);
  byId("live-begin").addEventListener("click", () => begin().catch(fail));
  byId("live-stop").addEventListener("click", () => end("").catch(fail));
  byId("live-keep").addEventListener("click", () => keep().catch(fail));
  byId("live-discard").addEventListener("click", () => discard().catch(fail));
  byId("live-close").addEventListener("click", () => byId("live").close());
  byId("live").addEventListener("close", () => (live ? byId("live").showModal() : showLeft().catch(() => {}))); // Escape loses nothing
  navigator.mediaDevices?.addEventListener("devicechange", () => fillDevices());
  addEventListener("beforeunload", (event) => live && !live.complete && event.preventDefault());
  addEventListener("pagehide", sendRest);
}

/** @type {(sentence: string) => void} */
const say = (sentence) => (byId("live-state").textContent = sentence);

/** @type {(error: Error) => void} */
function fail(error) {
  say(`${error.message}.`.replace("..", "."));
  showButtons();
}

async function open() {
  player.pause();
  byId("live-name").value = `live_${new Date().toISOString().slice(0, 19).replace(/[-:]/g, "").replace("T", "_")}`;
  byId("live-cycles").replaceChildren();
  byId("live-lane").replaceChildren();
  for (const id of /** @type {const} */ (["live-quality", "live-level-text"])) byId(id).textContent = "";
  say("Choose the device, then begin.");
  showButtons();
  byId("live").showModal();
  await fillDevices();
}

async function fillDevices() {
  const inputs = await listInputs();
  const chosen = byId("live-device").value;
  const options = inputs.filter(({ id }) => id).map(({ id, label }, i) => h("option", { value: id }, label || `Device ${i + 1}`));
  byId("live-device").replaceChildren(h("option", { value: "" }, "as the system chooses"), ...options);
  if (inputs.some(({ id }) => id === chosen)) byId("live-device").value = chosen;
}

function showButtons() {
  byId("live-begin").hidden = byId("live-close").hidden = byId("live-device").disabled = Boolean(live);
  byId("live-stop").hidden = !live?.recording;
  byId("live-discard").hidden = !live || live.recording;
  byId("live-keep").hidden = !live?.complete;
}

async function begin() {
  byId("live-begin").disabled = true;
  const early = /** @type {Float32Array<ArrayBuffer>[]} */ ([]); // what comes before the service has made room for it
  let unplugged = false;
  try {
    const input = await openInput(byId("live-device").value, (samples) => (live ? hear(live, samples) : early.push(samples)), () => {
      unplugged = true; // maybe before there is a recording to end
      end(UNPLUGGED).catch(fail);
    });
    try {
      await sessionReady();
      const name = byId("live-name").value.trim() || "live";
      const { id } = await call("POST", `/sessions/${state.session}/live`, { name, rate_hz: input.rate_hz });
      live = { id, input, rate_hz: input.rate_hz, unsent: outbox(), picture: livePicture(input.rate_hz), recording: true, clipped_s: -CLIPPED_S };
    } catch (error) {
      await input.close();
      throw error;
    }
    say([`Recording ${input.label || "the device"} at ${input.rate_hz / 1000} kHz.`, input.note && `${input.note}.`].filter(Boolean).join(" "));
    const mine = live;
    early.forEach((samples) => hear(mine, samples));
    mine.sending = send(mine);
    listen(mine);
    fillDevices(); // their names are known now
    if (unplugged) await end(UNPLUGGED);
  } finally {
    byId("live-begin").disabled = false;
    showButtons();
  }
}

/** Sound has come: it is kept to be sent, measured, and drawn. @type {(mine: Live, samples: Float32Array<ArrayBuffer>) => void} */
function hear(mine, samples) {
  const { unsent, rate_hz, picture } = mine;
  unsent.push(samples);
  picture.hear(samples);
  const level = levelOf(samples);
  const now_s = unsent.total / rate_hz;
  if (level.clipped > 1) mine.clipped_s = now_s;
  byId("live-peak").style.width = `${100 * placeOnMeter(level.peak_db)}%`;
  byId("live-rms").style.width = `${100 * placeOnMeter(level.rms_db)}%`;
  const clips = now_s - mine.clipped_s < CLIPPED_S;
  byId("live-meter").dataset.clipped = `${clips}`;
  byId("live-clock").textContent = clock(now_s);
  if (Math.floor(now_s * 4) !== Math.floor((now_s - samples.length / rate_hz) * 4)) showLevel(level, clips);
  if (mine.recording && now_s >= state.limits.duration_s)
    end(`A recording lasts ${state.limits.duration_s / 60} minutes at most, so it was ended: keep it and begin another one`);
}

/** @type {(level: { peak_db: number, rms_db: number }, clips: boolean) => void} */
function showLevel({ peak_db, rms_db }, clips) {
  const figure = (/** @type {number} */ value) => (Number.isFinite(value) ? value.toFixed(0) : "−∞");
  const words = `peak ${figure(peak_db)}, RMS ${figure(rms_db)} dBFS`;
  const clipped = clips ? "; clipped: turn the device down" : "";
  byId("live-level-text").textContent = words + clipped;
  byId("live-meter").setAttribute("aria-valuetext", words + clipped);
  byId("live-meter").setAttribute("aria-valuenow", Number.isFinite(rms_db) ? Math.max(-60, Math.round(rms_db)) : -60);
}

/** Send what comes until all of it is confirmed; a service that does not answer, or cannot take it now, is asked again.
 * @type {(mine: Live) => Promise<void>} */
async function send(mine) {
  let held = false;
  const most = () => Math.round(state.limits.duration_s * mine.rate_hz) - (mine.unsent.total - mine.unsent.left);
  while (mine === live && (mine.recording || mine.unsent.left)) {
    const piece = mine.unsent.next(mine.recording ? PIECE_S * mine.rate_hz : 1, Math.min(MOST, most()));
    if (!piece?.samples.length) {
      if (!mine.recording) return;
      await pause(50);
      continue;
    }
    try {
      mine.unsent.confirm((await call("POST", `/live/${mine.id}/sound?at=${piece.at}`, piece.samples)).samples);
      if (held) say("The service takes the sound again.");
      held = false;
    } catch (error) {
      if (isFinal(error.status)) return void end(error.message); // which waits for this to return
      held = true;
      say(`${error.message} ${clock(mine.unsent.left / mine.rate_hz)} wait in this page. Leave it open.`);
      await pause(1000);
    }
  }
}

/** Ask what was found, again and again. @type {(mine: Live) => Promise<void>} */
async function listen(mine) {
  while (mine === live && mine.recording) {
    await pause(1000);
    if (mine !== live || !mine.recording) return; // it was ended meanwhile, and may be kept
    await (mine.asking = showAnswers(mine).catch((error) => (byId("live-quality").textContent = error.message)));
  }
}

/** @type {(mine: Live) => Promise<void>} */
async function showAnswers(mine) {
  const said = await call("GET", `/live/${mine.id}/answers`);
  if (mine !== live) return;
  mine.picture.show(mine.unsent.total / mine.rate_hz, said.cycles);
  const good = said.cycles.length ? "The sound can be judged." : "No breath has ended yet.";
  byId("live-quality").textContent = said.judged ? said.quality_reason || good : `Cannot be judged: ${said.quality_reason}`;
}

/** Let go of the device; what it heard goes to the service. `why` says why a person did not ask for that.
 * @type {(why: string) => Promise<void>} */
async function end(why) {
  const mine = live;
  if (!mine?.recording) return;
  mine.recording = false;
  showButtons();
  await mine.input.close();
  await mine.sending;
  if (mine !== live) return;
  const sent_s = (mine.unsent.total - mine.unsent.left) / mine.rate_hz;
  say(`${why ? `${why}. ` : ""}${clock(sent_s)} are with the service: keep them, or discard them.`);
  mine.complete = true;
  showButtons();
  mine.asking = Promise.resolve(mine.asking).then(() => showAnswers(mine)).catch(() => {}); // one that is on its way comes first
}

async function keep() {
  if (!live) return;
  byId("live-keep").disabled = true;
  try {
    await live.asking;
    await keepLeft(live.id, byId("live-name").value.trim());
    live = null;
    byId("live").close();
  } finally {
    byId("live-keep").disabled = false;
  }
}

async function discard() {
  if (!live) return;
  await live.asking;
  await call("DELETE", `/live/${live.id}`);
  live = null;
  byId("live").close();
}

/** An unfinished recording becomes one of the list, and opens. @type {(id: string, name: string) => Promise<void>} */
async function keepLeft(id, name) {
  const facts = await call("POST", `/live/${id}/keep`, { name });
  await refresh();
  await openRecording(facts.id);
}

/** Recordings that a page was closed in the middle of. */
async function showLeft() {
  const session = state.session;
  const known = session ? await call("GET", `/sessions/${session}/live`) : [];
  if (session !== state.session) return;
  const left = known.filter((each) => each.left && each.id !== live?.id);
  byId("live-left").replaceChildren(...left.map(({ id, name, duration_s }) => {
    const act = (/** @type {() => Promise<void>} */ work) => async () => {
      try {
        await work();
      } catch (error) {
        alarm(error.message);
      }
      await showLeft();
    };
    return h("li", {}, `${name}, ${clock(duration_s)}: was not ended. `,
      h("button", { type: "button", onclick: act(() => keepLeft(id, "")) }, "Keep"), " ",
      h("button", { type: "button", onclick: act(async () => {
        if (await ask(`Discard ${name}?`, null, null, "Discard")) await call("DELETE", `/live/${id}`);
      }) }, "Discard"));
  }));
}

/** The page is closed: what is not with the service goes on its way, as much as browsers allow. */
function sendRest() {
  const piece = live?.unsent.next(1, AT_ONCE);
  if (live && piece) sendLast(`/live/${live.id}/sound?at=${piece.at}`, piece.samples);
}
