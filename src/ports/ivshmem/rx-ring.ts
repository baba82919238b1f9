// hot
/**
 * The rx ring of a queue pair, as its producer has it: entries taken at `push`, shown at `publish`; and the way of frames
 * that are copied, into free buffers of the pool.
 */
import { DROP_BASE, dropReason } from '#contract/catalogue.ts';
import { eventfdSignal } from '#contract/os.ts';
import { MAX_ROWS, type PacketBatch } from '#datapath/packet/batch.ts';
import type { FinishedFrames, FrameSink } from '../frame/finished.ts';
import * as layout from './layout.ts';
import * as record from './records.ts';
import type { PoolView } from './view.ts';

const CHAIN = layout.MAX_CHAIN;
const NEXT = layout.DESC_NEXT;
const PRODUCER = layout.R_PRODUCER >> 2;
const WAKE = layout.R_WAKE >> 2;
const ROW = record.BUFFER_WORDS;
const FREE = record.C_FREE;
const Q_RX = record.Q_RX;
const ROWS = MAX_ROWS;
const signal = eventfdSignal;
const RING_FULL = DROP_BASE + dropReason('tx_ring_full');
const POOL_EMPTY = DROP_BASE + dropReason('tx_pool_empty');
const TOO_BIG = DROP_BASE + dropReason('tx_too_big_for_buffer');

export class RxRing implements FrameSink {
  readonly entries: Uint32Array;
  /** Buffers put on the ring since the last `show`, in order: the ring itself can be written by others. */
  readonly buffers: Int32Array;
  /** Entries taken since the last `show`, and those that may still be. */
  count = 0;
  room = 0;
  readonly #view: PoolView;
  readonly #row: Int32Array;
  readonly #header: Int32Array;
  readonly #bit: number;
  readonly #callFd: number;

  /** @param at byte offset of the queue pair. @param row its Q_ words. @param callFd eventfd that calls the client, or -1. */
  constructor(view: PoolView, slot: number, at: number, row: Int32Array, callFd: number) {
    const { entries } = view.geometry;
    this.#view = view;
    this.#row = row;
    this.#header = new Int32Array(view.memory, at + layout.ringHeaderAt(layout.RING_RX), 32);
    this.entries = new Uint32Array(view.memory, at + layout.ringEntriesAt(layout.RING_RX, entries), entries * 4);
    this.buffers = new Int32Array(entries);
    this.#bit = 1 << slot;
    this.#callFd = callFd;
  }

  /** FrameSink: one frame into free buffers. */
  put(batch: PacketBatch, frames: FinishedFrames): number {
    const view = this.#view;
    const { bufferBytes, bufferOffset, headroom } = view.geometry;
    const bytes = frames.frameBytes;
    const need = bytes <= bufferBytes - headroom ? 1 : 1 + Math.ceil((bytes - bufferBytes + headroom) / bufferBytes);
    if (need > CHAIN) return TOO_BIG;
    if (need > this.room) return RING_FULL;
    if (view.records.control[FREE]! < need && view.free(need) < need) return POOL_EMPTY;
    if (batch.rowCount + need + frames.pieceCount > ROWS) batch.copy();
    const { buffers, control, stack } = view.records;
    let piece = 0;
    let inPiece = 0;
    let left = bytes;
    let row = batch.rowCount * 3;
    for (let k = 0; k < need; k++) {
      const free = control[FREE]! - 1;
      const b = stack[free]!;
      control[FREE] = free;
      buffers[b * ROW] = this.#bit;
      const offset = k === 0 ? headroom : 0;
      const room = bufferBytes - offset;
      const here = Math.min(left, room);
      let to = view.base + bufferOffset + b * bufferBytes + offset;
      for (let open = here; open > 0; ) {
        const rest = frames.pieceLength[piece]! - inPiece;
        const take = Math.min(rest, open);
        if (take > 0) {
          batch.rows[row] = to;
          batch.rows[row + 1] = frames.pieceAddress[piece]! + inPiece;
          batch.rows[row + 2] = take;
          row += 3;
        }
        to += take;
        open -= take;
        inPiece += take;
        if (inPiece === frames.pieceLength[piece]) {
          piece++;
          inPiece = 0;
        }
      }
      left -= here;
      this.take(b, offset, here, left > 0 ? NEXT : 0);
    }
    batch.rowCount = (row / 3) | 0;
    return 0;
  }

  /** One entry of the ring. */
  take(buffer: number, offset: number, bytes: number, flags: number): void {
    const ring = this.entries;
    const d = ((this.#row[Q_RX]! + this.count) & ((ring.length >>> 2) - 1)) << 2;
    ring[d] = buffer;
    ring[d + 1] = offset;
    ring[d + 2] = bytes;
    ring[d + 3] = flags;
    this.buffers[this.count++] = buffer;
    this.room--;
  }

  mark(): number {
    return this.count;
  }

  /** Frees the buffers of what was put since `mark`: `put` alone takes buffers between the two. */
  rewind(mark: number): void {
    const { buffers: rows, control, stack } = this.#view.records;
    while (this.count > mark) {
      const b = this.buffers[--this.count]!;
      rows[b * ROW] = 0;
      const free = control[FREE]!;
      stack[free] = b;
      control[FREE] = free + 1;
      this.room++;
    }
  }

  /** Shows the entries taken to the client. @returns true when it had asked to be called, and was. */
  show(): boolean {
    if (this.count === 0) return false;
    const row = this.#row;
    const now = (row[Q_RX]! + this.count) | 0;
    this.count = 0;
    row[Q_RX] = now;
    // Sequentially consistent: the client's wish for a call is read only after the index is out.
    Atomics.store(this.#header, PRODUCER, now);
    if (this.#header[WAKE] !== 1 || this.#callFd < 0) return false;
    signal(this.#callFd);
    return true;
  }
}
