// The service: JSON in and out; its sentences become errors.

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** Method, path and body (an object for JSON, FormData for files) -> the answer. Errors: Refused. */
export async function call(method, path, body) {
  const files = body instanceof FormData;
  const options = { method };
  if (body !== undefined) {
    options.body = files ? body : JSON.stringify(body);
    if (!files) options.headers = { "content-type": "application/json" };
  }
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Refused(0, "The service does not answer; is `rales serve` still running?");
    }
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    if (answer.status === 429 || answer.status === 503) {
      await pause(1000 * Number(answer.headers.get("retry-after") ?? 2)); // it is busy, not unwilling
      continue;
    }
    throw new Refused(answer.status, await sentence(answer));
  }
}

/** Path -> the answer as bytes, and its headers. */
export async function bytes(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Refused(answer.status, await sentence(answer));
  return { content: new Uint8Array(await answer.arrayBuffer()), headers: answer.headers };
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Have the browser save what a path answers. */
export function download(path) {
  const link = document.createElement("a");
  link.href = path;
  link.download = "";
  document.body.append(link);
  link.click();
  link.remove();
}

async function sentence(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The service answered ${answer.status}`;
  }
}
