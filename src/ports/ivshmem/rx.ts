// hot
/**
 * Receive half of a queue pair: frames that the client put on its tx ring.
 *
 * A frame stays in its buffers: only the header window is copied, and not even that where nobody reads headers. Each buffer
 * named is checked against the record (records.ts) and is the switch's from then on. At `complete`, a buffer that was passed to
 * nobody goes back to the client through its free ring; for each one that was, a free buffer of the pool goes in its place.
 */
import { DROP_BASE, dropReason, type PortCounter, portCounter } from '#contract/catalogue.ts';
import { eventfdDrain, eventfdSignal } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import { clearOffload } from '../frame/net-header.ts';
import * as layout from './layout.ts';
import * as record from './records.ts';
import type { PoolView } from './view.ts';

// Re-bound: V8 reads a module constant faster in a loop than an imported binding.
const MAX_BURST = BURST;
const WINDOW_BYTES = WINDOW;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const LONGEST = MAX_FRAME;
const SHORTEST = 14;
const CHAIN = layout.MAX_CHAIN;
const NEXT = layout.DESC_NEXT;
const PRODUCER = layout.R_PRODUCER >> 2;
const CONSUMER = layout.R_CONSUMER >> 2;
const WAKE = layout.R_WAKE >> 2;
const INDEX_ERROR = layout.ERROR_TX_INDEX;
const ROW = record.BUFFER_WORDS;
const OWNER = record.B_OWNER;
const PLACE = record.B_PLACE;
const LINK = record.B_NEXT;
const FREE = record.C_FREE;
const Q_TX = record.Q_TX;
const Q_FREE = record.Q_FREE;
const Q_HELD = record.Q_HELD;
const BROKEN = record.Q_BROKEN;
const clear = clearOffload;
const signal = eventfdSignal;
const drainFd = eventfdDrain;

/** Tries for the lock before a burst is left for the next turn. */
const POLL_TRIES = 100;
/** Tries for the lock to give buffers back: as good as for ever, since its holders are threads of the switch. */
const COMPLETE_TRIES = Number.MAX_SAFE_INTEGER;
/** Polls without a packet between two tries to make up for buffers that the pool could not give. */
const REFILL_EVERY = 64;

const counter = (name: PortCounter): number => portCounter(name);
const RX_PACKETS = counter('rx_packets');
const RX_BYTES = counter('rx_bytes');
const RX_BURSTS = counter('rx_bursts');
const KICKS = counter('kicks');
const CALLS = counter('calls');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('rx_bad_descriptor');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');

