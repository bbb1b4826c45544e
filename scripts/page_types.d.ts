// What the page's own scripts pass one another, and what TypeScript does not know of browsers. For `make lint` alone.

type EventKind = Service.MarkedEvent["kind"];

/** Method and path of a request, with a query or without -> its route; never if the service has none. */
type RouteOf<Method, Path> =
  Path extends `${infer Plain}?${string}` ? RouteOf<Method, Plain> :
  Path extends `/${infer Parts}` ? Service.Route<[Method, ...Split<Parts>]> :
  never;
type Split<Path> = Path extends `${infer Part}/${infer Rest}` ? [Part, ...Split<Rest>] : [Path];
/** The path, or a sentence that it is no string of. */
type Known<Method extends string, Path extends string> =
  Path extends unknown ? [RouteOf<Method, Path>] extends [never] ? `The service has no ${Method} ${Path}` : Path : never;

/** The element of a tag. */
type Tags = HTMLElementTagNameMap & Omit<SVGElementTagNameMap, keyof HTMLElementTagNameMap>;

/** A cycle as it stands on the page. */
interface Cycle extends Service.Span {
  id: string;
  label: string;
  confirmed?: boolean;
  unusable?: boolean;
  note?: string;
}

/** An event as it stands on the page. */
interface SoundEvent extends Service.MarkedEvent {
  id: string;
}

/** The edges of an event, of which a cycle has the first two. */
type Edge = "start_s" | "end_s" | "low_hz" | "high_hz";
/** Where a pointer is on the picture. */
type Place = { seconds: number; hertz: number };

/** What an annotation says, as it is saved; and what an undo brings back. */
type Marks = { cycles: Omit<Cycle, "id">[]; events: Service.MarkedEvent[] };
type Standing = { cycles: Cycle[]; selected: string | null; events: SoundEvent[]; event: string | null };

type LabelRules = ReturnType<typeof import("../src/rales/web/static/js/classes.js").labelSet>;

/** A sound of the service, 16 bits a sample. */
type Sound = { samples: Int16Array; rate_hz: number };
/** A file that was dropped or chosen, and its path in that. */
type Dropped = { file: File; path: string };
/** A frequency axis, and a transform with how many bins of it are wanted. */
type Scale = { kind: "linear" | "log" | "mel"; low_hz: number; high_hz: number };
type Transform = { window: number; size: number; bins: number };

/** How the sound is drawn (picture_settings.js). */
interface Picture {
  preset: "wheeze" | "crackle" | "model";
  high_hz: number;
  range_db: number;
  scale: "linear" | "log";
  colours: "page" | "magma" | "grey";
}

/** What `h` gives an element: properties, handlers, and attributes that are no properties. */
type Properties<Tag extends keyof HTMLElementTagNameMap> =
  Partial<Omit<HTMLElementTagNameMap[Tag], "list" | "style">>
  & { [attribute: `aria-${string}` | `data-${string}`]: string | number | boolean }
  & { list?: string; for?: string; role?: string };

// What TypeScript is stricter in than the page need be: the browser makes text of what becomes an attribute or is parsed,
// elements that are looked for are those of HTML, and an object has the keys that it was written with.
interface Element {
  setAttribute(name: string, value: string | number | boolean): void;
  closest(selectors: string): HTMLElement | null;
}
interface ParentNode {
  querySelector(selectors: string): HTMLElement | null;
}
interface JSON {
  parse(text: string | null): any;
}
interface ObjectConstructor {
  keys<Key extends string>(of: { [key in Key]?: unknown }): Key[];
  entries<Key extends string, Value>(of: { [key in Key]: Value }): [Key, Value][];
}

// The world of an audio worklet
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, made: new () => AudioWorkletProcessor): void;
