// hot
/**
 * The packet parser: header window of a slot → key row, l3 and l4 (contract/flow-key.ts gives the layout).
 *
 * What is accepted follows Open vSwitch (lib/flow.c, miniflow_extract), so that the same flows match the same packets: a
 * header that is cut short or contradicts itself leaves its fields, and those of all headers behind it, at 0. Lengths are
 * judged by the whole frame; bytes behind the header window (an IPv6 extension chain of more than 100 bytes) are not read:
 * such a packet has no L4. Left out: MPLS labels, tunnels, IGMP (the key has no words for them).
 *
 * Reads go through one DataView: V8 makes a load and a byte swap of a big-endian read, half the work of a u32 load and
 * shifts (Node 26, measured by bench/stage/parse.ts).
 */
import * as key from '#contract/flow-key.ts';
import { pendingSlots } from '../classifier/found.ts';
import type { PacketBatch } from '../packet/batch.ts';
import { parseIpv6 } from './ipv6.ts';
import { NEED_ADDRESSES, NEED_NETWORK, NEED_TAGS, NEED_WIDE } from './need.ts';
import { parseTransport } from './transport.ts';

// Imported bindings cost a check per use in V8 (shared/module cells); module constants are folded.
const KEY_WORDS = key.KEY_WORDS;
const TUNNEL = key.W_TUNNEL;
const VLAN_PRESENT = key.VLAN_PRESENT;
const DL_TYPE_NONE = key.DL_TYPE_NONE;
const ETH_IPV4 = key.ETH_IPV4;
const ETH_IPV6 = key.ETH_IPV6;
const ETH_ARP = key.ETH_ARP;
const ETH_RARP = key.ETH_RARP;
const ETH_VLAN = key.ETH_VLAN;
const ETH_QINQ = key.ETH_QINQ;
const FRAG_ANY = key.FRAG_ANY;
const FRAG_LATER = key.FRAG_LATER;
const ADDRESSES = NEED_ADDRESSES;
const TAGS = NEED_TAGS;
const NETWORK = NEED_NETWORK;
const WIDE = NEED_WIDE;
const pending = pendingSlots;
const ipv6 = parseIpv6;
const transport = parseTransport;

/** First Ethernet type; smaller numbers are 802.3 lengths (IEEE 802.3 clause 3.2.6). */
const FIRST_ETHERTYPE = 0x600;
/** DSAP, SSAP, control and the first byte of the organisation, as a signed word. */
const SNAP = 0xaaaa0300 | 0;
const IPPROTO_TCP = key.IPPROTO_TCP;
const IPPROTO_UDP = key.IPPROTO_UDP;

/**
 * Parses the packets pendingSlots[0..count-1] of the batch. `need` (parse/need.ts) says which headers are asked for, `words` which key words
 * besides W_TYPE and W_NW_MISC (bit w for word w): others may keep what an earlier packet left in them.
 *
 * The commonest packets (where only Ethernet is asked for, untagged ones; else untagged IPv4 without options or fragments,
 * carrying whole TCP or UDP) are read here with all arrays in locals, at half the cost of a call to `parsePacket`; a test
 * holds both to the same results.
 */
