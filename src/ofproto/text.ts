/** Pieces of ovs-ofctl syntax that matches, actions, flow keys and groups share. */
import { RequestError } from './api.ts';

/** Longest text of one flow or group, in characters. */
export const MAX_TEXT = 65_536;

export interface Term {
  readonly key: string;
  /** Undefined when there is no delimiter; may be empty. */
  readonly value: string | undefined;
  /** `=`, `:`, `(` (value in parentheses) or empty. */
  readonly delimiter: string;
}

/** What a character means between terms; anything else belongs to a word. */
const SEPARATOR = 1;
const DELIMITER = 2;
const QUOTE = 3;
const classes = new Uint8Array(128);
for (const c of ', \t\r\n') classes[c.charCodeAt(0)] = SEPARATOR;
for (const c of ':=(') classes[c.charCodeAt(0)] = DELIMITER;
classes['"'.charCodeAt(0)] = QUOTE;
const OPEN = '('.charCodeAt(0);
const CLOSE = ')'.charCodeAt(0);

/** Class of a character; 0 outside of the table and behind the end. */
const classAt = (text: string, at: number): number => {
  const code = at < text.length ? text.charCodeAt(at) : 128;
  return code < 128 ? classes[code]! : 0;
};

/**
 * Splits `key`, `key=value`, `key:value` and `key(value)` at commas and blanks outside of parentheses and quotes.
 * @throws RequestError when those do not pair up or the text is too long.
 */
export function splitTerms(text: string): Term[] {
  if (text.length > MAX_TEXT) {
    throw new RequestError('too_long', `text of ${text.length} characters, at most ${MAX_TEXT} are allowed`);
  }
  const terms: Term[] = [];
  let at = 0;
  for (;;) {
    while (at < text.length && classAt(text, at) === SEPARATOR) at++;
    if (at >= text.length) return terms;
    const start = at;
    for (let kind = classAt(text, at); at < text.length && kind !== SEPARATOR && kind !== DELIMITER; ) {
      at = kind === QUOTE ? afterQuote(text, at) : at + 1;
      kind = classAt(text, at);
    }
    const key = text.slice(start, at);
    const delimiter = at < text.length && classAt(text, at) === DELIMITER ? text[at]! : '';
    if (delimiter === '') {
      terms.push({ key, value: undefined, delimiter });
      continue;
    }
    const from = ++at;
    at = valueEnd(text, from, delimiter === '(' ? 1 : 0);
    const value = delimiter === '(' ? text.slice(from, at - 1) : text.slice(from, at);
    terms.push({ key, value, delimiter });
  }
}

/** The place behind a string in double quotes (a port name). */
function afterQuote(text: string, at: number): number {
  for (let end = at + 1; end < text.length; end++) {
    if (text[end] === '\\') end++;
    else if (text[end] === '"') return end + 1;
  }
  throw new RequestError('bad_syntax', `unpaired quote in "${clip(text)}"`);
}

/** End of a value: the next separator outside parentheses, or just after the closing one where `depth` starts at 1. */
function valueEnd(text: string, from: number, depth: number): number {
  const inParentheses = depth === 1;
  for (let at = from; at < text.length; ) {
    const c = text.charCodeAt(at);
    const kind = classes[c];
    if (c === OPEN) depth++;
    else if (c === CLOSE && --depth === 0 && inParentheses) return at + 1;
    else if (depth < 0) break;
    else if (depth === 0 && kind === SEPARATOR) return at;
    at = kind === QUOTE ? afterQuote(text, at) : at + 1;
  }
  if (depth !== 0) throw new RequestError('bad_syntax', `unbalanced parentheses in "${clip(text)}"`);
  return text.length;
}

/** A decimal or 0x number of any size; undefined for anything else, also for a leading zero, which C would read as octal. */
export function parseUnsigned(text: string): bigint | undefined {
  return text.length <= 40 && /^(0x[0-9a-f]+|0|[1-9][0-9]*)$/i.test(text) ? BigInt(text) : undefined;
}

/** A whole number 0 .. max. @throws RequestError in the words of ovs-ofctl: `invalid priority "70000"`. */
export function parseBounded(text: string, what: string, max: number): number {
  if (/^[1-9][0-9]{0,8}$/.test(text) && Number(text) <= max) return Number(text);
  const value = parseUnsigned(text);
  if (value === undefined || value > BigInt(max)) {
    throw new RequestError('bad_value', `invalid ${what} "${clip(text)}"`, { field: what, hint: `0 to ${max}` });
  }
  return Number(value);
}

/** A number of up to `bits` bits. @throws RequestError `invalid numeric format abc`. */
export function parseNumber(text: string, field: string, bits: number): bigint {
  const value = parseUnsigned(text);
  if (value === undefined || value >> BigInt(bits) !== 0n) {
    throw new RequestError('bad_value', `invalid numeric format ${clip(text)}`, {
      field,
      hint: `a number of ${bits} bits`,
    });
  }
  return value;
}

/** As C's `%#x`: `0x5`, but `0` for zero. */
export const hex = (value: bigint | number): string => (BigInt(value) === 0n ? '0' : `0x${value.toString(16)}`);

/** A piece of user text that is fit for a message. */
export const clip = (text: string): string => (text.length > 100 ? `${text.slice(0, 100)}…` : text);
