/** Reads the value of one match field, with or without mask, as ovs-fields(7) writes it. */
import { isIPv6 } from 'node:net';
import { RequestError } from './api.ts';
import type { Field } from './fields.ts';
import { type PortNames, parsePort } from './ofp-port.ts';
import { clip, parseUnsigned } from './text.ts';

export interface FieldValue {
  /** As written: bits outside the mask are still there. */
  readonly value: bigint;
  readonly mask: bigint;
}

const fail = (field: Field, message: string, hint = ''): never => {
  throw new RequestError('bad_value', message, { field: field.name, hint });
};

/**
 * Value and mask of `VALUE`, `VALUE/MASK` or `*` for a field. `name` is the word the user wrote.
 * @throws RequestError in the words of ovs-ofctl.
 */
export function parseFieldValue(field: Field, text: string, names: PortNames, name = field.name): FieldValue {
  if (text === '*') return { value: 0n, mask: 0n };
  if (field.format === 'port') return { value: parsePortValue(field, text, names, name), mask: field.fullMask };
  if (field.format === 'frag') return parseFrag(field, text);
  if (field.format === 'tcp_flags') return parseTcpFlags(field, text);
  if (field.format === 'tunnel_flags') return parseTunnelFlags(field, text);
  const slash = text.indexOf('/');
  const valueText = slash < 0 ? text : text.slice(0, slash);
  const maskText = slash < 0 ? undefined : text.slice(slash + 1);
  if (field.format === 'ipv4') return parseIpv4(field, text, valueText, maskText);
  if (field.format === 'ipv6') return parseIpv6(field, text, valueText, maskText);
  const result =
    field.format === 'mac'
      ? parseMac(field, text, valueText, maskText)
      : parseInteger(field, text, valueText, maskText, name);
  if (maskText !== undefined && !field.maskable && result.mask !== field.fullMask) {
    fail(field, `${clip(text)}: invalid mask for field ${name}`, `${name} cannot be masked`);
  }
  return result;
}

/** `oam`, `+oam`, `-oam` or a number (ovs-fields(7), tun_flags). */
function parseTunnelFlags(field: Field, text: string): FieldValue {
  const sign = /^([+-]?)oam$/.exec(text);
  if (sign) return { value: sign[1] === '-' ? 0n : 1n, mask: 1n };
  const value = parseUnsigned(text) ?? fail(field, `${clip(text)}: unknown tunnel flag(s)`, 'oam, +oam or -oam');
  return value > 1n ? tooLarge(field, text, field.name) : { value, mask: 1n };
}

function parsePortValue(field: Field, text: string, names: PortNames, name: string): bigint {
  const port = parsePort(text, names);
  if (port === undefined)
    return fail(field, `${clip(text)}: invalid or unknown port for ${name}`, 'a port number or name of the bridge');
  return BigInt(port);
}

function parseInteger(
  field: Field,
  text: string,
  valueText: string,
  maskText: string | undefined,
  name: string,
): FieldValue {
  const value =
    parseUnsigned(valueText) ?? fail(field, `${clip(text)}: bad syntax for ${name} value`, numberHint(valueText));
  if (value >> BigInt(field.bits) !== 0n) tooLarge(field, text, name);
  if (maskText === undefined) return { value, mask: field.fullMask };
  const mask =
    parseUnsigned(maskText) ?? fail(field, `${clip(text)}: bad syntax for ${name} mask`, numberHint(maskText));
  if (mask >> BigInt(field.bits) !== 0n) tooLarge(field, text, name);
  return { value, mask: mask & field.fullMask };
}

const numberHint = (text: string) =>
  /^0[0-9]+$/.test(text) ? 'leave out the leading zero: it could be read as octal' : 'a decimal or 0x number';

function tooLarge(field: Field, text: string, name: string): never {
  const width = field.bits % 8 === 0 ? `${field.bits / 8}-byte` : `${field.bits}-bit`;
  return fail(field, `${clip(text)}: value too large for ${width} field ${name}`, `at most ${field.fullMask}`);
}

const MAC = /^([0-9a-f]{1,2}):([0-9a-f]{1,2}):([0-9a-f]{1,2}):([0-9a-f]{1,2}):([0-9a-f]{1,2}):([0-9a-f]{1,2})$/i;

/** 48-bit number of an Ethernet address, or undefined. */
export function macNumber(text: string): bigint | undefined {
  const found = MAC.exec(text);
  return found
    ? BigInt(
        '0x' +
          found
            .slice(1)
            .map((byte) => byte.padStart(2, '0'))
            .join(''),
      )
    : undefined;
}

function parseMac(field: Field, text: string, valueText: string, maskText: string | undefined): FieldValue {
  const value = macNumber(valueText);
  const mask = maskText === undefined ? field.fullMask : macNumber(maskText);
  if (value === undefined || mask === undefined) return fail(field, `${clip(text)}: invalid Ethernet address`);
  return { value, mask };
}

const QUAD = /^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$/;

