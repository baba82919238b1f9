// hot
/** Whether a frame is short enough for a port. */
import { GSO_NONE, GSO_UDP, type PacketBatch } from '#datapath/packet/batch.ts';
import { ethernetBytes } from './net-header.ts';

const NONE = GSO_NONE;
const UFO = GSO_UDP;
const ETHERNET = 14;
const UDP_BYTES = 8;
const IPV4 = 0x0800;
/** With two VLAN tags. */
const LONGEST_ETHERNET = 22;

/** Brings the Ethernet header of a frame that was left with its sender into the scratch, for a look. */
const fetchHead = (batch: PacketBatch, slot: number): void => {
  const row = batch.rowCount * 3;
  batch.rows[row] = batch.scratchAddress + batch.start[slot]!;
  batch.rows[row + 1] = batch.segmentAddress[batch.segmentFirst[slot]!]!;
  batch.rows[row + 2] = LONGEST_ETHERNET;
  batch.rowCount++;
  batch.copy();
};

/**
 * For frames longer than `longest` bytes, which is the MTU with an Ethernet header: tags do not count, and of a GSO frame its
 * segments do. Fragments of a datagram carry its UDP header as payload; in IPv6 each has a header of its own, as long.
 */
export const fitsMtu = (batch: PacketBatch, slot: number, longest: number): boolean => {
  if (batch.headLength[slot] === 0) fetchHead(batch, slot);
  const u8 = batch.u8;
  const start = batch.start[slot]!;
  const ethernet = ethernetBytes(u8, start);
  const withTags = longest + ethernet - ETHERNET;
  if (batch.gsoType[slot] === NONE) return batch.length[slot]! <= withTags;
  const bytes = batch.vnetHeaderLength[slot]! + batch.gsoSize[slot]!;
  if (batch.gsoType[slot] !== UFO) return bytes <= withTags;
  const type = (u8[start + ethernet - 2]! << 8) | u8[start + ethernet - 1]!;
  return (type === IPV4 ? bytes - UDP_BYTES : bytes) <= withTags;
};
