// hot
/**
 * SET: writes fields of one key word into the packet, checksums following.
 *
 * A field that the packet does not have, or that lies behind the header window, is left as it is. Bits of a key word that
 * are no packet field (the VLAN's present bit, nw_frag, nw_proto, dl_type, tcp_flags) cannot be set.
 */
import * as key from '#contract/flow-key.ts';
import { type PacketBatch, VNET_NEEDS_CSUM } from '../packet/batch.ts';
import { ND_ADVERT, ND_OPT_SLL, ND_OPT_TLL, ND_SOLICIT } from '../parse/transport.ts';
import { delta16, delta32, updateChecksum, updateTransport } from './checksum.ts';
import { updateSctp } from './sctp.ts';

const KEY_WORDS = key.KEY_WORDS;
const W_TYPE = key.W_TYPE;
const W_DL_SRC = key.W_DL_SRC;
const W_VLAN = key.W_VLAN;
const W_VLAN_INNER = key.W_VLAN_INNER;
const W_NW_SRC = key.W_NW_SRC;
const W_NW_DST = key.W_NW_DST;
const W_TP = key.W_TP;
const W_NW_MISC = key.W_NW_MISC;
const W_IPV6_DST = key.W_IPV6_DST;
const W_IPV6_LABEL = key.W_IPV6_LABEL;
const W_SHA = key.W_SHA;
const W_SHA_THA = key.W_SHA_THA;
const W_THA = key.W_THA;
const ETH_IPV4 = key.ETH_IPV4;
const ETH_IPV6 = key.ETH_IPV6;
const ETH_ARP = key.ETH_ARP;
const ETH_RARP = key.ETH_RARP;
const IPPROTO_TCP = key.IPPROTO_TCP;
const IPPROTO_UDP = key.IPPROTO_UDP;
const IPPROTO_ICMP = key.IPPROTO_ICMP;
const IPPROTO_ICMPV6 = key.IPPROTO_ICMPV6;
const IPPROTO_SCTP = key.IPPROTO_SCTP;
const SOLICIT = ND_SOLICIT;
const ADVERT = ND_ADVERT;
const OPT_SLL = ND_OPT_SLL;
const OPT_TLL = ND_OPT_TLL;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
const ROUTING = 43;

/** Sets bits of 4 bytes at `at`. @returns the checksum delta. */
const set32 = (view: DataView, at: number, value: number, mask: number): number => {
  const before = view.getInt32(at);
  const after = (before & ~mask) | (value & mask);
  view.setInt32(at, after);
  return delta32(before, after);
};

const set16 = (view: DataView, at: number, value: number, mask: number): number => {
  const before = view.getUint16(at);
  const after = (before & ~mask) | (value & mask);
  view.setUint16(at, after);
  return delta16(before, after);
};

/** Needs l3, l4 and W_TYPE of the packet (NEED_NETWORK). Allocates nothing. */
export const setField = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  if (word <= W_VLAN_INNER) {
    setEthernet(batch, slot, word, value, mask);
    return;
  }
  if (batch.l3[slot] === 0) return;
  const type = batch.keys[slot * KEY_WORDS + W_TYPE]! >>> 16;
  if (type === ETH_IPV4) setIpv4(batch, slot, word, value, mask);
  else if (type === ETH_IPV6) setIpv6(batch, slot, word, value, mask);
  else if (type === ETH_ARP || type === ETH_RARP) setArp(batch, slot, word, value, mask);
};

const setEthernet = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  const view = batch.view;
  const start = batch.start[slot]!;
  const head = batch.headLength[slot]!;
  if (word < 2 || head < 14) return;
  if (word <= W_DL_SRC) {
    set32(view, start + (word - 2) * 4, value, mask);
    return;
  }
  // The present bit stands where the frame has its DEI bit; that one keeps its value.
  const outer = view.getUint16(start + 12);
  if ((outer !== 0x8100 && outer !== 0x88a8) || head < 18) return;
  if (word === W_VLAN) {
    set32(view, start + 12, value, mask & ~0x1000);
    return;
  }
  const inner = view.getUint16(start + 16);
  if ((inner === 0x8100 || inner === 0x88a8) && head >= 22) set32(view, start + 16, value, mask & ~0x1000);
};

