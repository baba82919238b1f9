// hot
/**
 * IPv6 and its extension headers (RFC 8200 sections 3 and 4; AH: RFC 4302).
 *
 * The walk is bounded by the header window: each header takes at least 8 bytes. A chain that the frame cuts short leaves
 * only the addresses; one that leaves the window ends with the last header type seen and no L4.
 */
import * as key from '#contract/flow-key.ts';
import type { PacketBatch } from '../packet/batch.ts';
import { NEED_WIDE } from './need.ts';
import { parseTransport } from './transport.ts';

const KEY_WORDS = key.KEY_WORDS;
const ETH_IPV6 = key.ETH_IPV6;
const FRAG_ANY = key.FRAG_ANY;
const FRAG_LATER = key.FRAG_LATER;
const WIDE = NEED_WIDE;
const transport = parseTransport;

const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION = 60;

/** Writes word 7 and all behind it, l3 and l4. Words 12..25 are 0 before when they are asked for. */
export const parseIpv6 = (batch: PacketBatch, slot: number, at: number, need: number): void => {
  const view = batch.view;
  const keys = batch.keys;
  const row = slot * KEY_WORDS;
  const start = batch.start[slot]!;
  const head = batch.headLength[slot]!;
  const ip = start + at;
  keys[row + 7] = ETH_IPV6 << 16;
  keys[row + 8] = 0;
  keys[row + 9] = 0;
  keys[row + 10] = 0;
  keys[row + 11] = 0;
  if (head - at < 40) return;
  const payload = view.getUint16(ip + 4);
  const left = batch.length[slot]! - at - 40;
  if (payload > left || left - payload > 0xffff) return;

  const wide = (need & WIDE) !== 0;
  batch.l3[slot] = at;
  keys[row + 8] = view.getInt32(ip + 20);
  keys[row + 9] = view.getInt32(ip + 36);
  if (wide) {
    keys[row + 12] = view.getInt32(ip + 8);
    keys[row + 13] = view.getInt32(ip + 12);
    keys[row + 14] = view.getInt32(ip + 16);
    keys[row + 15] = view.getInt32(ip + 24);
    keys[row + 16] = view.getInt32(ip + 28);
    keys[row + 17] = view.getInt32(ip + 32);
  }

  let protocol = view.getUint8(ip + 6);
  let fragment = 0;
  let next = at + 40;
  let rest = payload;
  let reachable = true;
  while (
    protocol === HOP_BY_HOP ||
    protocol === ROUTING ||
    protocol === DESTINATION ||
    protocol === AUTHENTICATION ||
    protocol === FRAGMENT
  ) {
    if (rest < 8) return;
    if (next + 8 > head) {
      reachable = false;
      break;
    }
    let size = 8;
    if (protocol === AUTHENTICATION) size = (view.getUint8(start + next + 1) + 2) * 4;
    else if (protocol !== FRAGMENT) size = (view.getUint8(start + next + 1) + 1) * 8;
    if (size > rest) return;
    const following = view.getUint8(start + next);
    if (protocol === FRAGMENT) {
      const offset = view.getUint16(start + next + 2);
      // An atomic fragment (RFC 6946: offset 0, no more) is none.
      if (offset !== 0) fragment = FRAG_ANY;
      if ((offset & 0xfff8) !== 0) {
        fragment = FRAG_ANY | FRAG_LATER;
        break;
      }
    }
    protocol = following;
    next += size;
    rest -= size;
  }
  const first = view.getInt32(ip);
  keys[row + 7] = (ETH_IPV6 << 16) | (protocol << 8) | fragment;
  keys[row + 11] = (((first >>> 20) & 0xff) << 24) | (view.getUint8(ip + 7) << 16);
  if (wide) keys[row + 18] = first & 0xfffff;
  if (reachable && fragment < FRAG_LATER) transport(batch, slot, protocol, next, rest, wide);
};
