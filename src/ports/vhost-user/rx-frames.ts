// hot
/**
 * What both ring kinds do with frames that the guest sent, once their chains have been walked: chains of any shape into
 * slots of the batch, and the virtio-net headers, read from the scratch only.
 */
import { DROP_BASE, dropReason, type PortCounter, portCounter } from '#contract/catalogue.ts';
import {
  GSO_NONE,
  HEADROOM,
  MAX_FRAME,
  MAX_PACKET_SEGMENTS,
  type PacketBatch,
  SLOT_BYTES,
  WINDOW,
} from '#datapath/packet/batch.ts';
import type { PortCounters } from '#ports/port.ts';
import { clearOffload, takeOffload } from '../frame/net-header.ts';
import type { ChainWalker } from './chain.ts';
import type { RxOptions } from './queue-options.ts';

const WINDOW_BYTES = WINDOW;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const LONGEST = MAX_FRAME;
const SEGMENTS = MAX_PACKET_SEGMENTS;
const ETHERNET = 14;
const offload = takeOffload;
const clear = clearOffload;

const counter = (name: PortCounter): number => portCounter(name);
const RX_PACKETS = counter('rx_packets');
const RX_BYTES = counter('rx_bytes');
const RX_BURSTS = counter('rx_bursts');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');
const BAD_OFFLOAD = DROP_BASE + dropReason('rx_bad_offload');

export class RxFrames {
  readonly #portNo: number;
  readonly #counters: PortCounters;
  readonly #headerBytes: number;
  readonly #headersEmpty: boolean;
  /** By gso_type: 1 when the guest may send such a frame (virtio 1.2 section 5.1.6.2.1). */
  readonly #allowed = new Uint8Array(256);

  constructor(portNo: number, counters: PortCounters, options: RxOptions) {
    this.#portNo = portNo;
    this.#counters = counters;
    this.#headerBytes = options.headerBytes;
    this.#headersEmpty = options.headersEmpty;
    this.#allowed[GSO_NONE] = 1;
    for (const type of options.gso) this.#allowed[type] = 1;
  }

  /** Reads and checks the virtio-net headers of slots 0..n-1, closes gaps, counts. @returns packets left. */
  readHeaders(batch: PacketBatch, n: number): number {
    const header = this.#headerBytes;
    const empty = this.#headersEmpty;
    const allowed = this.#allowed;
    const u16 = batch.u16;
    const length = batch.length;
    const vnetFlags = batch.vnetFlags;
    const gsoType = batch.gsoType;
    let bytes = 0;
    let slot = 0;
    // Plain frames up to the first other one; no calls in this loop, as in `poll`.
    for (; slot < n; slot++) {
      if ((!empty && u16[(slot * SLOT + HEAD - header) >>> 1]! !== 0) || (vnetFlags[slot]! | gsoType[slot]!) !== 0) {
        break;
      }
      bytes += length[slot]!;
    }
    let kept = slot;
    for (; slot < n; slot++) {
      if (kept !== slot) moveSlot(batch, slot, kept);
      const at = kept * SLOT + HEAD - header;
      if (empty || u16[at >>> 1]! === 0) {
        clear(batch, kept);
      } else if (allowed[u16[at >>> 1]! >>> 8] === 0 || !offload(batch, kept, at)) {
        this.#counters.slots[this.#counters.base + BAD_OFFLOAD]!++;
        continue;
      }
      bytes += length[kept]!;
      kept++;
    }
    if (kept === 0) return 0;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    slots[base + RX_PACKETS]! += kept;
    slots[base + RX_BYTES]! += bytes;
    slots[base + RX_BURSTS]! += 1;
    batch.count = kept;
    batch.inPort = this.#portNo;
    return kept;
  }

  /** Lays the chain that `walker` holds into slot `slot`. @returns false when it is no frame; it has been counted then. */
  lay(batch: PacketBatch, slot: number, walker: ChainWalker): boolean {
    const header = this.#headerBytes;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    const frame = walker.bytes - header;
    if (frame < ETHERNET) {
      slots[base + SHORT_FRAME]!++;
      return false;
    }
    const window = frame < WINDOW_BYTES ? frame : WINDOW_BYTES;
    const first = batch.nextSegment;
    const firstRow = batch.rowCount;
    const rows = batch.rows;
    const pieceAddress = walker.pieceAddress;
    const pieceLength = walker.pieceLength;
    const pieces = walker.count;
    let row = firstRow * 3;
    let segment = first;
    let to = batch.scratchAddress + slot * SLOT + HEAD - header;
    let copy = header + window;
    let fits = frame <= LONGEST;
    for (let i = 0; i < pieces && fits; i++) {
      let from = pieceAddress[i]!;
      let left = pieceLength[i]!;
      if (copy > 0) {
        const take = left < copy ? left : copy;
        rows[row] = to;
        rows[row + 1] = from;
        rows[row + 2] = take;
        row += 3;
        to += take;
        from += take;
        left -= take;
        copy -= take;
      }
      if (left > 0) {
        batch.segmentAddress[segment] = from;
        batch.segmentLength[segment] = left;
        segment++;
        fits = segment - first <= SEGMENTS;
      }
    }
    if (!fits) {
      slots[base + OVERSIZE]!++;
      return false;
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    batch.start[slot] = slot * SLOT + HEAD;
    batch.headLength[slot] = window;
    batch.length[slot] = frame;
    batch.segmentFirst[slot] = first;
    batch.segmentCount[slot] = segment - first;
    return true;
  }
}

/** Error path: keeps the rule that a slot's frame lies in the slot's own scratch. */
const moveSlot = (batch: PacketBatch, from: number, to: number): void => {
  batch.u8.copyWithin(to * SLOT, from * SLOT, (from + 1) * SLOT);
  batch.headLength[to] = batch.headLength[from]!;
  batch.length[to] = batch.length[from]!;
  batch.segmentFirst[to] = batch.segmentFirst[from]!;
  batch.segmentCount[to] = batch.segmentCount[from]!;
};