const setIpv4 = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  const view = batch.view;
  const ip = batch.start[slot]! + batch.l3[slot]!;
  if (word === W_NW_SRC || word === W_NW_DST) {
    const delta = set32(view, ip + (word === W_NW_SRC ? 12 : 16), value, mask);
    updateChecksum(view, ip + 10, delta);
    updateTransport(batch, slot, delta, true);
  } else if (word === W_NW_MISC) {
    if (mask >>> 24 !== 0) updateChecksum(view, ip + 10, set16(view, ip, value >>> 24, mask >>> 24));
    const ttl = (mask >>> 8) & 0xff00;
    if (ttl !== 0) updateChecksum(view, ip + 10, set16(view, ip + 8, value >>> 8, ttl));
  } else if (word === W_TP) {
    setTransport(batch, slot, value, mask);
  }
};

const setIpv6 = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  const view = batch.view;
  const ip = batch.start[slot]! + batch.l3[slot]!;
  if (word === W_TP) {
    setTransport(batch, slot, value, mask);
  } else if (word === W_NW_MISC) {
    if (mask >>> 24 !== 0) set32(view, ip, (value >>> 24) << 20, (mask >>> 24) << 20);
    if (((mask >>> 16) & 0xff) !== 0) set16(view, ip + 6, value >>> 16, (mask >>> 16) & 0xff);
  } else if (word === W_NW_SRC) {
    updateTransport(batch, slot, set32(view, ip + 20, value, mask), true);
  } else if (word >= key.W_IPV6_SRC && word < W_IPV6_DST) {
    updateTransport(batch, slot, set32(view, ip + 8 + (word - 12) * 4, value, mask), true);
  } else if (word === W_NW_DST || (word >= W_IPV6_DST && word < W_IPV6_LABEL)) {
    const delta = set32(view, ip + (word === W_NW_DST ? 36 : 24 + (word - 15) * 4), value, mask);
    // With a routing header the pseudo-header has the last destination, not this one (RFC 8200 section 8.1).
    if (!hasRouting(batch, slot)) updateTransport(batch, slot, delta, true);
  } else if (word === W_IPV6_LABEL) {
    set32(view, ip, value, mask & 0xfffff);
  } else {
    setNeighbour(batch, slot, word, value, mask);
  }
};

/** Whether a routing header with segments left stands between the IPv6 header and l4. */
const hasRouting = (batch: PacketBatch, slot: number): boolean => {
  const view = batch.view;
  const start = batch.start[slot]!;
  const end = batch.l4[slot]!;
  let at = batch.l3[slot]! + 40;
  let type = view.getUint8(start + at - 34);
  while (at < end) {
    if (type === ROUTING && view.getUint8(start + at + 3) !== 0) return true;
    const units = view.getUint8(start + at + 1);
    const size = type === 51 ? (units + 2) * 4 : type === 44 ? 8 : (units + 1) * 8;
    type = view.getUint8(start + at);
    at += size;
  }
  return false;
};

