// The service: JSON in and out; its sentences become errors.

export class Refused extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Method, path and body (an object for JSON, FormData for files, numbers for bytes) -> the answer. Errors: Refused.
 * @type {<Method extends string, Path extends string>(method: Method, path: Known<Method, Path>, ...body: RouteOf<Method, Path>["sends"])
 *   => Promise<RouteOf<Method, Path>["answer"]>}
 */
export async function call(method, path, sent) {
  const answer = await fetched(path, sent === undefined ? { method } : { method, body: packed(sent) });
  return answer.status === 204 ? /** @type {any} */ (null) : answer.json();
}

/** The same with POST as the page closes: the browser sends it, as far as it has room, and nobody hears the answer.
 * @type {<Path extends string>(path: Known<"POST", Path>, ...body: RouteOf<"POST", Path>["sends"]) => void} */
export function sendLast(path, sent) {
  navigator.sendBeacon(path, packed(sent));
}

/** @type {(sent: unknown) => FormData | Blob} */
function packed(sent) {
  if (sent instanceof FormData) return sent;
  if (ArrayBuffer.isView(sent)) return new Blob([/** @type {ArrayBufferView<ArrayBuffer>} */ (sent)], { type: "application/octet-stream" });
  return new Blob([JSON.stringify(sent)], { type: "application/json" });
}

/** Path -> the answer as bytes, and its headers; `signal` gives up.
 * @type {<Path extends string>(path: Known<"GET", Path>, signal?: AbortSignal) => Promise<{ content: Uint8Array<ArrayBuffer>, headers: Headers }>} */
export async function bytes(path, signal) {
  const answer = await fetched(path, { signal });
  return { content: new Uint8Array(await answer.arrayBuffer()), headers: answer.headers };
}

/** -> an answer that is one; a service that says when to come back is asked again then. Errors: Refused.
 * @type {(path: string, options: RequestInit) => Promise<Response>} */
async function fetched(path, options) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Refused(0, "The service does not answer; is `rales serve` still running?");
    }
    if (answer.ok) return answer;
    const wait_s = Number(answer.headers.get("retry-after"));
    if (!wait_s || (answer.status !== 429 && answer.status !== 503)) throw new Refused(answer.status, await sentence(answer));
    await pause(1000 * wait_s); // it is busy, not unwilling
  }
}

/** @type {(milliseconds: number) => Promise<void>} */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** The events of a path, as they come. @type {<Path extends string>(path: Known<"GET", Path>) => EventSource} */
export const eventsOf = (path) => new EventSource(path);

/** Show in a frame what a path answers. @type {<Path extends string>(frame: HTMLIFrameElement, path: Known<"GET", Path>) => void} */
export function showIn(frame, path) {
  frame.src = path;
}

/** Have the browser save what a path answers. @type {<Path extends string>(path: Known<"GET", Path>) => void} */
export function download(path) {
  const link = document.createElement("a");
  link.href = path;
  link.download = "";
  document.body.append(link);
  link.click();
  link.remove();
}

/** @type {(answer: Response) => Promise<string>} */
async function sentence(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The service answered ${answer.status}`;
  }
}
