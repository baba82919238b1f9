// hot
/**
 * Pushing and popping VLAN tags (IEEE 802.1Q clause 9): the 12 address bytes move by 4 into or out of the headroom; what
 * lies behind stays. Offsets that are counted from the start of the frame follow.
 */
import { MAX_FRAME, type PacketBatch, SLOT_BYTES, VNET_BYTES, VNET_NEEDS_CSUM } from '../packet/batch.ts';

const LONGEST = MAX_FRAME;
const SLOT = SLOT_BYTES;
const VNET = VNET_BYTES;
const NEEDS_CSUM = VNET_NEEDS_CSUM;

const shift = (batch: PacketBatch, slot: number, bytes: number): void => {
  batch.start[slot] = batch.start[slot]! - bytes;
  batch.headLength[slot] = batch.headLength[slot]! + bytes;
  batch.length[slot] = batch.length[slot]! + bytes;
  if (batch.l3[slot] !== 0) batch.l3[slot] = batch.l3[slot]! + bytes;
  if (batch.l4[slot] !== 0) batch.l4[slot] = batch.l4[slot]! + bytes;
  if ((batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0) batch.csumStart[slot] = batch.csumStart[slot]! + bytes;
  if (batch.vnetHeaderLength[slot] !== 0) batch.vnetHeaderLength[slot] = batch.vnetHeaderLength[slot]! + bytes;
};

/** Pushes a tag. @param tag TPID << 16 | TCI, bit 12 not sent. @returns false when there is no room for it. */
export const pushVlan = (batch: PacketBatch, slot: number, tag: number): boolean => {
  const from = batch.start[slot]!;
  const to = from - 4;
  if (batch.headLength[slot]! < 14 || to - slot * SLOT < VNET || batch.length[slot]! + 4 > LONGEST) return false;
  const u16 = batch.u16;
  for (let i = 0; i < 6; i++) u16[(to >>> 1) + i] = u16[(from >>> 1) + i]!;
  batch.view.setInt32(to + 12, tag & ~0x1000);
  shift(batch, slot, 4);
  return true;
};

/** Pops the outer tag, if there is one. */
export const popVlan = (batch: PacketBatch, slot: number): void => {
  const from = batch.start[slot]!;
  const type = batch.view.getUint16(from + 12);
  if ((type !== 0x8100 && type !== 0x88a8) || batch.headLength[slot]! < 18) return;
  const u16 = batch.u16;
  for (let i = 5; i >= 0; i--) u16[(from >>> 1) + 2 + i] = u16[(from >>> 1) + i]!;
  shift(batch, slot, -4);
};