/** Ports of TCP, UDP and SCTP; type and code of ICMP and ICMPv6. */
const setTransport = (batch: PacketBatch, slot: number, value: number, mask: number): void => {
  const l4 = batch.l4[slot]!;
  if (l4 === 0) return;
  const view = batch.view;
  const at = batch.start[slot]! + l4;
  const kind = batch.keys[slot * KEY_WORDS + W_TYPE]!;
  const protocol = (kind >>> 8) & 0xff;
  if (protocol === IPPROTO_TCP || protocol === IPPROTO_UDP) {
    updateTransport(batch, slot, set32(view, at, value, mask), false);
  } else if (protocol === IPPROTO_ICMP || protocol === IPPROTO_ICMPV6) {
    const bits = (((mask >>> 16) & 0xff) << 8) | (mask & 0xff);
    updateTransport(batch, slot, set16(view, at, (((value >>> 16) & 0xff) << 8) | (value & 0xff), bits), false);
  } else if (protocol === IPPROTO_SCTP) {
    const before = view.getInt32(at);
    set32(view, at, value, mask);
    // Of a fragment the CRC cannot be known here; one to be filled in later needs no care.
    if ((kind & 0xff) !== 0 || (batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0) return;
    const l3 = batch.l3[slot]!;
    const ip = batch.start[slot]! + l3;
    const end = kind >>> 16 === ETH_IPV4 ? l3 + view.getUint16(ip + 2) : l3 + 40 + view.getUint16(ip + 4);
    updateSctp(batch, slot, before ^ view.getInt32(at), end - l4);
  }
};

const setArp = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  const view = batch.view;
  const arp = batch.start[slot]! + batch.l3[slot]!;
  if (word === W_TYPE) {
    // An opcode of more than 8 bits is no field of the key.
    if (view.getUint8(arp + 6) === 0) set16(view, arp + 6, value >>> 8, (mask >>> 8) & 0xff);
  } else if (word === W_NW_SRC) {
    set32(view, arp + 14, value, mask);
  } else if (word === W_NW_DST) {
    set32(view, arp + 24, value, mask);
  } else if (word === W_SHA) {
    set32(view, arp + 8, value, mask);
  } else if (word === W_SHA_THA) {
    set16(view, arp + 12, value >>> 16, mask >>> 16);
    set16(view, arp + 18, value, mask & 0xffff);
  } else if (word === W_THA) {
    set32(view, arp + 20, value, mask);
  }
};

/** Target and link-layer addresses of neighbour solicitations and advertisements. */
const setNeighbour = (batch: PacketBatch, slot: number, word: number, value: number, mask: number): void => {
  const l4 = batch.l4[slot]!;
  const protocol = (batch.keys[slot * KEY_WORDS + W_TYPE]! >>> 8) & 0xff;
  if (l4 === 0 || protocol !== IPPROTO_ICMPV6 || word < key.W_ND_TARGET || word > W_THA) return;
  const view = batch.view;
  const at = batch.start[slot]! + l4;
  const l3 = batch.l3[slot]!;
  const rest = l3 + 40 + view.getUint16(batch.start[slot]! + l3 + 4) - l4;
  const inWindow = batch.headLength[slot]! - l4;
  const seen = Math.min(rest, inWindow);
  const type = view.getUint8(at);
  if ((type !== SOLICIT && type !== ADVERT) || view.getUint8(at + 1) !== 0 || seen < 24) return;
  if (word < W_SHA) {
    updateTransport(batch, slot, set32(view, at + 8 + (word - 19) * 4, value, mask), false);
    return;
  }
  for (let option = 24; option + 8 <= seen; ) {
    const kind = view.getUint8(at + option);
    const size = view.getUint8(at + option + 1) * 8;
    if (size === 0) return;
    const mac = at + option + 2;
    if (size === 8 && kind === OPT_SLL && word === W_SHA) {
      updateTransport(batch, slot, set32(view, mac, value, mask), false);
    } else if (size === 8 && kind === OPT_SLL && word === W_SHA_THA) {
      updateTransport(batch, slot, set16(view, mac + 4, value >>> 16, mask >>> 16), false);
    } else if (size === 8 && kind === OPT_TLL && word === W_SHA_THA) {
      updateTransport(batch, slot, set16(view, mac, value, mask & 0xffff), false);
    } else if (size === 8 && kind === OPT_TLL && word === W_THA) {
      updateTransport(batch, slot, set32(view, mac + 2, value, mask), false);
    }
    option += size;
  }
};
