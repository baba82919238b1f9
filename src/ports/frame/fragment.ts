// hot
/** Headers of IP fragments (RFC 791 section 3.2, RFC 8200 section 4.5), made in place in the headers of the datagram. */

/** Length of an IPv6 fragment header. */
export const FRAGMENT_BYTES = 8;
const FRAGMENT = 44;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const MORE = 0x2000;
const OPTION_END = 0;
const OPTION_NOP = 1;
/** An option with this bit stands in every fragment, others in the first only. */
const OPTION_COPIED = 0x80;

/**
 * Where the fragmentable part of the IPv6 packet at `l3` begins: behind the hop-by-hop and routing headers and what precedes
 * them. `l4` is where its extension headers end; they have been walked before.
 */
export const fragmentable = (u8: Uint8Array, l3: number, l4: number): number => {
  let next = u8[l3 + 6]!;
  let at = l3 + 40;
  let found = at;
  while (at < l4) {
    const header = next;
    next = u8[at]!;
    at += 8 + u8[at + 1]! * 8;
    if (header === HOP_BY_HOP || header === ROUTING) found = at;
  }
  return found;
};

/** Makes the IPv4 header at `l3`, which ends at `l4`, that of a fragment from byte `offset` on. Its checksum is the caller's. */
export const putFragment4 = (u8: Uint8Array, l3: number, l4: number, offset: number, more: boolean): void => {
  const field = (offset >>> 3) | (more ? MORE : 0);
  u8[l3 + 6] = field >>> 8;
  u8[l3 + 7] = field;
  if (offset === 0) return;
  for (let at = l3 + 20; at < l4; ) {
    const option = u8[at]!;
    if (option === OPTION_END) return;
    // An option that is no longer than its type would never end.
    const length = option === OPTION_NOP || at + 1 >= l4 ? 1 : u8[at + 1]! < 2 ? 2 : u8[at + 1]!;
    const end = at + length < l4 ? at + length : l4;
    if ((option & OPTION_COPIED) === 0) u8.fill(OPTION_NOP, at, end);
    at = end;
  }
};

/** Makes the 8 bytes at `at` the fragment header of the IPv6 packet at `l3`, whose headers so far end there. */
export const putFragment6 = (
  u8: Uint8Array,
  l3: number,
  at: number,
  offset: number,
  more: boolean,
  identification: number,
): void => {
  let field = l3 + 6;
  for (let header = l3 + 40; header < at; ) {
    field = header;
    header += 8 + u8[header + 1]! * 8;
  }
  u8[at] = u8[field]!;
  u8[at + 1] = 0;
  u8[at + 2] = offset >>> 8;
  u8[at + 3] = (offset & 0xf8) | (more ? 1 : 0);
  u8[at + 4] = identification >>> 24;
  u8[at + 5] = identification >>> 16;
  u8[at + 6] = identification >>> 8;
  u8[at + 7] = identification;
  u8[field] = FRAGMENT;
};
