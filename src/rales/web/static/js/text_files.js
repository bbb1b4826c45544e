// Text files as other programs write them: UTF-8, or UTF-16 with its mark, which Windows calls Unicode.

/** @type {Record<string, string>} */
const MARKS = { "255,254": "utf-16le", "254,255": "utf-16be" };

/** File -> its text. Errors: a sentence for one that is no text. @type {(file: File) => Promise<string>} */
export const readText = async (file) => decodeText(await file.arrayBuffer(), file.name);

/** Bytes and name of a file -> its text. Errors: as those of readText.
 * @type {(content: ArrayBuffer, name: string) => string} */
export function decodeText(content, name) {
  const kind = MARKS[new Uint8Array(content).subarray(0, 2).join()] ?? "utf-8";
  try {
    return new TextDecoder(kind, { fatal: true }).decode(content);
  } catch {
    throw new Error(`${name}: not a text file in ${kind.slice(0, 6).replace(/-$/, "").toUpperCase()}; save it as UTF-8`);
  }
}
