// hot
/**
 * Transport headers: ports, type and code, TCP flags, neighbour discovery. Lengths asked for are those of Open vSwitch.
 */
import * as key from '#contract/flow-key.ts';
import type { PacketBatch } from '../packet/batch.ts';

const KEY_WORDS = key.KEY_WORDS;
const IPPROTO_ICMP = key.IPPROTO_ICMP;
const IPPROTO_TCP = key.IPPROTO_TCP;
const IPPROTO_UDP = key.IPPROTO_UDP;
const IPPROTO_ICMPV6 = key.IPPROTO_ICMPV6;
const IPPROTO_SCTP = key.IPPROTO_SCTP;

export const ND_SOLICIT = 135;
export const ND_ADVERT = 136;
export const ND_OPT_SLL = 1;
export const ND_OPT_TLL = 2;

/**
 * Writes tp_src/tp_dst and tcp_flags of a packet whose words 10 and 11 are set up without them, and l4.
 * @param at offset of the header in the frame; @param rest bytes of the IP payload from there on;
 * @param wide whether ND words are asked for.
 */
export const parseTransport = (
  batch: PacketBatch,
  slot: number,
  protocol: number,
  at: number,
  rest: number,
  wide: boolean,
): void => {
  const view = batch.view;
  const keys = batch.keys;
  const row = slot * KEY_WORDS;
  const start = batch.start[slot]! + at;
  const inWindow = batch.headLength[slot]! - at;
  const seen = Math.min(rest, inWindow);
  if (protocol === IPPROTO_TCP) {
    if (seen < 20) return;
    keys[row + 10] = view.getInt32(start);
    keys[row + 11] = keys[row + 11]! | (view.getUint16(start + 12) & 0xfff);
  } else if (protocol === IPPROTO_UDP) {
    if (seen < 8) return;
    keys[row + 10] = view.getInt32(start);
  } else if (protocol === IPPROTO_SCTP) {
    if (seen < 12) return;
    keys[row + 10] = view.getInt32(start);
  } else if (protocol === IPPROTO_ICMP) {
    if (seen < 8 || keys[row + 7]! >>> 16 !== 0x0800) return;
    keys[row + 10] = (view.getUint8(start) << 16) | view.getUint8(start + 1);
  } else if (protocol === IPPROTO_ICMPV6) {
    if (seen < 8 || keys[row + 7]! >>> 16 !== 0x86dd) return;
    const type = view.getUint8(start);
    const code = view.getUint8(start + 1);
    keys[row + 10] = (type << 16) | code;
    if (wide && code === 0 && (type === ND_SOLICIT || type === ND_ADVERT))
      neighbour(view, keys, row, start, seen, rest);
  } else {
    return;
  }
  batch.l4[slot] = at;
};

/** Neighbour solicitation and advertisement (RFC 4861 sections 4.3, 4.4): target and link-layer address options. */
const neighbour = (view: DataView, keys: Uint32Array, row: number, start: number, seen: number, rest: number): void => {
  if (seen < 24) return;
  for (let word = 0; word < 4; word++) keys[row + 19 + word] = view.getInt32(start + 8 + word * 4);
  // Each option is at least 8 bytes, so the window bounds the walk.
  for (let at = 24; rest - at >= 8 && at + 8 <= seen; ) {
    const kind = view.getUint8(start + at);
    const size = view.getUint8(start + at + 1) * 8;
    let twice = false;
    if (size === 8 && kind === ND_OPT_SLL) {
      twice = (keys[row + 23]! | (keys[row + 24]! & 0xffff0000)) !== 0;
      keys[row + 23] = view.getInt32(start + at + 2);
      keys[row + 24] = (view.getUint16(start + at + 6) << 16) | (keys[row + 24]! & 0xffff);
    } else if (size === 8 && kind === ND_OPT_TLL) {
      twice = ((keys[row + 24]! & 0xffff) | keys[row + 25]!) !== 0;
      keys[row + 24] = (keys[row + 24]! & 0xffff0000) | view.getUint16(start + at + 2);
      keys[row + 25] = view.getInt32(start + at + 4);
    }
    // An option of length 0, cut short, or given twice makes the message invalid (section 7.1).
    if (twice || size === 0 || size > rest - at) {
      for (let word = 19; word < 26; word++) keys[row + word] = 0;
      return;
    }
    at += size;
  }
};
