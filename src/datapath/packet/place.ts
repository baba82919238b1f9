/** Puts a frame that lies in private memory (an upcall's record, a packet-out) into a batch. */
import { BURST, HEADROOM, MAX_SEGMENTS, type PacketBatch, SLOT_BYTES, WINDOW } from './batch.ts';

/**
 * Fills the next received slot of `batch` with the frame bytes[at .. at + length - 1]: window into the scratch, the rest as
 * one segment. virtio-net fields are 0; the caller sets them afterwards where it has them.
 * @param base absolute address of bytes[0], whose memory must stay until the batch is sent.
 * @returns the slot, or -1 when the batch is full or the frame has no Ethernet header.
 */
export function placeFrame(batch: PacketBatch, bytes: Uint8Array, at: number, base: number, length: number): number {
  const slot = batch.count;
  if (slot >= BURST || length < 14 || batch.nextSegment >= MAX_SEGMENTS) return -1;
  const start = slot * SLOT_BYTES + HEADROOM;
  const head = Math.min(length, WINDOW);
  for (let i = 0; i < head; i++) batch.u8[start + i] = bytes[at + i]!;
  batch.start[slot] = start;
  batch.headLength[slot] = head;
  batch.length[slot] = length;
  batch.segmentFirst[slot] = batch.nextSegment;
  batch.segmentCount[slot] = 0;
  if (length > head) {
    batch.segmentAddress[batch.nextSegment] = base + at + head;
    batch.segmentLength[batch.nextSegment] = length - head;
    batch.segmentCount[slot] = 1;
    batch.nextSegment++;
  }
  batch.vnetFlags[slot] = 0;
  batch.gsoType[slot] = 0;
  batch.gsoSize[slot] = 0;
  batch.vnetHeaderLength[slot] = 0;
  batch.csumStart[slot] = 0;
  batch.csumOffset[slot] = 0;
  batch.count = slot + 1;
  return slot;
}
