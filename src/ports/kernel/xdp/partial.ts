// hot
/**
 * Recognises checksums that the sender left to its device.
 *
 * A frame of the kernel's own stack comes through a veth pair (or out of virtio-net) with the TCP or UDP checksum of
 * CHECKSUM_PARTIAL: the field holds the sum of the pseudo header, and the note that the rest is missing lies in the socket
 * buffer, which XDP does not show. So the field is compared with that sum. Where it is equal the checksum is taken for
 * partial and completed by whoever sends the frame on.
 *
 * One whole checksum in 65 536 looks the same. Completing it gives the same bytes again: whole means field = ~(pseudo + rest),
 * completing gives ~(field + rest), and field = pseudo. So a good frame is never harmed.
 *
 * Where the stack behind encapsulates, the inner checksum is the one left out: the outer one counts on its completion.
 */
import { type PacketBatch, VNET_NEEDS_CSUM } from '#datapath/packet/batch.ts';
import { ethernetBytes } from '../../frame/net-header.ts';

const ethernet = ethernetBytes;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
const TCP = 6;
const UDP = 17;
const HOP_BY_HOP = 0;
const DESTINATION = 60;
const MAX_EXTENSIONS = 4;
/** Offsets of the checksum in the transport headers. */
const TCP_OFFSET = 16;
const UDP_OFFSET = 6;
/** Ports of the tunnels whose inner frames are looked at; a frame, and one that it carries. */
const VXLAN = 4789;
const GENEVE = 6081;
const ETHERNET_BRIDGING = 0x6558;
const MAX_DEPTH = 2;
const MORE_OR_OFFSET = 0x3fff;

const words = (u8: Uint8Array, at: number, bytes: number): number => {
  let sum = 0;
  for (let i = 0; i < bytes; i += 2) sum += (u8[at + i]! << 8) | u8[at + i + 1]!;
  return sum;
};

/** Where the transport header found by `lookAt` lies, and what it is. */
const found = new Int32Array(2);
const L4 = 0;
const PROTOCOL = 1;

/**
 * Looks at the frame at `at`, of which `head` bytes can be read. @returns 1 when its TCP or UDP checksum is partial, 0 when
 * it is not, -1 when there is none; `found` tells the transport header's place in the first two cases.
 */
const lookAt = (u8: Uint8Array, at: number, head: number): number => {
  // Tags are looked for in the first 22 bytes; no TCP or UDP frame is shorter.
  if (head < 42) return -1;
  const l3 = ethernet(u8, at);
  const type = (u8[at + l3 - 2]! << 8) | u8[at + l3 - 1]!;
  const ip = at + l3;
  let l4 = 0;
  let protocol = 0;
  let sum = 0;
  let bytes = 0;
  if (type === 0x0800) {
    if (l3 + 20 > head) return -1;
    const ihl = (u8[ip]! & 15) << 2;
    if ((((u8[ip + 6]! << 8) | u8[ip + 7]!) & MORE_OR_OFFSET) !== 0) return -1;
    protocol = u8[ip + 9]!;
    bytes = ((u8[ip + 2]! << 8) | u8[ip + 3]!) - ihl;
    sum = words(u8, ip + 12, 8);
    l4 = l3 + ihl;
  } else if (type === 0x86dd) {
    if (l3 + 40 > head) return -1;
    protocol = u8[ip + 6]!;
    bytes = (u8[ip + 4]! << 8) | u8[ip + 5]!;
    l4 = l3 + 40;
    for (let i = 0; i < MAX_EXTENSIONS && (protocol === HOP_BY_HOP || protocol === DESTINATION); i++) {
      if (l4 + 8 > head) return -1;
      const extension = 8 + u8[at + l4 + 1]! * 8;
      protocol = u8[at + l4]!;
      l4 += extension;
      bytes -= extension;
    }
    sum = words(u8, ip + 8, 32);
  } else return -1;
  if (protocol !== TCP && protocol !== UDP) return -1;
  const offset = protocol === TCP ? TCP_OFFSET : UDP_OFFSET;
  if (bytes < offset + 2 || l4 + offset + 2 > head) return -1;
  found[L4] = l4;
  found[PROTOCOL] = protocol;
  sum += protocol + bytes;
  sum = (sum & 0xffff) + (sum >>> 16);
  sum = (sum & 0xffff) + (sum >>> 16);
  const field = at + l4 + offset;
  return ((u8[field]! << 8) | u8[field + 1]!) === sum ? 1 : 0;
};

/** Bytes from the UDP header at `at` to the Ethernet frame that VXLAN (RFC 7348) or Geneve (RFC 8926) carry; 0: neither. */
const tunnelBytes = (u8: Uint8Array, at: number, head: number): number => {
  if (head < 16) return 0;
  const port = (u8[at + 2]! << 8) | u8[at + 3]!;
  if (port === VXLAN) return 16;
  if (port !== GENEVE || ((u8[at + 10]! << 8) | u8[at + 11]!) !== ETHERNET_BRIDGING) return 0;
  return 16 + ((u8[at + 8]! & 0x3f) << 2);
};

/**
 * Sets NEEDS_CSUM with its places for slot `slot`, whose frame lies at u8[at], `head` bytes of it at least, when its checksum
 * is partial, or that of a frame which it carries. The other virtio-net fields are left alone.
 */
export const recognisePartial = (u8: Uint8Array, at: number, head: number, batch: PacketBatch, slot: number): void => {
  let from = 0;
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const result = lookAt(u8, at + from, head - from);
    if (result < 0) return;
    const l4 = from + found[L4]!;
    if (result > 0) {
      batch.vnetFlags[slot] = NEEDS_CSUM;
      batch.csumStart[slot] = l4;
      batch.csumOffset[slot] = found[PROTOCOL] === TCP ? TCP_OFFSET : UDP_OFFSET;
      return;
    }
    if (found[PROTOCOL] !== UDP) return;
    const tunnel = tunnelBytes(u8, at + l4, head - l4);
    if (tunnel === 0) return;
    from = l4 + tunnel;
  }
};
