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
const MORE_OR_OFFSET = 0x3fff;

const words = (u8: Uint8Array, at: number, bytes: number): number => {
  let sum = 0;
  for (let i = 0; i < bytes; i += 2) sum += (u8[at + i]! << 8) | u8[at + i + 1]!;
  return sum;
};

/**
 * Sets NEEDS_CSUM with its places for slot `slot`, whose frame's first `head` bytes lie at u8[at], when its checksum is
 * partial. The other virtio-net fields are left alone.
 */
export const recognisePartial = (u8: Uint8Array, at: number, head: number, batch: PacketBatch, slot: number): void => {
  // Tags are looked for in the first 22 bytes; no TCP or UDP frame is shorter.
  if (head < 42) return;
  const l3 = ethernet(u8, at);
  const type = (u8[at + l3 - 2]! << 8) | u8[at + l3 - 1]!;
  const ip = at + l3;
  let l4 = 0;
  let protocol = 0;
  let sum = 0;
  let bytes = 0;
  if (type === 0x0800) {
    if (l3 + 20 > head) return;
    const ihl = (u8[ip]! & 15) << 2;
    if ((((u8[ip + 6]! << 8) | u8[ip + 7]!) & MORE_OR_OFFSET) !== 0) return;
    protocol = u8[ip + 9]!;
    bytes = ((u8[ip + 2]! << 8) | u8[ip + 3]!) - ihl;
    sum = words(u8, ip + 12, 8);
    l4 = l3 + ihl;
  } else if (type === 0x86dd) {
    if (l3 + 40 > head) return;
    protocol = u8[ip + 6]!;
    bytes = (u8[ip + 4]! << 8) | u8[ip + 5]!;
    l4 = l3 + 40;
    for (let i = 0; i < MAX_EXTENSIONS && (protocol === HOP_BY_HOP || protocol === DESTINATION); i++) {
      if (l4 + 8 > head) return;
      const extension = 8 + u8[at + l4 + 1]! * 8;
      protocol = u8[at + l4]!;
      l4 += extension;
      bytes -= extension;
    }
    sum = words(u8, ip + 8, 32);
  } else return;
  if (protocol !== TCP && protocol !== UDP) return;
  const offset = protocol === TCP ? 16 : 6;
  if (bytes < offset + 2 || l4 + offset + 2 > head) return;
  sum += protocol + bytes;
  sum = (sum & 0xffff) + (sum >>> 16);
  sum = (sum & 0xffff) + (sum >>> 16);
  const field = at + l4 + offset;
  if (((u8[field]! << 8) | u8[field + 1]!) !== sum) return;
  batch.vnetFlags[slot] = NEEDS_CSUM;
  batch.csumStart[slot] = l4;
  batch.csumOffset[slot] = offset;
};
