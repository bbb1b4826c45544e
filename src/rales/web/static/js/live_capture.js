// A microphone or a USB stethoscope, without anything that makes speech of it: no echo cancellation, no noise suppression,
// no automatic gain, at the rate of the device.

const RAW = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
/** @typedef {{ rate_hz: number, label: string, note: string, close: () => Promise<void> }} Input */
const HIGHEST_HZ = 48000; // that the service takes
/** @type {Record<string, string>} */
const REASONS = {
  NotAllowedError: "The browser was told to give this page no microphone; allow it beside the address, then try again",
  SecurityError: "The browser or the system gives no microphone to pages; allow it in their settings, then try again",
  NotFoundError: "There is no microphone or stethoscope; plug one in, then try again",
  NotReadableError: "The device cannot be opened; another program may use it, or it was unplugged",
  AbortError: "The device cannot be opened; unplug it, plug it in, then try again",
  OverconstrainedError: "The device that was chosen is not there any more; choose another one",
};

/** What a browser raised -> a sentence. @type {(error: Error) => string} */
export const reasonOf = (error) => REASONS[error.name] ?? `The device cannot be used (${error.message})`;

/** Settings of the sound that comes -> what the browser does to it all the same, "" for nothing.
 * @type {(settings: MediaTrackSettings) => string} */
export function alterations(settings) {
  const words = { echoCancellation: "echo cancellation", noiseSuppression: "noise suppression", autoGainControl: "automatic gain" };
  const found = Object.keys(words).filter((name) => settings[name] === true).map((name) => words[name]);
  return found.length ? `This browser does not switch off ${found.join(" and ")} for this device: the sound is altered` : "";
}

/** -> [{id, label}] of the inputs; labels are empty until a microphone was allowed once. */
export async function listInputs() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter(({ kind }) => kind === "audioinput").map(({ deviceId, label }) => ({ id: deviceId, label }));
}

/** Open a device (the system's own choice for ""); `hear` gets Float32Arrays as they come, `lost` hears that it was unplugged.
 * -> {rate_hz, label, note, close}; `close` resolves once all sound has come. Errors: sentences.
 * @type {(device: string, hear: (samples: Float32Array<ArrayBuffer>) => void, lost: () => void) => Promise<Input>} */
export async function openInput(device, hear, lost) {
  if (!navigator.mediaDevices)
    throw new Error("Browsers give a microphone to pages of this machine or over https only; open the page on the machine "
      + "that serves it, or put a TLS proxy in front");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { ...RAW, ...(device ? { deviceId: { exact: device } } : {}) } });
  } catch (error) {
    throw new Error(reasonOf(error), { cause: error });
  }
  const [track] = stream.getAudioTracks();
  const settings = track.getSettings();
  const sampleRate = settings.sampleRate ? Math.min(settings.sampleRate, HIGHEST_HZ) : undefined;
  const context = new AudioContext({ sampleRate });
  const shut = async () => {
    track.stop();
    await context.close();
  };
  try {
    await context.audioWorklet.addModule("/static/js/live_worklet.js");
    const tap = new AudioWorkletNode(context, "rales-tap", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit", // stereo is mixed
    });
    const complete = new Promise((resolve) => {
      tap.port.onmessage = ({ data }) => (data === null ? resolve(data) : hear(data));
    });
    context.createMediaStreamSource(stream).connect(tap);
    track.addEventListener("ended", lost);
    await context.resume();
    const close = async () => {
      tap.port.postMessage("end");
      await Promise.race([complete, new Promise((resolve) => setTimeout(resolve, 1000))]); // of a device that died
      await shut();
    };
    return { rate_hz: context.sampleRate, label: track.label, note: alterations(settings), close };
  } catch (error) {
    await shut();
    throw new Error(reasonOf(error), { cause: error });
  }
}
