// hot
/**
 * What the receive halves of kernel interfaces share: a frame whose header window lies in the scratch, behind the kernel's
 * virtio-net header of 10 bytes, becomes a packet of the batch.
 */
import { type PacketBatch, WINDOW } from '#datapath/packet/batch.ts';
import { clearOffload } from '../frame/net-header.ts';
import { takeAnyOffload } from '../frame/outer.ts';

/** The header without num_buffers, as the kernel's interfaces have it by default. */
export const VNET_HEADER = 10;

const HEADER = VNET_HEADER;
const WINDOW_BYTES = WINDOW;
const offload = takeAnyOffload;
const plainSlot = clearOffload;

/**
 * Fills the fields of `slot` for a frame of `length` bytes whose window begins at byte `start` of the scratch and whose rest,
 * if any, begins at absolute address `rest`.
 * @returns false when the virtio-net header contradicts the frame.
 */
export const fillSlot = (batch: PacketBatch, slot: number, start: number, length: number, rest: number): boolean => {
  const head = Math.min(length, WINDOW_BYTES);
  batch.start[slot] = start;
  batch.headLength[slot] = head;
  batch.length[slot] = length;
  batch.segmentCount[slot] = 0;
  if (length > head) {
    const segment = batch.nextSegment;
    batch.segmentFirst[slot] = segment;
    batch.segmentCount[slot] = 1;
    batch.segmentAddress[segment] = rest;
    batch.segmentLength[segment] = length - head;
    batch.nextSegment = segment + 1;
  }
  // Flags and GSO type in one load.
  if (batch.u16[(start - HEADER) >>> 1] !== 0) return offload(batch, slot, start - HEADER);
  plainSlot(batch, slot);
  return true;
};

/** A frame that nobody will read, left where it lies. */
export const wholeSlot = (batch: PacketBatch, slot: number, start: number, length: number, from: number): void => {
  const segment = batch.nextSegment;
  batch.start[slot] = start;
  batch.headLength[slot] = 0;
  batch.length[slot] = length;
  batch.segmentFirst[slot] = segment;
  batch.segmentCount[slot] = 1;
  batch.segmentAddress[segment] = from;
  batch.segmentLength[segment] = length;
  batch.nextSegment = segment + 1;
  plainSlot(batch, slot);
};

/**
 * Puts back a VLAN tag that the kernel keeps beside the frame. The addresses move four bytes into the headroom; offsets that
 * the virtio-net header counts from the frame's start grow by four.
 */
export const putTagBack = (batch: PacketBatch, slot: number, tpid: number, tci: number): void => {
  const u8 = batch.u8;
  const from = batch.start[slot]!;
  const to = from - 4;
  for (let i = 0; i < 12; i++) u8[to + i] = u8[from + i]!;
  u8[to + 12] = tpid >>> 8;
  u8[to + 13] = tpid;
  u8[to + 14] = tci >>> 8;
  u8[to + 15] = tci;
  batch.start[slot] = to;
  batch.headLength[slot] = batch.headLength[slot]! + 4;
  batch.length[slot] = batch.length[slot]! + 4;
  if (batch.vnetFlags[slot] !== 0) batch.csumStart[slot] = batch.csumStart[slot]! + 4;
  if (batch.gsoType[slot] !== 0) batch.vnetHeaderLength[slot] = batch.vnetHeaderLength[slot]! + 4;
};
