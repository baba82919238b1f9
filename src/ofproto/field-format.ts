/** Prints the value of one match field the way ovs-ofctl does. */
import { fragWords, tcpFlagNames } from './field-parse.ts';
import type { Field } from './fields.ts';
import { formatPort, type PortNames } from './ofp-port.ts';
import { hex } from './text.ts';

export const formatMac = (value: bigint): string => value.toString(16).padStart(12, '0').match(/../g)!.join(':');

export const formatIpv4 = (value: bigint): string => {
  const word = Number(value);
  return `${word >>> 24}.${(word >>> 16) & 255}.${(word >>> 8) & 255}.${word & 255}`;
};

/** RFC 5952, with the last 32 bits dotted where glibc's inet_ntop(3) does: ::/96 and ::ffff:0:0/96. */
export function formatIpv6(value: bigint): string {
  const groups = Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(112 - 16 * i)) & 0xffffn));
  const run = longestZeroRun(groups);
  const dotted = run.start === 0 && (run.length === 6 || (run.length === 5 && groups[5] === 0xffff));
  const words = groups.slice(0, dotted ? 6 : 8).map((group) => group.toString(16));
  if (dotted) words.push(formatIpv4(value & 0xffffffffn));
  if (run.length < 2) return words.join(':');
  const before = words.slice(0, run.start).join(':');
  const after = words.slice(run.start + run.length).join(':');
  return `${before}::${after}`;
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: -1, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let length = 0;
    while (start + length < groups.length && groups[start + length] === 0) length++;
    if (length > best.length) best = { start, length };
  }
  return best;
}

/** Number of leading ones when the rest are zeros; -1 for other masks. */
export function prefixLength(mask: bigint, width: number): number {
  const text = mask.toString(2).padStart(width, '0');
  const ones = text.indexOf('0');
  if (ones < 0) return width;
  return text.indexOf('1', ones) < 0 ? ones : -1;
}

const ALL_32 = (1n << 32n) - 1n;
const ALL_128 = (1n << 128n) - 1n;

const addressMask = (mask: bigint, width: number, format: (mask: bigint) => string): string => {
  if (mask === (width === 32 ? ALL_32 : ALL_128)) return '';
  const prefix = prefixLength(mask, width);
  if (prefix === width) return '';
  return `/${prefix >= 0 ? prefix : format(mask)}`;
};

export function formatTcpFlags(value: bigint, mask: bigint, fullMask: bigint): string {
  const set = (bits: bigint, bit: number) => (bits >> BigInt(bit)) & 1n;
  if (mask === fullMask) return tcpFlagNames.filter((_, bit) => set(value, bit)).join('|') || '0';
  return tcpFlagNames.map((name, bit) => (set(mask, bit) ? `${set(value, bit) ? '+' : '-'}${name}` : '')).join('');
}

const tunnelFlagNames = ['oam', 'df', 'csum', 'key'];

/** `+oam-df`: flags under a mask. */
export const formatTunnelFlags = (value: bigint, mask: bigint): string =>
  tunnelFlagNames
    .map((name, bit) => ((mask >> BigInt(bit)) & 1n ? `${(value >> BigInt(bit)) & 1n ? '+' : '-'}${name}` : ''))
    .join('');

/** Value (and mask unless it is full) as the text that field-parse.ts reads; value lies within mask. */
export function formatFieldValue(
  field: Field,
  value: bigint,
  mask: bigint = field.fullMask,
  names?: PortNames,
): string {
  switch (field.format) {
    case 'mac':
      return formatMac(value) + (mask === field.fullMask ? '' : `/${formatMac(mask)}`);
    case 'ipv4':
      return formatIpv4(value) + addressMask(mask, 32, formatIpv4);
    case 'ipv6':
      return formatIpv6(value) + addressMask(mask, 128, formatIpv6);
    case 'port':
      return formatPort(Number(value), names);
    case 'frag':
      return fragWords.find(([, v, m]) => v === value && m === mask)?.[0] ?? `${hex(value)}/${hex(mask)}`;
    case 'tcp_flags':
      return formatTcpFlags(value, mask, field.fullMask);
    case 'tunnel_flags':
      return formatTunnelFlags(value, mask);
    case 'hex':
      return hex(value) + (mask === field.fullMask ? '' : `/${hex(mask)}`);
    case 'decimal':
      return `${value}` + (mask === field.fullMask ? '' : `/${hex(mask)}`);
  }
}
