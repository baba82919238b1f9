// hot
/** Where a port's row in the lane counts what is sent to it, and what is dropped on the way. */
import { DROP_BASE, dropReason, portCounter } from '#contract/catalogue.ts';
import type { PortCounters } from './port.ts';

export const TX_PACKETS = portCounter('tx_packets');
export const TX_BYTES = portCounter('tx_bytes');
export const TX_BURSTS = portCounter('tx_bursts');
export const COPIED = portCounter('copied_bytes');
export const CALLS = portCounter('calls');
export const CHECKSUMS = portCounter('checksums');
export const SEGMENTED = portCounter('segmented');
export const RING_FULL = DROP_BASE + dropReason('tx_ring_full');
export const BAD_DESCRIPTOR = DROP_BASE + dropReason('tx_bad_descriptor');
export const MTU = DROP_BASE + dropReason('tx_mtu');
export const TOO_BIG = DROP_BASE + dropReason('tx_too_big_for_buffer');
export const IOTLB_MISS = DROP_BASE + dropReason('tx_iotlb_miss');
export const PORT_DOWN = DROP_BASE + dropReason('tx_port_down');

/** Counts what one push delivered, all of it copied. @param packets those counted that a frame was cut into. */
export function countSent({ slots, base }: PortCounters, packets: number, bytes: number): void {
  slots[base + TX_PACKETS]! += packets;
  slots[base + TX_BYTES]! += bytes;
  slots[base + COPIED]! += bytes;
  slots[base + TX_BURSTS]! += 1;
}
