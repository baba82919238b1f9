// hot
/** Copies of packets: needed where an edit follows an output. */
import { KEY_WORDS, W_TYPE } from '#contract/flow-key.ts';
import { type PacketBatch, SLOT_BYTES, SLOTS } from '../packet/batch.ts';

const KEY_ROW = KEY_WORDS;
const TYPE = W_TYPE;
const SLOT = SLOT_BYTES;
const ALL_SLOTS = SLOTS;

/**
 * Copies a packet into a spare slot: header window, metadata and what edits need of the key. Payload segments are shared.
 * @returns the slot, or -1 when all are in use.
 */
export const clonePacket = (batch: PacketBatch, slot: number): number => {
  const copy = batch.nextSlot;
  if (copy >= ALL_SLOTS) return -1;
  batch.nextSlot = copy + 1;
  const start = batch.start[slot]!;
  const moved = (copy - slot) * SLOT;
  const u32 = batch.u32;
  const end = (start + batch.headLength[slot]! + 3) >>> 2;
  for (let from = start >>> 2, to = (start + moved) >>> 2; from < end; from++, to++) u32[to] = u32[from]!;
  batch.start[copy] = start + moved;
  batch.headLength[copy] = batch.headLength[slot]!;
  batch.length[copy] = batch.length[slot]!;
  batch.segmentFirst[copy] = batch.segmentFirst[slot]!;
  batch.segmentCount[copy] = batch.segmentCount[slot]!;
  batch.buffer[copy] = batch.buffer[slot]!;
  batch.edited[copy] = batch.edited[slot]!;
  batch.vnetFlags[copy] = batch.vnetFlags[slot]!;
  batch.gsoType[copy] = batch.gsoType[slot]!;
  batch.gsoSize[copy] = batch.gsoSize[slot]!;
  batch.vnetHeaderLength[copy] = batch.vnetHeaderLength[slot]!;
  batch.csumStart[copy] = batch.csumStart[slot]!;
  batch.csumOffset[copy] = batch.csumOffset[slot]!;
  batch.l3[copy] = batch.l3[slot]!;
  batch.l4[copy] = batch.l4[slot]!;
  batch.keys[copy * KEY_ROW + TYPE] = batch.keys[slot * KEY_ROW + TYPE]!;
  return copy;
};
