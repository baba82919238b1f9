/** Values of database columns: how ovs-vsctl(8) reads and prints them ("Database Values"). */
import { Fatal } from '../client.ts';

export type Atom = string | number | boolean;

/** A column's value: one atom, a set, or a map with sorted keys. */
export type Value = Atom | readonly Atom[] | ReadonlyMap<string, string>;

export type AtomType = 'string' | 'integer' | 'boolean' | 'uuid';

const BARE = /^[A-Za-z_][A-Za-z0-9_.-]*$/;

/** Strings that would read as something else get quotes. */
function formatString(text: string): string {
  return BARE.test(text) && text !== 'true' && text !== 'false' ? text : JSON.stringify(text);
}

export const formatAtom = (atom: Atom, type: AtomType = 'string'): string =>
  typeof atom === 'string' && type !== 'uuid' ? formatString(atom) : String(atom);

export function formatValue(value: Value, type: AtomType = 'string'): string {
  if (value instanceof Map) {
    const pairs = [...value].sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${pairs.map(([key, text]) => `${formatString(key)}=${type === 'integer' ? text : formatString(text)}`).join(', ')}}`;
  }
  if (Array.isArray(value)) return `[${value.map((atom) => formatAtom(atom, type)).join(', ')}]`;
  return formatAtom(value as Atom, type);
}

/** `--bare`: no quotes or brackets, blanks between members. */
export function bareValue(value: Value): string {
  if (value instanceof Map) return [...value].map(([key, text]) => `${key}=${text}`).join(' ');
  return Array.isArray(value) ? value.join(' ') : String(value);
}

/** The database protocol's JSON (RFC 7047 section 5.1). */
export function jsonValue(value: Value, type: AtomType): unknown {
  const atom = (one: Atom): unknown => (type === 'uuid' ? ['uuid', one] : one);
  if (value instanceof Map)
    return ['map', [...value].map(([key, text]) => [key, type === 'integer' ? Number(text) : text])];
  if (!Array.isArray(value)) return atom(value as Atom);
  return value.length === 1 ? atom(value[0]!) : ['set', value.map(atom)];
}

/** Reads one atom: a quoted string, or the text as it stands. @throws Fatal */
export function parseAtom(text: string, type: AtomType): Atom {
  if (type === 'integer') {
    if (!/^-?\d{1,15}$/.test(text)) throw new Fatal(`"${text}" is not a valid integer`);
    return Number(text);
  }
  if (type === 'boolean') {
    if (['true', 'yes', 'on', '1'].includes(text)) return true;
    if (['false', 'no', 'off', '0'].includes(text)) return false;
    throw new Fatal(`"${text}" is not a valid boolean (use "true" or "false")`);
  }
  if (text === '') throw new Fatal('An empty string is not valid as input; use "" to represent the empty string');
  if (!text.startsWith('"')) return text;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'string') return value;
  } catch {
    // Told below.
  }
  throw new Fatal(`${text}: not a valid quoted string`);
}

/** One word of a set or map: quoted, or up to a delimiter. */
const WORD = /\s*("(?:[^"\\]|\\.)*"|[^":=, [\]{}!<>]+)\s*/y;

/** Splits `a,b`, `[a, b]`. @throws Fatal */
export function parseSet(text: string, type: AtomType): Atom[] {
  if (type === 'integer' && /^-?[^,\s[\]]+$/.test(text)) return range(text);
  const words = parseList(text, '[', ']', (at) => {
    const [word, next] = wordAt(text, at);
    return [word, next];
  });
  return type === 'integer' ? words.flatMap((word) => range(word)) : words.map((word) => parseAtom(word, type));
}

/** A number, or `low-high`. */
function range(text: string): number[] {
  const found = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(text);
  if (!found) throw new Fatal(`"${text}" is not a valid integer or range`);
  const low = Number(found[1]);
  const high = Number(found[2] ?? low);
  if (high < low || high - low > 4096) throw new Fatal(`"${text}" is not a valid integer or range`);
  return Array.from({ length: high - low + 1 }, (_, at) => low + at);
}

/** Splits `a=b,c=d`, `{a=b, c=d}`. @throws Fatal */
export function parseMap(text: string): Map<string, string> {
  const pairs = parseList(text, '{', '}', (at): [[string, string], number] => {
    const [key, afterKey] = wordAt(text, at);
    if (text[afterKey] !== '=' && text[afterKey] !== ':')
      throw new Fatal(`${text}: syntax error at "${text.slice(afterKey)}": expected =`);
    const [value, next] = wordAt(text, afterKey + 1);
    return [[String(parseAtom(key, 'string')), String(parseAtom(value, 'string'))], next];
  });
  return new Map(pairs);
}

function parseList<T>(text: string, open: string, close: string, item: (at: number) => [T, number]): T[] {
  const list: T[] = [];
  let at = text.search(/\S|$/);
  const bracket = text[at] === open;
  if (bracket) at++;
  for (;;) {
    while (at < text.length && /[\s,]/.test(text[at]!)) at++;
    if (at >= text.length || (bracket && text[at] === close)) break;
    const [value, next] = item(at);
    list.push(value);
    at = next;
    if (at < text.length && text[at] !== ',' && !(bracket && text[at] === close)) {
      throw new Fatal(`${text}: syntax error at "${text.slice(at)}"`);
    }
  }
  if (bracket && text[at] !== close) throw new Fatal(`${text}: missing ${close}`);
  return list;
}

function wordAt(text: string, at: number): [word: string, next: number] {
  WORD.lastIndex = at;
  const found = WORD.exec(text);
  if (!found) throw new Fatal(`${text}: unexpected "${text.slice(at)}" parsing value`);
  return [found[1]!, WORD.lastIndex];
}
