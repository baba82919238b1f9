// hot
/** Whether a frame is short enough for a port. */
import { GSO_NONE, type PacketBatch } from '#datapath/packet/batch.ts';
import { ethernetBytes } from './net-header.ts';

const NONE = GSO_NONE;
const ETHERNET = 14;
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
 * segments do.
 */
export const fitsMtu = (batch: PacketBatch, slot: number, longest: number): boolean => {
  if (batch.headLength[slot] === 0) fetchHead(batch, slot);
  const withTags = longest + ethernetBytes(batch.u8, batch.start[slot]!) - ETHERNET;
  if (batch.gsoType[slot] === NONE) return batch.length[slot]! <= withTags;
  return batch.vnetHeaderLength[slot]! + batch.gsoSize[slot]! <= withTags;
};
