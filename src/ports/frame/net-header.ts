// hot
/**
 * The virtio-net header (virtio 1.2 section 5.1.6) in private scratch memory: read and checked once on rx, written on tx.
 *
 * | byte | 0 | 1 | 2-3 | 4-5 | 6-7 | 8-9 | 10-11 |
 * |---|---|---|---|---|---|---|---|
 * | | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset | num_buffers |
 *
 * Without VERSION_1 and MRG_RXBUF the last word is missing. hdr_len is a hint that guests get wrong; the batch gets the
 * true length of the headers of a GSO frame instead, found in the snapshot.
 */
import {
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP,
  GSO_UDP_L4,
  type PacketBatch,
  VNET_DATA_VALID,
  VNET_NEEDS_CSUM,
} from '#datapath/packet/batch.ts';

const ECN = GSO_ECN;
const NONE = GSO_NONE;
const TCPV4 = GSO_TCPV4;
const TCPV6 = GSO_TCPV6;
const UFO = GSO_UDP;
const UDP_L4 = GSO_UDP_L4;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
const DATA_VALID = VNET_DATA_VALID;

/** Offset of the checksum in a TCP and a UDP header; length of the latter. */
const TCP_CSUM = 16;
const UDP_CSUM = 6;
const UDP_BYTES = 8;
const IPPROTO_TCP = 6;
const IPPROTO_UDP = 17;
/** Headers that `ipv6Transport` steps over, at most. */
const MAX_EXTENSIONS = 8;

/** Bytes before the network header: 14 and up to two VLAN tags. */
export const ethernetBytes = (u8: Uint8Array, start: number): number => {
  let at = 12;
  for (let tags = 0; tags < 2; tags++) {
    const type = (u8[start + at]! << 8) | u8[start + at + 1]!;
    if (type !== 0x8100 && type !== 0x88a8) break;
    at += 4;
  }
  return at + 2;
};

/** Where the header of `protocol` begins; 0: nowhere. */
export const ipv6Transport = (u8: Uint8Array, l3: number, end: number, protocol: number): number => {
  let next = u8[l3 + 6]!;
  let at = l3 + 40;
  for (let i = 0; i < MAX_EXTENSIONS; i++) {
    if (next === protocol) return at;
    // Hop-by-hop, routing, destination options (RFC 8200 section 4): same shape.
    if (next !== 0 && next !== 43 && next !== 60) return 0;
    if (at + 8 > end) return 0;
    next = u8[at]!;
    at += 8 + u8[at + 1]! * 8;
  }
  return 0;
};

/**
 * Length of all headers of a GSO frame whose fields claim `type` and its transport header at `csumStart`; 0 when the frame's
 * own headers, all of which must lie in the first `head` bytes, say otherwise.
 */
export const gsoHeaderLength = (
  u8: Uint8Array,
  start: number,
  head: number,
  type: number,
  csumStart: number,
): number => {
  const end = start + head;
  const udp = type === UDP_L4 || type === UFO;
  const protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
  if (csumStart + (udp ? UDP_BYTES : 20) > head) return 0;
  const ethernet = ethernetBytes(u8, start);
  const l3 = start + ethernet;
  const etherType = (u8[l3 - 2]! << 8) | u8[l3 - 1]!;
  let l4 = 0;
  if (type === TCPV4 || (udp && etherType === 0x0800)) {
    if (etherType !== 0x0800 || l3 + 20 > end || u8[l3]! >>> 4 !== 4 || u8[l3 + 9]! !== protocol) return 0;
    const ihl = (u8[l3]! & 15) << 2;
    if (ihl < 20) return 0;
    // What is to be cut into fragments must not be one.
    if (type === UFO && ((u8[l3 + 6]! & 0x3f) !== 0 || u8[l3 + 7] !== 0)) return 0;
    l4 = l3 + ihl;
  } else {
    if (etherType !== 0x86dd || l3 + 40 > end || u8[l3]! >>> 4 !== 6) return 0;
    l4 = ipv6Transport(u8, l3, end, protocol);
  }
  if (l4 - start !== csumStart) return 0;
  if (udp) return csumStart + UDP_BYTES;
  const tcp = (u8[l4 + 12]! >>> 4) << 2;
  const headers = csumStart + tcp;
  return tcp < 20 || headers > head ? 0 : headers;
};

/**
 * Takes the offload fields of the header at byte `at` into slot `slot`, whose start, headLength and length are set.
 * @returns false when they contradict the frame (drop reason rx_bad_offload).
 */
export const takeOffload = (batch: PacketBatch, slot: number, at: number): boolean => {
  const u8 = batch.u8;
  const u16 = batch.u16;
  const flags = u8[at]! & NEEDS_CSUM;
  const gso = u8[at + 1]!;
  const word = at >>> 1;
  const csumStart = u16[word + 3]!;
  const csumOffset = u16[word + 4]!;
  const length = batch.length[slot]!;
  let headers = 0;
  let gsoSize = 0;
  if (flags !== 0 && (csumStart < 14 || csumStart + csumOffset + 2 > length)) return false;
  if (gso !== NONE) {
    // ECN is for TCP only.
    const udp = gso === UDP_L4 || gso === UFO;
    const type = udp ? gso : gso & ~ECN;
    gsoSize = u16[word + 2]!;
    if (!udp && type !== TCPV4 && type !== TCPV6) return false;
    if (flags === 0 || gsoSize === 0 || csumOffset !== (udp ? UDP_CSUM : TCP_CSUM)) return false;
    headers = gsoHeaderLength(u8, batch.start[slot]!, batch.headLength[slot]!, type, csumStart);
    if (headers === 0) return false;
  }
  batch.vnetFlags[slot] = flags;
  batch.gsoType[slot] = gso;
  batch.gsoSize[slot] = gsoSize;
  batch.vnetHeaderLength[slot] = headers;
  batch.csumStart[slot] = flags === 0 ? 0 : csumStart;
  batch.csumOffset[slot] = flags === 0 ? 0 : csumOffset;
  return true;
};

/** The fields of a frame that says nothing. */
export const clearOffload = (batch: PacketBatch, slot: number): void => {
  batch.vnetFlags[slot] = 0;
  batch.gsoType[slot] = 0;
  batch.gsoSize[slot] = 0;
  batch.vnetHeaderLength[slot] = 0;
  batch.csumStart[slot] = 0;
  batch.csumOffset[slot] = 0;
};

/** Writes a header of 12 bytes at byte `at` (even) of `u16`'s memory from a slot's offload fields. */
export const putHeader = (batch: PacketBatch, slot: number, u16: Uint16Array, at: number): void => {
  const word = at >>> 1;
  u16[word] = (batch.vnetFlags[slot]! & ~DATA_VALID) | (batch.gsoType[slot]! << 8);
  u16[word + 1] = batch.vnetHeaderLength[slot]!;
  u16[word + 2] = batch.gsoSize[slot]!;
  u16[word + 3] = batch.csumStart[slot]!;
  u16[word + 4] = batch.csumOffset[slot]!;
  u16[word + 5] = 1;
};

/** Writes a header of 12 bytes that asks for nothing. */
export const putPlainHeader = (u16: Uint16Array, at: number): void => {
  const word = at >>> 1;
  u16[word] = 0;
  u16[word + 1] = 0;
  u16[word + 2] = 0;
  u16[word + 3] = 0;
  u16[word + 4] = 0;
  u16[word + 5] = 1;
};
