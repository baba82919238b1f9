// hot
/**
 * Frames for the guest off the straight path, for both ring kinds: headers that say something, frames of several pieces,
 * and the offloads that the guest did not negotiate, done here.
 */
import { DROP_BASE, dropReason, type PortCounter, portCounter } from '#contract/catalogue.ts';
import { address, mapAnonymous, release } from '#contract/os.ts';
import { GSO_NONE, type PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortCounters } from '#ports/port.ts';
import { putHeader, putPlainHeader } from '../frame/net-header.ts';
import { SoftwareOffload } from '../frame/offload.ts';
import type { FramePieces } from './pieces.ts';
import type { TxOptions } from './queue-options.ts';

const header = putHeader;
const HEADER_STRIDE = 16;

const counter = (name: PortCounter): number => portCounter(name);
const CHECKSUMS = counter('checksums');
const SEGMENTED = counter('segmented');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('tx_bad_descriptor');
const OFFLOAD = DROP_BASE + dropReason('tx_offload');

/** A ring whose buffers take the frame that lies in its pieces. */
export interface BufferRing {
  /**
   * Takes buffers for the frame and lists its copies. `buffersAt`: where num_buffers of its header belongs in `headers`.
   * @returns 0, or the slot of a drop counter.
   */
  deliver(batch: PacketBatch, headers: Uint16Array, buffersAt: number): number;
  /** Remembers the place in the ring. */
  mark(): void;
  /** Untakes the buffers taken since the mark. */
  rewind(): void;
  /** Buffers taken since the mark go back empty. */
  empty(): void;
}

export class FrameSender {
  /** Frames and bytes that the last push became. */
  packets = 0;
  bytes = 0;
  readonly #ring: BufferRing;
  readonly #pieces: FramePieces;
  readonly #counters: PortCounters;
  readonly #headerBytes: number;
  readonly #checksum: boolean;
  readonly #offload = new SoftwareOffload();
  /** By gso_type: 1 when the guest takes such a frame as it is. */
  readonly #takes = new Uint8Array(256);
  readonly #headers16: Uint16Array;
  readonly #headersAddress: number;

  constructor(ring: BufferRing, pieces: FramePieces, counters: PortCounters, options: TxOptions) {
    this.#ring = ring;
    this.#pieces = pieces;
    this.#counters = counters;
    this.#headerBytes = options.headerBytes;
    this.#checksum = options.checksum;
    this.#takes[GSO_NONE] = 1;
    for (const type of options.gso) this.#takes[type] = 1;
    const headers = mapAnonymous(SLOTS * HEADER_STRIDE);
    this.#headers16 = new Uint16Array(headers);
    this.#headersAddress = address(headers);
  }

  /** Sends the frame of `slot`, packet `index` of this push. @returns 0, or the slot of a drop counter. */
  push(batch: PacketBatch, slot: number, index: number): number {
    const flags = batch.vnetFlags[slot]!;
    const gso = batch.gsoType[slot]!;
    this.packets = 1;
    this.bytes = batch.length[slot]!;
    if (this.#takes[gso] === 0) return this.#segment(batch, slot);
    if (flags !== 0 && !this.#checksum) return this.#sum(batch, slot, index);
    const pieces = this.#pieces;
    header(batch, slot, this.#headers16, index * HEADER_STRIDE);
    pieces.sourceAddress[0] = this.#headersAddress + index * HEADER_STRIDE;
    pieces.sourceLength[0] = this.#headerBytes;
    pieces.sourceAddress[1] = batch.scratchAddress + batch.start[slot]!;
    pieces.sourceLength[1] = batch.headLength[slot]!;
    const first = batch.segmentFirst[slot]!;
    const count = batch.segmentCount[slot]!;
    for (let i = 0; i < count; i++) {
      pieces.sourceAddress[2 + i] = batch.segmentAddress[first + i]!;
      pieces.sourceLength[2 + i] = batch.segmentLength[first + i]!;
    }
    pieces.sourceCount = 2 + count;
    return this.#ring.deliver(batch, this.#headers16, (index * HEADER_STRIDE + 10) >>> 1);
  }

  /** The guest wants whole checksums. */
  #sum(batch: PacketBatch, slot: number, index: number): number {
    const offload = this.#offload;
    offload.linearise(batch, slot);
    if (!offload.fillChecksum(batch.csumStart[slot]!, batch.csumOffset[slot]!)) return OFFLOAD;
    putPlainHeader(this.#headers16, index * HEADER_STRIDE);
    const pieces = this.#pieces;
    pieces.sourceAddress[0] = this.#headersAddress + index * HEADER_STRIDE;
    pieces.sourceLength[0] = this.#headerBytes;
    pieces.sourceAddress[1] = offload.address + offload.frame;
    pieces.sourceLength[1] = offload.length;
    pieces.sourceCount = 2;
    const reason = this.#ring.deliver(batch, this.#headers16, (index * HEADER_STRIDE + 10) >>> 1);
    if (reason === 0) this.#counters.slots[this.#counters.base + CHECKSUMS]!++;
    return reason;
  }

  /** The guest wants short frames. All segments are sent, or none. */
  #segment(batch: PacketBatch, slot: number): number {
    const offload = this.#offload;
    offload.linearise(batch, slot);
    if (!offload.prepare(batch.gsoType[slot]!, batch.gsoSize[slot]!, batch.csumStart[slot]!)) return OFFLOAD;
    const ring = this.#ring;
    ring.mark();
    const headerBytes = this.#headerBytes;
    const pieces = this.#pieces;
    const segments = offload.segments;
    let bytes = 0;
    for (let k = 0; k < segments; k++) {
      const vnet = offload.segmentHeaders(batch, k) + 12 - headerBytes;
      const payload = offload.payload(k);
      if (headerBytes === 12) offload.u16[(vnet + 10) >>> 1] = 1;
      pieces.sourceAddress[0] = offload.address + vnet;
      pieces.sourceLength[0] = headerBytes + offload.headers;
      pieces.sourceAddress[1] = offload.address + offload.payloadFrom(k);
      pieces.sourceLength[1] = payload;
      pieces.sourceCount = 2;
      const reason = ring.deliver(batch, offload.u16, (vnet + 10) >>> 1);
      if (reason !== 0) {
        // `linearise` left no row of others behind.
        batch.rowCount = 0;
        if (reason === BAD_DESCRIPTOR) ring.empty();
        else ring.rewind();
        return reason;
      }
      bytes += offload.headers + payload;
    }
    this.packets = segments;
    this.bytes = bytes;
    this.#counters.slots[this.#counters.base + SEGMENTED]!++;
    return 0;
  }

  /** Lets go of private memory. */
  close(): void {
    release(this.#headers16.buffer as ArrayBuffer);
    this.#offload.close();
  }
}