export const parseBurst = (batch: PacketBatch, count: number, need: number, words: number): void => {
  const { view, keys, start, headLength, length, l3, l4 } = batch;
  const plain = (need & (NETWORK | WIDE)) === NETWORK;
  const link = (need & (NETWORK | WIDE)) === 0;
  const addresses = (need & ADDRESSES) !== 0;
  const recirculation = (words & 2) !== 0;
  const tags = (words & 0x60) !== 0;
  const source = (words & 0x100) !== 0;
  const destination = (words & 0x200) !== 0;
  const ports = (words & 0x400) !== 0;
  for (let i = 0; i < count; i++) {
    const slot = pending[i]!;
    const at = start[slot]!;
    const head = headLength[slot]!;
    if (link && head >= 14) {
      const type = view.getUint16(at + 12);
      if (type >= FIRST_ETHERTYPE && type !== ETH_VLAN && type !== ETH_QINQ) {
        const row = slot * KEY_WORDS;
        keys[row + 1] = 0;
        keys[row + 2] = view.getInt32(at);
        keys[row + 3] = view.getInt32(at + 4);
        keys[row + 4] = view.getInt32(at + 8);
        keys[row + 5] = 0;
        keys[row + 6] = 0;
        keys[row + 7] = type << 16;
        l3[slot] = 0;
        l4[slot] = 0;
        continue;
      }
    }
    if (plain && head >= 42 && view.getUint16(at + 12) === ETH_IPV4) {
      const row = slot * KEY_WORDS;
      const first = view.getInt32(at + 14);
      const total = first & 0xffff;
      const padding = length[slot]! - 14 - total;
      const life = view.getUint16(at + 22);
      const protocol = life & 0xff;
      if (
        (first & 0x0f000000) === 0x05000000 &&
        total >= 28 &&
        padding >= 0 &&
        padding <= 0xffff &&
        (view.getUint16(at + 20) & 0x3fff) === 0 &&
        (protocol === IPPROTO_UDP || (protocol === IPPROTO_TCP && total >= 40 && head >= 54))
      ) {
        if (recirculation) keys[row + 1] = 0;
        if (addresses) {
          keys[row + 2] = view.getInt32(at);
          keys[row + 3] = view.getInt32(at + 4);
          keys[row + 4] = view.getInt32(at + 8);
        }
        if (tags) {
          keys[row + 5] = 0;
          keys[row + 6] = 0;
        }
        keys[row + 7] = (ETH_IPV4 << 16) | (protocol << 8);
        if (source) keys[row + 8] = view.getInt32(at + 26);
        if (destination) keys[row + 9] = view.getInt32(at + 30);
        if (ports) keys[row + 10] = view.getInt32(at + 34);
        const flags = protocol === IPPROTO_TCP ? view.getUint16(at + 46) & 0xfff : 0;
        keys[row + 11] = ((first & 0xff0000) << 8) | ((life & 0xff00) << 8) | flags;
        l3[slot] = 14;
        l4[slot] = 34;
        continue;
      }
    }
    parsePacket(batch, slot, need);
  }
};