export class IvshmemRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #callFd: number;
  readonly #view: PoolView;
  readonly #row: Int32Array;
  readonly #counters: PortCounters;
  /** This queue pair in B_OWNER. */
  readonly #id: number;
  readonly #credit: number;
  readonly #txHeader: Int32Array;
  readonly #txEntries: Uint32Array;
  readonly #freeHeader: Int32Array;
  readonly #freeEntries: Uint32Array;
  /** Buffers of this burst. */
  readonly #taken = new Int32Array(BURST * layout.MAX_CHAIN);
  #takenCount = 0;
  /** The lock was taken at `poll`. */
  #locked = false;
  /** Place in the tx ring while a burst is read. */
  #cursor = 0;
  #idle = 0;
  /** The client may have been asked for notifications: so it is where another worker had the queue. */
  #armed = true;

  /** @param at byte offset of the queue pair. @param row its Q_ words. */
  constructor(
    portNo: number,
    queue: number,
    view: PoolView,
    slot: number,
    at: number,
    row: Int32Array,
    fds: { readonly kickFd: number; readonly callFd: number },
    counters: PortCounters,
  ) {
    const { entries, credit } = view.geometry;
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = fds.kickFd;
    this.#callFd = fds.callFd;
    this.#view = view;
    this.#row = row;
    this.#counters = counters;
    this.#id = record.ownerId(slot, queue);
    this.#credit = credit;
    const { memory } = view;
    this.#txHeader = new Int32Array(memory, at + layout.ringHeaderAt(layout.RING_TX), 32);
    this.#txEntries = new Uint32Array(memory, at + layout.ringEntriesAt(layout.RING_TX, entries), entries * 4);
    this.#freeHeader = new Int32Array(memory, at + layout.ringHeaderAt(layout.RING_FREE), 32);
    this.#freeEntries = new Uint32Array(memory, at + layout.ringEntriesAt(layout.RING_FREE, entries), entries);
  }

  poll(batch: PacketBatch, whole = false): number {
    const row = this.#row;
    const cursor = row[Q_TX]!;
    const waiting = (Atomics.load(this.#txHeader, PRODUCER) - cursor) >>> 0;
    if (waiting === 0 || row[BROKEN] !== 0) {
      if (row[Q_HELD]! < this.#credit) this.#refillIdle();
      return 0;
    }
    if (this.#armed) this.disarm();
    const size = this.#view.geometry.entries;
    if (waiting > size) return this.#broken();
    if (this.#takenCount > 0) this.complete();
    const view = this.#view;
    if (view.alone) {
      if (!view.enter(POLL_TRIES)) return 0;
      this.#locked = true;
    }
    const end = (cursor + waiting) | 0;
    this.#cursor = cursor;
    let slot = 0;
    // A frame takes an entry at least and MAX_CHAIN at most.
    for (let frames = 0; frames < MAX_BURST && this.#cursor !== end; ) {
      const left = (end - this.#cursor) >>> 0;
      const most = MAX_BURST - frames;
      const got = this.#takePlain(batch, slot, Math.min(left, most), whole);
      slot += got;
      frames += got;
      if (frames === MAX_BURST || this.#cursor === end) break;
      slot += this.#takeAny(batch, slot, end, whole);
      frames++;
    }
    row[Q_TX] = this.#cursor;
    this.#txHeader[CONSUMER] = this.#cursor;
    row[Q_HELD] = row[Q_HELD]! - this.#takenCount;
    if (slot === 0) {
      this.complete();
      return 0;
    }
    if (!whole) batch.copy();
    return this.#admit(batch, slot);
  }

  /**
   * The straight path: frames of one buffer, from `#cursor` on, at most `n`, into slots `slot`.. @returns frames taken.
   * No call in its loop: after one, V8 would check every view again.
   */
  #takePlain(batch: PacketBatch, slot: number, n: number, whole: boolean): number {
    const view = this.#view;
    const { bufferBytes, bufferOffset } = view.geometry;
    const buffers = view.records.buffers;
    const count = view.geometry.bufferCount;
    const ring = this.#txEntries;
    const mask = (ring.length >>> 2) - 1;
    const taken = this.#taken;
    const id = this.#id;
    const base = view.base + bufferOffset;
    const scratch = batch.scratchAddress;
    const { rows, start, headLength, length, segmentFirst, segmentCount, segmentAddress, segmentLength } = batch;
    const { buffer, edited } = batch;
    const window = whole ? 0 : WINDOW_BYTES;
    const first = this.#cursor;
    const takenFirst = this.#takenCount;
    let segment = batch.nextSegment;
    let copy = batch.rowCount * 3;
    let i = 0;
    for (; i < n; i++) {
      const d = ((first + i) & mask) << 2;
      const b = ring[d]!;
      const offset = ring[d + 1]!;
      const bytes = ring[d + 2]!;
      if (ring[d + 3] !== 0 || b >= count || bytes < SHORTEST || offset + bytes > bufferBytes) break;
      const r = b * ROW;
      if (buffers[r + OWNER] !== id) break;
      buffers[r] = 1;
      buffers[r + OWNER] = 0;
      buffers[r + PLACE] = (offset << 16) | bytes;
      buffers[r + LINK] = 0;
      taken[takenFirst + i] = b;
      const at = base + b * bufferBytes + offset;
      const frameAt = slot * SLOT + HEAD;
      const head = Math.min(bytes, window);
      buffer[slot] = b;
      edited[slot] = 0;
      start[slot] = frameAt;
      headLength[slot] = head;
      length[slot] = bytes;
      if (head > 0) {
        rows[copy] = scratch + frameAt;
        rows[copy + 1] = at;
        rows[copy + 2] = head;
        copy += 3;
      }
      segmentFirst[slot] = segment;
      segmentCount[slot] = 0;
      if (bytes > head) {
        segmentAddress[segment] = at + head;
        segmentLength[segment] = bytes - head;
        segmentCount[slot] = 1;
        segment++;
      }
      slot++;
    }
    batch.nextSegment = segment;
    batch.rowCount = (copy / 3) | 0;
    this.#takenCount = takenFirst + i;
    this.#cursor = (first + i) | 0;
    return i;
  }

  /**
   * One frame of any shape, from `#cursor` to `end` at most; whatever is wrong with it, its good buffers are taken along and
   * given back at `complete`. @returns 1 taken into `slot`, 0 dropped and counted.
   */
  #takeAny(batch: PacketBatch, slot: number, end: number, whole: boolean): number {
    const { bufferBytes, bufferOffset, bufferCount } = this.#view.geometry;
    const buffers = this.#view.records.buffers;
    const ring = this.#txEntries;
    const mask = (ring.length >>> 2) - 1;
    const base = this.#view.base + bufferOffset;
    const firstSegment = batch.nextSegment;
    const firstRow = batch.rowCount;
    const frameAt = slot * SLOT + HEAD;
    let to = batch.scratchAddress + frameAt;
    let head = whole ? 0 : WINDOW_BYTES;
    let segment = firstSegment;
    let row = firstRow * 3;
    let cursor = this.#cursor;
    let frame = 0;
    let before = -1;
    let firstBuffer = 0;
    let good = true;
    let more = true;
    let pieces = 0;
    for (; more && pieces < CHAIN && cursor !== end; pieces++, cursor = (cursor + 1) | 0) {
      const d = (cursor & mask) << 2;
      const b = ring[d]!;
      const offset = ring[d + 1]!;
      const bytes = ring[d + 2]!;
      const flags = ring[d + 3]!;
      more = (flags & NEXT) !== 0;
      const r = b * ROW;
      if (b >= bufferCount || buffers[r + OWNER] !== this.#id) {
        good = false;
        continue;
      }
      buffers[r] = 1;
      buffers[r + OWNER] = 0;
      buffers[r + PLACE] = (offset << 16) | bytes;
      buffers[r + LINK] = 0;
      this.#taken[this.#takenCount++] = b;
      if ((flags & ~NEXT) !== 0 || bytes === 0 || offset + bytes > bufferBytes) good = false;
      if (!good) continue;
      if (before < 0) firstBuffer = b;
      else buffers[before * ROW + LINK] = b + 1;
      before = b;
      frame += bytes;
      let at = base + b * bufferBytes + offset;
      let left = bytes;
      if (head > 0) {
        const take = Math.min(left, head);
        batch.rows[row] = to;
        batch.rows[row + 1] = at;
        batch.rows[row + 2] = take;
        row += 3;
        to += take;
        at += take;
        left -= take;
        head -= take;
      }
      if (left > 0) {
        batch.segmentAddress[segment] = at;
        batch.segmentLength[segment] = left;
        segment++;
      }
    }
    this.#cursor = cursor;
    const slots = this.#counters.slots;
    const counters = this.#counters.base;
    if (!good || more || frame < SHORTEST || frame > LONGEST) {
      const reason = !good || more ? BAD_DESCRIPTOR : frame < SHORTEST ? SHORT_FRAME : OVERSIZE;
      slots[counters + reason] = slots[counters + reason]! + 1;
      return 0;
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    batch.buffer[slot] = firstBuffer;
    batch.edited[slot] = 0;
    batch.start[slot] = frameAt;
    batch.headLength[slot] = whole ? 0 : WINDOW_BYTES - head;
    batch.length[slot] = frame;
    batch.segmentFirst[slot] = firstSegment;
    batch.segmentCount[slot] = segment - firstSegment;
    return 1;
  }

  /** Counts the frames in slots 0..n-1 and makes them the batch. */
  #admit(batch: PacketBatch, n: number): number {
    const { length, vnetFlags, gsoType } = batch;
    let bytes = 0;
    for (let slot = 0; slot < n; slot++) {
      bytes += length[slot]!;
      if ((vnetFlags[slot]! | gsoType[slot]!) !== 0) clear(batch, slot);
    }
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    slots[base + RX_PACKETS] = slots[base + RX_PACKETS]! + n;
    slots[base + RX_BYTES] = slots[base + RX_BYTES]! + bytes;
    slots[base + RX_BURSTS] = slots[base + RX_BURSTS]! + 1;
    batch.count = n;
    batch.inPort = this.portNo;
    batch.pool = this.#view.number;
    return n;
  }

  complete(): void {
    const n = this.#takenCount;
    const view = this.#view;
    if (n > 0) {
      if (!this.#locked) view.enter(COMPLETE_TRIES);
      const buffers = view.records.buffers;
      const ring = this.#freeEntries;
      const mask = ring.length - 1;
      const taken = this.#taken;
      const id = this.#id;
      const row = this.#row;
      const before = row[Q_FREE]!;
      let at = before;
      for (let i = 0; i < n; i++) {
        const b = taken[i]!;
        const r = b * ROW;
        const left = buffers[r]! & ~1;
        buffers[r] = left;
        if (left !== 0) continue;
        buffers[r + OWNER] = id;
        ring[at & mask] = b;
        at = (at + 1) | 0;
      }
      this.#takenCount = 0;
      row[Q_HELD] = row[Q_HELD]! + ((at - before) | 0);
      at = this.#refill(at);
      row[Q_FREE] = at;
      view.leave();
      this.#locked = false;
      if (at !== before) this.#show(at);
    } else if (this.#locked) {
      this.#locked = false;
      view.leave();
    }
  }

  /** Puts free buffers on the free ring from place `at` on, up to the client's credit. Under the lock. @returns the next place. */
  #refill(at: number): number {
    const row = this.#row;
    const want = this.#credit - row[Q_HELD]!;
    if (want <= 0) return at;
    const { buffers, control, stack } = this.#view.records;
    const have = this.#view.free(want);
    const n = Math.min(want, have);
    const ring = this.#freeEntries;
    const mask = ring.length - 1;
    const id = this.#id;
    for (let i = 0; i < n; i++) {
      const b = stack[have - 1 - i]!;
      buffers[b * ROW + OWNER] = id;
      ring[(at + i) & mask] = b;
    }
    control[FREE] = have - n;
    row[Q_HELD] = row[Q_HELD]! + n;
    return (at + n) | 0;
  }

  /** The pool was empty when buffers were passed on: now and then, tries again. */
  #refillIdle(): void {
    if (++this.#idle < REFILL_EVERY || this.#row[BROKEN] !== 0 || !this.#view.enter(1)) return;
    this.#idle = 0;
    const before = this.#row[Q_FREE]!;
    const at = this.#refill(before);
    this.#row[Q_FREE] = at;
    this.#view.leave();
    if (at !== before) this.#show(at);
  }

  /** Shows the free ring's new end to the client, and calls it if it waits for buffers. */
  #show(at: number): void {
    // Sequentially consistent: the client's wish for a call is read only after the index is out.
    Atomics.store(this.#freeHeader, PRODUCER, at);
    if (this.#freeHeader[WAKE] === 1 && this.#callFd >= 0) {
      signal(this.#callFd);
      const slots = this.#counters.slots;
      const base = this.#counters.base;
      slots[base + CALLS] = slots[base + CALLS]! + 1;
    }
  }

  arm(): boolean {
    this.#armed = true;
    const row = this.#row;
    Atomics.store(this.#txHeader, WAKE, 1);
    const quiet = Atomics.load(this.#txHeader, PRODUCER) === row[Q_TX]! || row[BROKEN] !== 0;
    // A client without a single buffer waits for us, not we for it.
    if (quiet && (row[Q_HELD]! > 0 || row[BROKEN] !== 0)) return false;
    this.disarm();
    return true;
  }

  disarm(): void {
    this.#armed = false;
    this.#txHeader[WAKE] = 0;
    if (this.kickFd >= 0 && drainFd(this.kickFd) > 0) {
      const slots = this.#counters.slots;
      const base = this.#counters.base;
      slots[base + KICKS] = slots[base + KICKS]! + 1;
    }
  }

  #broken(): number {
    this.#row[BROKEN] = INDEX_ERROR;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    slots[base + BAD_DESCRIPTOR] = slots[base + BAD_DESCRIPTOR]! + 1;
    return 0;
  }
}