/** 32-bit number of a dotted quad, or undefined; an octet above 255 is none. */
export function ipv4Number(text: string): bigint | undefined {
  const found = QUAD.exec(text);
  if (!found) return undefined;
  const a = Number(found[1]);
  const b = Number(found[2]);
  const c = Number(found[3]);
  const d = Number(found[4]);
  return a > 255 || b > 255 || c > 255 || d > 255 ? undefined : BigInt(((a << 24) | (b << 16) | (c << 8) | d) >>> 0);
}

/** 128-bit number of an IPv6 address, or undefined. */
export function ipv6Number(text: string): bigint | undefined {
  if (text.includes('%') || !isIPv6(text)) return undefined;
  const embedded = /^(.*:)([0-9]+\.[0-9.]+)$/.exec(text);
  if (embedded) {
    const low = ipv4Number(embedded[2]!)!;
    text = `${embedded[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  }
  const [head, tail] = text.split('::') as [string, string | undefined];
  const first = head ? head.split(':') : [];
  const last = tail ? tail.split(':') : [];
  const groups = tail === undefined ? first : [...first, ...Array(8 - first.length - last.length).fill('0'), ...last];
  return BigInt('0x' + groups.map((group) => group.padStart(4, '0')).join(''));
}

const prefixMask = (bits: number, width: number): bigint => ((1n << BigInt(bits)) - 1n) << BigInt(width - bits);

function parsePrefix(maskText: string, width: number): bigint | undefined {
  return /^[0-9]{1,3}$/.test(maskText) && Number(maskText) <= width ? prefixMask(Number(maskText), width) : undefined;
}

function parseIpv4(field: Field, text: string, valueText: string, maskText: string | undefined): FieldValue {
  const value = ipv4Number(valueText) ?? fail(field, `${clip(text)}: invalid IP address`, 'four numbers of 0 to 255');
  if (maskText === undefined) return { value, mask: field.fullMask };
  const mask = parsePrefix(maskText, 32) ?? ipv4Number(maskText);
  return {
    value,
    mask:
      mask ??
      fail(
        field,
        `${clip(text)}: IPv4 network prefix bits not between 0 and 32, inclusive`,
        'a prefix length or a dotted mask',
      ),
  };
}

function parseIpv6(field: Field, text: string, valueText: string, maskText: string | undefined): FieldValue {
  const value = ipv6Number(valueText) ?? fail(field, `${clip(text)}: invalid IPv6 address`);
  if (maskText === undefined) return { value, mask: field.fullMask };
  const mask = parsePrefix(maskText, 128) ?? ipv6Number(maskText);
  return {
    value,
    mask: mask ?? fail(field, `${clip(text)}: IPv6 network prefix bits not between 0 and 128, inclusive`),
  };
}

/** ovs-fields(7), ip_frag: bit 0 any fragment, bit 1 not the first. */
export const fragWords: readonly (readonly [string, bigint, bigint])[] = [
  ['no', 0n, 3n],
  ['yes', 1n, 1n],
  ['first', 1n, 3n],
  ['later', 3n, 3n],
  ['not_later', 0n, 2n],
];

function parseFrag(field: Field, text: string): FieldValue {
  const found = fragWords.find(([word]) => word === text.toLowerCase());
  if (!found) {
    const words = fragWords.map(([word]) => `"${word}"`).join(', ');
    return fail(field, `${clip(text)}: unknown fragment type (valid types are ${words})`);
  }
  return { value: found[1], mask: found[2] };
}

/** Names of the TCP flag bits from bit 0 up (ovs-fields(7), tcp_flags). */
export const tcpFlagNames = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ece', 'cwr', 'ns', '[200]', '[400]', '[800]'];

function parseTcpFlags(field: Field, text: string): FieldValue {
  const number = parseUnsigned(text.split('/')[0]!);
  if (number !== undefined) {
    const { value, mask } = parseInteger(field, text, ...splitMask(text), field.name);
    return { value, mask };
  }
  const signed = text.startsWith('+') || text.startsWith('-');
  if (signed && !/^([+-][a-z0-9[\]]+)+$/i.test(text)) return fail(field, `${clip(text)}: unknown TCP flag(s)`);
  let value = 0n;
  let mask = 0n;
  for (const part of signed ? text.match(/[+-][^+-]+/g)! : text.split('|')) {
    const word = signed ? part.slice(1) : part;
    const bit = tcpFlagNames.indexOf(word.toLowerCase());
    if (bit < 0) return fail(field, `${clip(word)}: unknown TCP flag(s)`, tcpFlagNames.join(' '));
    const flag = 1n << BigInt(bit);
    if (mask & flag) return fail(field, `${word}: Each TCP flag can be specified only once`);
    mask |= flag;
    if (!signed || part[0] === '+') value |= flag;
  }
  return { value, mask: signed ? mask : field.fullMask };
}

const splitMask = (text: string): [string, string | undefined] => {
  const slash = text.indexOf('/');
  return slash < 0 ? [text, undefined] : [text.slice(0, slash), text.slice(slash + 1)];
};
