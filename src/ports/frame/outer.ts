// hot
/**
 * GSO frames in a tunnel, as kernel interfaces hand them over: the sender wrapped a segment that is still to be cut, so the
 * virtio-net header speaks of the TCP or UDP header inside, and has no word for the tunnel. Taken are VXLAN (RFC 7348) and
 * Geneve (RFC 8926) over UDP, and GRE (RFC 2784, RFC 2890) without sequence numbers, over IPv4 or IPv6, with an Ethernet frame
 * inside and all headers in the window. In the batch such a frame has GSO_TUNNEL.
 */
import {
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_TUNNEL,
  GSO_UDP_L4,
  type PacketBatch,
  VNET_NEEDS_CSUM,
} from '#datapath/packet/batch.ts';
import { ethernetBytes, gsoHeaderLength, ipv6Transport, takeOffload } from './net-header.ts';

const ECN = GSO_ECN;
const NONE = GSO_NONE;
const TCPV4 = GSO_TCPV4;
const TCPV6 = GSO_TCPV6;
const TUNNEL = GSO_TUNNEL;
const UDP_L4 = GSO_UDP_L4;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
const ethernet = ethernetBytes;
const gsoHeaders = gsoHeaderLength;
const transport6 = ipv6Transport;
const plainOffload = takeOffload;

const TCP_CSUM = 16;
const UDP_CSUM = 6;
const UDP = 17;
const GRE = 47;
/** Transparent Ethernet bridging. */
const TEB = 0x6558;

/** What `readOuter` found, as offsets from the start of the frame: IP header, UDP or GRE header, frame inside. */
export const outer = { l3: 0, l4: 0, inner: 0, four: false, udp: false };

/** Finds the IP header and what follows it. @returns the protocol, UDP or GRE; 0: something else. */
const readIp = (u8: Uint8Array, start: number, end: number): number => {
  const l3 = start + ethernet(u8, start);
  const type = (u8[l3 - 2]! << 8) | u8[l3 - 1]!;
  outer.l3 = l3 - start;
  outer.four = type === 0x0800;
  if (type === 0x0800) {
    const ihl = (u8[l3]! & 15) << 2;
    if (l3 + 20 > end || u8[l3]! >>> 4 !== 4 || ihl < 20) return 0;
    // A fragment has not all of the frame inside.
    if ((u8[l3 + 6]! & 0x3f) !== 0 || u8[l3 + 7] !== 0) return 0;
    const protocol = u8[l3 + 9]!;
    outer.l4 = l3 + ihl - start;
    return protocol === UDP || protocol === GRE ? protocol : 0;
  }
  if (type !== 0x86dd || l3 + 40 > end || u8[l3]! >>> 4 !== 6) return 0;
  let protocol = UDP;
  let l4 = transport6(u8, l3, end, UDP);
  if (l4 === 0) {
    protocol = GRE;
    l4 = transport6(u8, l3, end, GRE);
  }
  outer.l4 = l4 - start;
  return l4 === 0 ? 0 : protocol;
};

/** Reads the headers of a tunnel, which must lie in the first `head` bytes, into `outer`. @returns false: there is none. */
export const readOuter = (u8: Uint8Array, start: number, head: number): boolean => {
  const end = start + head;
  const protocol = readIp(u8, start, end);
  if (protocol === 0) return false;
  const at = start + outer.l4;
  outer.udp = protocol === UDP;
  if (protocol === GRE) {
    if (at + 4 > end) return false;
    const flags = (u8[at]! << 8) | u8[at + 1]!;
    // Checksum and key at most, version 0.
    if ((flags & 0x5fff) !== 0 || ((u8[at + 2]! << 8) | u8[at + 3]!) !== TEB) return false;
    outer.inner = outer.l4 + 4 + ((flags & 0x8000) !== 0 ? 4 : 0) + ((flags & 0x2000) !== 0 ? 4 : 0);
  } else {
    if (at + 16 > end) return false;
    // What is no Geneve header of version 0 that announces Ethernet is a VXLAN header, if that says it has a VNI.
    const geneve = u8[at + 8]! >>> 6 === 0 && ((u8[at + 10]! << 8) | u8[at + 11]!) === TEB;
    if (!geneve && (u8[at + 8]! & 8) === 0) return false;
    outer.inner = outer.l4 + 16 + (geneve ? (u8[at + 8]! & 0x3f) * 4 : 0);
  }
  return outer.inner + 14 < head;
};

/** `takeOffload` for GSO frames in tunnels. */
const takeInner = (batch: PacketBatch, slot: number, at: number): boolean => {
  const { u8, u16 } = batch;
  const word = at >>> 1;
  const flags = u8[at]! & NEEDS_CSUM;
  const gso = u8[at + 1]!;
  const type = gso === UDP_L4 ? UDP_L4 : gso & ~ECN;
  const gsoSize = u16[word + 2]!;
  const csumStart = u16[word + 3]!;
  const csumOffset = u16[word + 4]!;
  if (gso === NONE || flags === 0 || gsoSize === 0) return false;
  if (type !== TCPV4 && type !== TCPV6 && type !== UDP_L4) return false;
  if (csumOffset !== (type === UDP_L4 ? UDP_CSUM : TCP_CSUM)) return false;
  const start = batch.start[slot]!;
  const head = batch.headLength[slot]!;
  if (!readOuter(u8, start, head)) return false;
  const { inner } = outer;
  const headers = gsoHeaders(u8, start + inner, head - inner, type, csumStart - inner);
  if (headers === 0) return false;
  batch.vnetFlags[slot] = flags;
  batch.gsoType[slot] = gso | TUNNEL;
  batch.gsoSize[slot] = gsoSize;
  batch.vnetHeaderLength[slot] = inner + headers;
  batch.csumStart[slot] = csumStart;
  batch.csumOffset[slot] = csumOffset;
  return true;
};

/** `takeOffload` for senders that may hand over GSO frames in tunnels too. */
export const takeAnyOffload = (batch: PacketBatch, slot: number, at: number): boolean =>
  plainOffload(batch, slot, at) || takeInner(batch, slot, at);
