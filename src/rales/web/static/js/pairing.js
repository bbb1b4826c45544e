// Which of the files that came together are recordings, and which annotation belongs to which. Files are told apart by
// their path in what was dropped, so that folders with files of the same names do not mix.

const ANNOTATION = ".txt";
const EVENTS = /_events(\.\w+)?\.(txt|json)$/i;
/**
 * @template File
 * @typedef {{ sound: File, text: File | null, events: File | null }} Pair
 */

/** visits/visit1/anna.wav -> visits/visit1/ @type {(path: string) => string} */
export const folderOf = (path) => path.slice(0, path.lastIndexOf("/") + 1);

/** visits/visit1/anna.wav -> visits/visit1/anna @type {(path: string) => string} */
export const withoutSuffix = (path) => {
  const name = path.slice(folderOf(path).length);
  const dot = name.lastIndexOf(".");
  return dot > 0 ? path.slice(0, path.length - name.length + dot) : path;
};

/** Files that came together, {path, …} each, suffixes of recordings, paths of the recordings that are in the list
 * -> {sounds, late, refused}: recordings as {sound, text, events} with the annotation and the file of events or null,
 * annotations whose recordings are in the list, and sentences about what is not taken.
 *
 * An annotation lies in the folder of its recording and is named like it; letters' case counts only where both ways of
 * writing it are there. A file of events is called so behind the name of its recording: anna_events.txt.
 * @type {<File extends { path: string }>(files: File[], suffixes: string[], listed: string[]) =>
 *   { sounds: Pair<File>[], late: File[], refused: string[] }} */
export function paired(files, suffixes, listed) {
  /** @type {(file: { path: string }, endings: string[]) => boolean} */
  const ends = (file, endings) => endings.some((ending) => file.path.toLowerCase().endsWith(ending));
  const seen = files.filter((file) => !isHidden(file.path));
  const heard = seen.filter((file) => ends(file, suffixes));
  const spoken = new Set(heard.map((file) => lowerName(file.path)));
  const ofEvents = new Set(seen.filter(({ path }) => EVENTS.test(path) && spoken.has(marksOf(path)) && !spoken.has(lowerName(path))));
  const texts = seen.filter((file) => ends(file, [ANNOTATION]) && !ofEvents.has(file));
  const others = seen.filter((file) => !ends(file, [ANNOTATION, ...suffixes]) && !ofEvents.has(file));
  const left = new Set(texts);
  const sounds = [];
  const refused = [];
  const [byName, byLetters] = [grouped(texts, withoutSuffix), grouped(texts, lowerName)];
  const byMarks = grouped([...ofEvents], marksOf);
  const samePath = grouped(heard, (path) => path);
  for (const sound of heard) {
    const found = byName.get(withoutSuffix(sound.path)) ?? byLetters.get(lowerName(sound.path)) ?? [];
    found.forEach((text) => left.delete(text));
    const marked = byMarks.get(lowerName(sound.path)) ?? [];
    const twins = samePath.get(sound.path)?.length ?? 1;
    if (marked.length > 1)
      refused.push(`${sound.path}: ${marked.length} files of events came along (${names(marked)}); keep one and send all again`);
    else if (found.length > 1)
      refused.push(`${sound.path}: ${found.length} annotations came along (${names(found)}); keep one and send both again`);
    else if (found.length + marked.length > 0 && twins > 1)
      refused.push(`${sound.path}: ${twins} recordings of this name came along, and ${names([...found, ...marked])} could belong to each of `
        + "them; send each with its own annotation");
    else sounds.push({ sound, text: found[0] ?? null, events: marked[0] ?? null });
  }
  const known = new Set(listed.map(lowerName));
  const isLate = (/** @type {{ path: string }} */ text) => known.has(lowerName(text.path));
  const [late, alone] = [[...left].filter(isLate), [...left].filter((text) => !isLate(text))];
  if (alone.length) refused.push(`${names(alone)}: an annotation without its recording, which has the same name and folder`);
  if (others.length) refused.push(`${names(others)}: not a recording that is known here (${suffixes.join(", ")})`);
  return { sounds, late, refused };
}

/** visit1/Anna_events.raven.txt -> visit1/anna @type {(path: string) => string} */
const marksOf = (path) => path.replace(EVENTS, "").toLowerCase();
/** @type {(path: string) => string} */
const lowerName = (path) => withoutSuffix(path).toLowerCase();

/** What systems put into folders without asking: .DS_Store, ._anna.wav, __MACOSX. @type {(path: string) => boolean} */
const isHidden = (path) => path.includes("/") && path.split("/").some((part) => /^(\.|__MACOSX)/.test(part));

/** @type {<File extends { path: string }>(files: File[], key: (path: string) => string) => Map<string, File[]>} */
function grouped(files, key) {
  const groups = new Map();
  for (const file of files) groups.set(key(file.path), [...(groups.get(key(file.path)) ?? []), file]);
  return groups;
}

/** Some files -> their paths, the first few of many. @type {(files: { path: string }[], most?: number) => string} */
export function names(files, most = 8) {
  const shown = files.slice(0, most).map((file) => file.path).join(", ");
  return files.length > most ? `${shown} and ${files.length - most} more` : shown;
}
