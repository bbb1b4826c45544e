// Time and frequency to pixels and back. Nothing here touches the page; tests run it in node.

export const CLOSEST_PX_PER_S = 3000; // a fine crackle of 5 ms is then 15 pixels
const TICK_APART_PX = 80;
const BAND_APART_PX = 40;

// Time. A view is the stretch that is seen, {start_s, end_s}.

/** @type {(view: Service.Span, width: number, seconds: number) => number} */
export const xOf = (view, width, seconds) => ((seconds - view.start_s) / (view.end_s - view.start_s)) * width;
/** @type {(view: Service.Span, width: number, x: number) => number} */
export const timeAt = (view, width, x) => view.start_s + (x / width) * (view.end_s - view.start_s);

/** A view -> the nearest one inside the recording that is not closer than CLOSEST_PX_PER_S.
 * @type {(view: Service.Span, width: number, duration_s: number) => Service.Span} */
export function bounded({ start_s, end_s }, width, duration_s) {
  const shortest_s = Math.min(duration_s, width / CLOSEST_PX_PER_S);
  const length_s = Math.min(Math.max(end_s - start_s, shortest_s), duration_s);
  const first_s = Math.min(Math.max(start_s, 0), duration_s - length_s);
  return { start_s: first_s, end_s: first_s + length_s };
}

/** `factor` times closer; what lies under `x` stays there, unless an end of the recording comes into sight.
 * @type {(view: Service.Span, width: number, duration_s: number, x: number, factor: number) => Service.Span} */
export function zoomed(view, width, duration_s, x, factor) {
  const length_s = Math.min(Math.max((view.end_s - view.start_s) / factor, width / CLOSEST_PX_PER_S), duration_s);
  const start_s = timeAt(view, width, x) - (x / width) * length_s;
  return bounded({ start_s, end_s: start_s + length_s }, width, duration_s);
}

/** The picture is pulled `pixels` to the right.
 * @type {(view: Service.Span, width: number, duration_s: number, pixels: number) => Service.Span} */
export function panned(view, width, duration_s, pixels) {
  const by_s = (pixels / width) * (view.end_s - view.start_s);
  return bounded({ start_s: view.start_s - by_s, end_s: view.end_s - by_s }, width, duration_s);
}

/** The same view if it shows a time and what follows, else one of that length that does.
 * @type {(view: Service.Span, width: number, duration_s: number, seconds: number) => Service.Span} */
export function showing(view, width, duration_s, seconds) {
  const length_s = view.end_s - view.start_s;
  if (view.start_s <= seconds && seconds <= view.start_s + 0.9 * length_s) return view;
  return bounded({ start_s: seconds - 0.1 * length_s, end_s: seconds + 0.9 * length_s }, width, duration_s);
}

/** A stretch that fills `share` of the width, in the middle.
 * @type {(view: Service.Span, width: number, duration_s: number, share: number) => Service.Span} */
export function filling({ start_s, end_s }, width, duration_s, share) {
  const around_s = ((end_s - start_s) * (1 / share - 1)) / 2;
  return bounded({ start_s: start_s - around_s, end_s: end_s + around_s }, width, duration_s);
}

/** How far between everything (0) and as close as can be (100) a view is, in equal steps of the factor.
 * @type {(view: Service.Span, width: number, duration_s: number) => number} */
export function zoomOf(view, width, duration_s) {
  const closest = Math.log((duration_s * CLOSEST_PX_PER_S) / width);
  return closest <= 0 ? 0 : (100 * Math.log(duration_s / (view.end_s - view.start_s))) / closest;
}

/** The factor from a view to another zoom of `zoomOf`.
 * @type {(view: Service.Span, width: number, duration_s: number, zoom: number) => number} */
export function zoomFactor(view, width, duration_s, zoom) {
  const length_s = duration_s * (width / (duration_s * CLOSEST_PX_PER_S)) ** (zoom / 100);
  return (view.end_s - view.start_s) / length_s;
}

/** -> [{seconds, text}] of a time axis, as many as have room.
 * @type {(view: Service.Span, width: number) => { seconds: number, text: string }[]} */
export function timeTicks(view, width) {
  const least_s = (TICK_APART_PX * (view.end_s - view.start_s)) / width;
  const step_s = [60, 120, 300].find((step) => step >= least_s && least_s > 30) ?? roundStep(least_s);
  const digits = Math.max(0, -Math.floor(Math.log10(step_s) + 1e-9));
  const first = Math.ceil(view.start_s / step_s - 1e-9);
  const count = Math.floor(view.end_s / step_s + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, i) => {
    const seconds = (first + i) * step_s;
    return { seconds, text: seconds < 60 || step_s < 1 ? `${seconds.toFixed(digits)} s` : minutes(seconds) };
  });
}

/** @type {(seconds: number) => string} */
const minutes = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, "0")}`;

/** -> the smallest of 1, 2 and 5 times a power of ten that is not below `least`. @type {(least: number) => number} */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return ([1, 2, 5].find((each) => each * power >= least * (1 - 1e-9)) ?? 10) * power;
}

// Frequency. A scale is {kind, low_hz, high_hz}; a place on it is 0 at the bottom and 1 at the top.

/** Slaney's mel, as the models' front-end has it: linear up to 1,000 Hz. @type {(hertz: number) => number} */
const melOf = (hertz) => (hertz < 1000 ? hertz / (200 / 3) : 15 + Math.log(hertz / 1000) / (Math.log(6.4) / 27));
/** @type {(mel: number) => number} */
const fromMel = (mel) => (mel < 15 ? mel * (200 / 3) : 1000 * Math.exp((mel - 15) * (Math.log(6.4) / 27)));
/** @type {Record<Scale["kind"], [(hertz: number) => number, (value: number) => number]>} */
const KINDS = { linear: [(hertz) => hertz, (value) => value], log: [Math.log, Math.exp], mel: [melOf, fromMel] };

/** @type {(scale: Scale, hertz: number) => number} */
export function placeOf({ kind, low_hz, high_hz }, hertz) {
  const [bend] = KINDS[kind];
  return (bend(Math.max(hertz, low_hz)) - bend(low_hz)) / (bend(high_hz) - bend(low_hz));
}

/** @type {(scale: Scale, place: number) => number} */
export function hertzAt({ kind, low_hz, high_hz }, place) {
  const [bend, straighten] = KINDS[kind];
  return straighten(bend(low_hz) + place * (bend(high_hz) - bend(low_hz)));
}

/** -> [{hertz, text}] of a frequency axis `height` pixels high, the lowest first.
 * @type {(scale: Scale, height: number) => { hertz: number, text: string }[]} */
export function frequencyTicks(scale, height) {
  const wanted = scale.kind === "linear"
    ? steps(scale, roundStep((BAND_APART_PX * (scale.high_hz - scale.low_hz)) / height))
    : [50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 6000, 8000];
  const found = [];
  let last = -BAND_APART_PX / 2; // so that the lowest one keeps off the corner
  for (const hertz of wanted) {
    const up = placeOf(scale, hertz) * height;
    if (hertz < scale.low_hz || hertz > scale.high_hz || up - last < BAND_APART_PX * 0.6) continue;
    found.push({ hertz, text: hertz < 10000 && hertz % 1000 ? `${hertz}` : `${hertz / 1000}k` });
    last = up;
  }
  return found;
}

/** @type {(scale: Scale, step: number) => number[]} */
const steps = ({ low_hz, high_hz }, step) =>
  Array.from({ length: Math.floor((high_hz - low_hz) / step) }, (_, i) => low_hz + (i + 1) * step);