/** Parses one packet. Sets l3 and l4 to 0 where the need or the packet has none. */
export const parsePacket = (batch: PacketBatch, slot: number, need: number): void => {
  const view = batch.view;
  const keys = batch.keys;
  const row = slot * KEY_WORDS;
  const start = batch.start[slot]!;
  const head = batch.headLength[slot]!;
  batch.l3[slot] = 0;
  batch.l4[slot] = 0;
  if (head < 14) {
    for (let word = 1; word < TUNNEL; word++) keys[row + word] = 0;
    return;
  }
  keys[row + 1] = 0;
  if ((need & ADDRESSES) !== 0) {
    keys[row + 2] = view.getInt32(start);
    keys[row + 3] = view.getInt32(start + 4);
    keys[row + 4] = view.getInt32(start + 8);
  }
  if ((need & TAGS) === 0) return;

  // Ethernet type behind up to two tags; a tag counts only when a type follows it.
  let at = 12;
  let type = view.getUint16(start + 12);
  let outer = 0;
  let inner = 0;
  if ((type === ETH_VLAN || type === ETH_QINQ) && head >= 18) {
    outer = view.getInt32(start + 12) | VLAN_PRESENT;
    type = view.getUint16(start + 16);
    at = 16;
    if ((type === ETH_VLAN || type === ETH_QINQ) && head >= 22) {
      inner = view.getInt32(start + 16) | VLAN_PRESENT;
      type = view.getUint16(start + 20);
      at = 20;
    }
  }
  keys[row + 5] = outer;
  keys[row + 6] = inner;
  at += 2;
  if (type < FIRST_ETHERTYPE) {
    type = DL_TYPE_NONE;
    // LLC with a SNAP header of organisation 0 carries an Ethernet type (IEEE 802 clause 9.5).
    if (head >= at + 8 && view.getInt32(start + at) === SNAP && view.getUint16(start + at + 4) === 0) {
      const carried = view.getUint16(start + at + 6);
      if (carried >= FIRST_ETHERTYPE) type = carried;
      at += 8;
    }
  }
  if ((need & NETWORK) === 0) {
    keys[row + 7] = type << 16;
    return;
  }

  if ((need & WIDE) !== 0) for (let word = row + 12; word < row + 26; word++) keys[word] = 0;
  const ip = start + at;
  const seen = head - at;
  const left = batch.length[slot]! - at;
  if (type === ETH_IPV4) {
    const first = seen >= 20 ? view.getInt32(ip) : 0;
    const headerLength = (first >>> 22) & 0x3c;
    const total = first & 0xffff;
    // Version is not checked, as in Open vSwitch: only lengths are.
    if (
      seen >= 20 &&
      headerLength >= 20 &&
      headerLength <= seen &&
      total >= headerLength &&
      total <= left &&
      left - total <= 0xffff
    ) {
      const protocol = view.getUint8(ip + 9);
      const fragment = view.getUint16(ip + 6) & 0x3fff;
      batch.l3[slot] = at;
      keys[row + 8] = view.getInt32(ip + 12);
      keys[row + 9] = view.getInt32(ip + 16);
      const misc = ((first >>> 16) << 24) | (view.getUint8(ip + 8) << 16);
      let bits = 0;
      if (fragment !== 0) bits = (fragment & 0x1fff) !== 0 ? FRAG_ANY | FRAG_LATER : FRAG_ANY;
      keys[row + 7] = (type << 16) | (protocol << 8) | bits;
      const l4 = at + headerLength;
      const rest = total - headerLength;
      if (bits < FRAG_LATER && protocol === IPPROTO_TCP && rest >= 20 && head >= l4 + 20) {
        keys[row + 10] = view.getInt32(start + l4);
        keys[row + 11] = misc | (view.getUint16(start + l4 + 12) & 0xfff);
        batch.l4[slot] = l4;
      } else if (bits < FRAG_LATER && protocol === IPPROTO_UDP && rest >= 8 && head >= l4 + 8) {
        keys[row + 10] = view.getInt32(start + l4);
        keys[row + 11] = misc;
        batch.l4[slot] = l4;
      } else {
        keys[row + 10] = 0;
        keys[row + 11] = misc;
        if (bits < FRAG_LATER) transport(batch, slot, protocol, l4, rest, false);
      }
      return;
    }
  } else if (type === ETH_IPV6) {
    ipv6(batch, slot, at, need);
    return;
  }

  keys[row + 7] = type << 16;
  keys[row + 8] = 0;
  keys[row + 9] = 0;
  keys[row + 10] = 0;
  keys[row + 11] = 0;
  if ((type === ETH_ARP || type === ETH_RARP) && seen >= 28) {
    // Ethernet and IPv4 addresses only (RFC 826).
    if (view.getInt32(ip) === 0x00010800 && view.getUint16(ip + 4) === 0x0604) {
      const opcode = view.getUint16(ip + 6);
      batch.l3[slot] = at;
      if (opcode <= 0xff) keys[row + 7] = (type << 16) | (opcode << 8);
      keys[row + 8] = view.getInt32(ip + 14);
      keys[row + 9] = view.getInt32(ip + 24);
      if ((need & WIDE) !== 0) {
        keys[row + 23] = view.getInt32(ip + 8);
        keys[row + 24] = (view.getUint16(ip + 12) << 16) | view.getUint16(ip + 18);
        keys[row + 25] = view.getInt32(ip + 20);
      }
    }
  }
};
