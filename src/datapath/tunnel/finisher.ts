/**
 * What completes a frame in software, as a port without offloads wants it: the frame brought together in private memory, its
 * checksum filled in, a GSO frame cut into segments. Ports have one (ports/frame/offload.ts); the worker hands one in here,
 * for packets whose inside must be finished before they are wrapped.
 */
import type { PacketBatch } from '../packet/batch.ts';

export interface Finisher {
  readonly u8: Uint8Array;
  /** Absolute address of u8[0]. */
  readonly address: number;
  /** Where `linearise` put the frame, and its length. */
  readonly frame: number;
  readonly length: number;
  /** After `prepare`: bytes of headers of a segment, number of segments. */
  readonly headers: number;
  readonly segments: number;
  /** Copies a whole frame into private memory; no copy rows are left waiting. */
  linearise(batch: PacketBatch, slot: number): void;
  /** Completes a partial checksum. @returns false: outside the frame. */
  fillChecksum(csumStart: number, csumOffset: number): boolean;
  /** Reads the headers of a GSO frame. @returns false when it cannot be segmented. */
  prepare(gsoType: number, gsoSize: number, csumStart: number): boolean;
  /** Payload bytes of segment k. */
  payload(k: number): number;
  /** Byte offset of the payload of segment k. */
  payloadFrom(k: number): number;
  /** Makes the headers of segment k behind 12 bytes of a virtio-net header. @returns where that is. */
  segmentHeaders(batch: PacketBatch, k: number): number;
  /** Ones' complement sum of u8[at .. at + length - 1] as little-endian words, folded. */
  sum(at: number, length: number): number;
}
