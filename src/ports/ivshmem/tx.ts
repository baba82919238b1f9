// hot
/**
 * Transmit half of a queue pair: frames for the client's rx ring.
 *
 * A frame that lies in this pool and was not edited is passed by reference: its buffers get this slot's bit in the record, and
 * the ring their numbers. An edited frame whose buffer nobody else has gets its header window written back in place, which may
 * reach into the head-room. Everything else is copied once, into free buffers of the pool (rx-ring.ts).
 *
 * Places in the ring are taken at `push` and shown at `publish`. A shared queue is locked from before `push` until after
 * `publish`; the record is under the pool's lock during `push` (records.ts).
 */
import { type PortCounter, portCounter } from '#contract/catalogue.ts';
import { MAX_ROWS, type PacketBatch, SLOTS, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import type { FinishedFrames } from '../frame/finished.ts';
import { fitsMtu } from '../frame/mtu.ts';
import { lockQueue, unlockQueue } from '../queue-lock.ts';
import {
  CALLS,
  CHECKSUMS,
  COPIED,
  MTU,
  PORT_DOWN,
  RING_FULL,
  SEGMENTED,
  TX_BURSTS,
  TX_BYTES,
  TX_PACKETS,
} from '../tx-counters.ts';
import * as layout from './layout.ts';
import * as record from './records.ts';
import { ReturnRing } from './returns.ts';
import { RxRing } from './rx-ring.ts';
import type { PoolView } from './view.ts';

const CHAIN = layout.MAX_CHAIN;
const NEXT = layout.DESC_NEXT;
const ROW = record.BUFFER_WORDS;
const OWNER = record.B_OWNER;
const PLACE = record.B_PLACE;
const LINK = record.B_NEXT;
const FREE = record.C_FREE;
const Q_RX = record.Q_RX;
const OUT = record.Q_OUT;
const LOCK = record.Q_LOCK;
const BROKEN = record.Q_BROKEN;
const WINDOW_BYTES = WINDOW;
const ROWS = MAX_ROWS;
const fits = fitsMtu;

/** Packets of one push, at most. */
const MAX_PUSH = SLOTS;
const ETHERNET = 14;
/** Tries for the pool's lock: its holders are threads of the switch and keep it for microseconds. */
const PUSH_TRIES = Number.MAX_SAFE_INTEGER;

const counter = (name: PortCounter): number => portCounter(name);
const ZERO_COPY = counter('zero_copy_packets');

export class IvshmemTxQueue implements TxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  readonly #view: PoolView;
  readonly #row: Int32Array;
  readonly #counters: PortCounters;
  readonly #bit: number;
  readonly #longest: number;
  readonly #ring: RxRing;
  readonly #returns: ReturnRing;
  readonly #finished: FinishedFrames;
  #frames = 0;
  #bytes = 0;
  #copied = 0;
  #referenced = 0;

  /** @param at byte offset of the queue pair. @param row its Q_ words. @param shared other workers send here too. */
  constructor(
    portNo: number,
    queue: number,
    shared: boolean,
    view: PoolView,
    slot: number,
    at: number,
    row: Int32Array,
    settings: { readonly callFd: number; readonly mtu: number },
    counters: PortCounters,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.shared = shared;
    this.#view = view;
    this.#row = row;
    this.#counters = counters;
    this.#bit = 1 << slot;
    this.#longest = settings.mtu + ETHERNET;
    this.#ring = new RxRing(view, slot, at, row, settings.callFd);
    this.#returns = new ReturnRing(view, slot, at, row, shared, counters);
    view.returns.push(this.#returns);
    this.#finished = view.finished(this.#longest);
  }

  lock(): boolean {
    return lockQueue(this.#row, LOCK);
  }

  unlock(): void {
    unlockQueue(this.#row, LOCK);
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    const view = this.#view;
    const row = this.#row;
    if (n > MAX_PUSH) {
      slots[base + RING_FULL] = slots[base + RING_FULL]! + (n - MAX_PUSH);
      n = MAX_PUSH;
    }
    view.enter(PUSH_TRIES);
    this.#returns.drain();
    if (row[BROKEN] !== 0) {
      view.leave();
      slots[base + PORT_DOWN] = slots[base + PORT_DOWN]! + n;
      return 0;
    }
    const size = view.geometry.entries;
    const room = size - row[OUT]!;
    this.#ring.room = Math.min(room, size);
    this.#frames = 0;
    this.#bytes = 0;
    this.#copied = 0;
    this.#referenced = 0;
    const own = batch.pool === view.number;
    let sent = 0;
    for (let i = 0; i < n; ) {
      if (own) {
        const stop = this.#passPlain(batch, list, i, n);
        sent += stop - i;
        i = stop;
      } else {
        const stop = this.#copyPlain(batch, list, i, n);
        sent += stop - i;
        i = stop;
      }
      if (i === n) break;
      const reason = this.#pushAny(batch, list[i]!, own);
      if (reason === 0) sent++;
      else slots[base + reason] = slots[base + reason]! + 1;
      i++;
    }
    row[OUT] = row[OUT]! + this.#ring.count;
    view.leave();
    if (sent > 0) {
      slots[base + TX_PACKETS] = slots[base + TX_PACKETS]! + this.#frames;
      slots[base + TX_BYTES] = slots[base + TX_BYTES]! + this.#bytes;
      slots[base + TX_BURSTS] = slots[base + TX_BURSTS]! + 1;
      slots[base + ZERO_COPY] = slots[base + ZERO_COPY]! + this.#referenced;
      slots[base + COPIED] = slots[base + COPIED]! + this.#copied;
    }
    return sent;
  }

  /**
   * The straight path of zero copy: untouched frames of one buffer, from packet i on. @returns the first that it is not for.
   * No call in its loop: after one, V8 would check every view again.
   */
  #passPlain(batch: PacketBatch, list: Int32Array, i: number, n: number): number {
    const buffers = this.#view.records.buffers;
    const { length, edited, buffer } = batch;
    const ring = this.#ring.entries;
    const mask = (ring.length >>> 2) - 1;
    const put = this.#ring.buffers;
    const bit = this.#bit;
    const longest = this.#longest;
    const first = this.#row[Q_RX]! + this.#ring.count;
    const firstPut = this.#ring.count;
    const begin = i;
    const end = this.#ring.room < n - i ? i + this.#ring.room : n;
    let bytes = 0;
    for (; i < end; i++) {
      const slot = list[i]!;
      const frame = length[slot]!;
      if (edited[slot] !== 0 || frame > longest) break;
      const b = buffer[slot]!;
      const r = b * ROW;
      const holders = buffers[r]!;
      // Another frame was written into it, it goes on elsewhere, or the client has it already.
      if (buffers[r + OWNER] !== 0 || buffers[r + LINK] !== 0 || (holders & bit) !== 0) break;
      const place = buffers[r + PLACE]!;
      if ((place & 0xffff) !== frame) break;
      buffers[r] = holders | bit;
      const d = ((first + i - begin) & mask) << 2;
      ring[d] = b;
      ring[d + 1] = place >>> 16;
      ring[d + 2] = frame;
      ring[d + 3] = 0;
      put[firstPut + i - begin] = b;
      bytes += frame;
    }
    const passed = i - begin;
    this.#ring.count += passed;
    this.#ring.room -= passed;
    this.#frames += passed;
    this.#referenced += passed;
    this.#bytes += bytes;
    return i;
  }

  /** The straight path of one copy: plain frames that fit one buffer, from packet i on. @returns the first that it is not for. */
  #copyPlain(batch: PacketBatch, list: Int32Array, i: number, n: number): number {
    const view = this.#view;
    const { buffers, control, stack } = view.records;
    const { bufferBytes, bufferOffset, headroom } = view.geometry;
    const { rows, start, length, headLength, vnetFlags, gsoType } = batch;
    const { segmentFirst, segmentCount, segmentAddress, segmentLength } = batch;
    const ring = this.#ring.entries;
    const mask = (ring.length >>> 2) - 1;
    const put = this.#ring.buffers;
    const bit = this.#bit;
    const fitting = bufferBytes - headroom;
    const longest = Math.min(this.#longest, fitting);
    const base = view.base + bufferOffset + headroom;
    const scratch = batch.scratchAddress;
    const first = this.#row[Q_RX]! + this.#ring.count;
    const firstPut = this.#ring.count;
    const begin = i;
    let most = Math.min(this.#ring.room, n - i);
    let free = control[FREE]!;
    if (free < most) free = view.free(most);
    if (free < most) most = free;
    const rowsLeft = ((ROWS - batch.rowCount) / 2) | 0;
    if (rowsLeft < most) most = rowsLeft;
    const end = i + most;
    let row = batch.rowCount * 3;
    let bytes = 0;
    for (; i < end; i++) {
      const slot = list[i]!;
      const frame = length[slot]!;
      const segments = segmentCount[slot]!;
      if (frame > longest || segments > 1 || (vnetFlags[slot]! | gsoType[slot]!) !== 0) break;
      const b = stack[--free]!;
      buffers[b * ROW] = bit;
      const d = ((first + i - begin) & mask) << 2;
      ring[d] = b;
      ring[d + 1] = headroom;
      ring[d + 2] = frame;
      ring[d + 3] = 0;
      put[firstPut + i - begin] = b;
      const to = base + b * bufferBytes;
      const head = headLength[slot]!;
      bytes += frame;
      if (head > 0) {
        rows[row] = to;
        rows[row + 1] = scratch + start[slot]!;
        rows[row + 2] = head;
        row += 3;
      }
      if (segments !== 0) {
        const segment = segmentFirst[slot]!;
        rows[row] = to + head;
        rows[row + 1] = segmentAddress[segment]!;
        rows[row + 2] = segmentLength[segment]!;
        row += 3;
      }
    }
    control[FREE] = free;
    batch.rowCount = (row / 3) | 0;
    const copied = i - begin;
    this.#ring.count += copied;
    this.#ring.room -= copied;
    this.#frames += copied;
    this.#bytes += bytes;
    this.#copied += bytes;
    return i;
  }

  /** A frame of any shape. @returns 0, or the slot of a drop counter. */
  #pushAny(batch: PacketBatch, slot: number, own: boolean): number {
    if (this.#ring.room <= 0) return RING_FULL;
    if (own) {
      const passed = this.#passAny(batch, slot);
      if (passed >= 0) return passed;
    }
    const finished = this.#finished;
    const reason = finished.push(batch, slot, this.#ring);
    if (reason !== 0) return reason;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    if (finished.summed !== 0) slots[base + CHECKSUMS] = slots[base + CHECKSUMS]! + 1;
    if (finished.segmented !== 0) slots[base + SEGMENTED] = slots[base + SEGMENTED]! + 1;
    this.#frames += finished.frames;
    this.#bytes += finished.bytes;
    this.#copied += finished.bytes;
    return 0;
  }

  /** By reference, with an edited header written in place. @returns 0, the slot of a drop counter, or -1: it must be copied. */
  #passAny(batch: PacketBatch, slot: number): number {
    const view = this.#view;
    const buffers = view.records.buffers;
    const length = batch.length[slot]!;
    if (length > this.#longest && !fits(batch, slot, this.#longest)) return MTU;
    const first = batch.buffer[slot]!;
    if (first < 0) return -1;
    const r = first * ROW;
    const bit = this.#bit;
    const version = buffers[r + OWNER]!;
    // What lies in the buffer is the frame as received (0), or the one of another slot of this batch.
    const current = batch.edited[slot] === 0 ? version === 0 : version === -(slot + 1);
    if (!current && (version !== 0 || buffers[r] !== 1 || batch.edited[slot] === 0)) return -1;
    // What offload is still to do is done on a copy.
    if ((batch.vnetFlags[slot]! | batch.gsoType[slot]!) !== 0) return -1;
    let pieces = 0;
    let bytes = 0;
    for (let b = first; b >= 0 && pieces < CHAIN; b = buffers[b * ROW + LINK]! - 1) {
      if ((buffers[b * ROW]! & bit) !== 0) return -1;
      bytes += buffers[b * ROW + PLACE]! & 0xffff;
      pieces++;
    }
    if (current && bytes !== length) return -1;
    if (pieces > this.#ring.room) return RING_FULL;
    if (!current && !this.#writeBack(batch, slot, r, bytes)) return -1;
    let left = pieces;
    for (let b = first; left > 0; b = buffers[b * ROW + LINK]! - 1) {
      const at = b * ROW;
      const place = buffers[at + PLACE]!;
      buffers[at] = buffers[at]! | bit;
      left--;
      this.#ring.take(b, place >>> 16, place & 0xffff, left > 0 ? NEXT : 0);
    }
    this.#frames++;
    this.#bytes += length;
    this.#referenced++;
    return 0;
  }

  /**
   * Lists the copy of an edited header window into the buffer it came from.
   * @param received bytes of the frame as it came. @returns false when it does not fit there, or more than the window changed.
   */
  #writeBack(batch: PacketBatch, slot: number, r: number, received: number): boolean {
    const view = this.#view;
    const buffers = view.records.buffers;
    const place = buffers[r + PLACE]!;
    const offset = place >>> 16;
    const bytes = place & 0xffff;
    // The window of a frame in several buffers may reach into the second.
    if (bytes < WINDOW_BYTES && buffers[r + LINK] !== 0) return false;
    const window = Math.min(bytes, WINDOW_BYTES);
    const head = batch.headLength[slot]!;
    const at = offset + window - head;
    const from = view.base + view.geometry.bufferOffset + batch.buffer[slot]! * view.geometry.bufferBytes;
    if (at < 0 || batch.rowCount >= ROWS || batch.length[slot]! - head !== received - window) return false;
    // Behind the window the frame must go on where it did.
    const behind = batch.segmentCount[slot]! > 0 && bytes > window;
    if (behind && batch.segmentAddress[batch.segmentFirst[slot]!] !== from + offset + window) return false;
    const row = batch.rowCount * 3;
    batch.rows[row] = from + at;
    batch.rows[row + 1] = batch.scratchAddress + batch.start[slot]!;
    batch.rows[row + 2] = head;
    batch.rowCount++;
    buffers[r + PLACE] = (at << 16) | (head + bytes - window);
    buffers[r + OWNER] = -(slot + 1);
    this.#copied += head;
    return true;
  }

  publish(): void {
    if (this.#ring.show()) {
      const slots = this.#counters.slots;
      const base = this.#counters.base;
      slots[base + CALLS] = slots[base + CALLS]! + 1;
    }
  }

  /** Lets go of the rings. */
  close(): void {
    const { returns } = this.#view;
    returns.splice(returns.indexOf(this.#returns), 1);
  }
}
