// hot
/**
 * Incremental checksum updates (RFC 1624, equation 3): HC' = ~(~HC + ~m + m').
 *
 * Edits add up a **delta**, the sum of ~m + m' over the 16-bit words that changed, and apply it to each checksum once.
 */
import * as key from '#contract/flow-key.ts';
import { type PacketBatch, VNET_NEEDS_CSUM } from '../packet/batch.ts';

const KEY_WORDS = key.KEY_WORDS;
const W_TYPE = key.W_TYPE;
const IPPROTO_TCP = key.IPPROTO_TCP;
const IPPROTO_UDP = key.IPPROTO_UDP;
const IPPROTO_ICMP = key.IPPROTO_ICMP;
const IPPROTO_ICMPV6 = key.IPPROTO_ICMPV6;
const NEEDS_CSUM = VNET_NEEDS_CSUM;

/** Delta of a 32-bit word that starts at an even offset. */
export const delta32 = (before: number, after: number): number =>
  (~before & 0xffff) + (~(before >>> 16) & 0xffff) + (after & 0xffff) + (after >>> 16);

/** Delta of a 16-bit word. */
export const delta16 = (before: number, after: number): number => (~before & 0xffff) + (after & 0xffff);

const fold = (sum: number): number => {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
};

/** Applies a delta to the checksum field at byte `at` of the scratch. */
export const updateChecksum = (view: DataView, at: number, delta: number): void => {
  view.setUint16(at, ~fold((~view.getUint16(at) & 0xffff) + delta) & 0xffff);
};

/**
 * Applies a delta to the transport checksum of a packet, where it has one that covers the change.
 * A checksum that the receiver's side is to fill in (VNET_NEEDS_CSUM) holds the sum of the pseudo-header, not inverted, and
 * so follows changes of addresses only (virtio 1.2 section 5.1.6.2).
 * @param address whether pseudo-header fields changed, rather than the transport header or what follows it.
 */
export const updateTransport = (batch: PacketBatch, slot: number, delta: number, address: boolean): void => {
  const l4 = batch.l4[slot]!;
  if (l4 === 0) return;
  const protocol = (batch.keys[slot * KEY_WORDS + W_TYPE]! >>> 8) & 0xff;
  let field = 0;
  if (protocol === IPPROTO_TCP) field = 16;
  else if (protocol === IPPROTO_UDP) field = 6;
  else if (protocol === IPPROTO_ICMPV6 || (protocol === IPPROTO_ICMP && !address)) field = 2;
  else return;
  const view = batch.view;
  const at = batch.start[slot]! + l4 + field;
  if ((batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0 && batch.csumStart[slot] === l4) {
    if (address) view.setUint16(at, fold(view.getUint16(at) + delta));
    return;
  }
  if (protocol !== IPPROTO_UDP) {
    updateChecksum(view, at, delta);
  } else if (view.getUint16(at) !== 0) {
    updateChecksum(view, at, delta);
    // RFC 768: a computed 0 is sent as all ones, 0 means none.
    if (view.getUint16(at) === 0) view.setUint16(at, 0xffff);
  }
};
