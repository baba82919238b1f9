// hot
/**
 * Frames to the switch: buffers from the ring `tx_free`, filled in place, handed over through the ring `tx`
 * (docs/ivshmem-layout.md, "Sending").
 *
 *     const n = tx.reserve(32);
 *     for (let i = 0; i < n; i++) write tx.length[i] bytes at tx.u8[tx.at[i]];
 *     tx.send(n);
 *
 * A frame longer than `room` bytes lies in several buffers one after the other, all but the last with `next[i]` = 1.
 *
 * Invariant: `reserve` only looks; `send` takes. What the ring of empty buffers says beyond its index is still there next time.
 */
import { eventfdSignal as signalFd } from '#contract/os.ts';
import { MAX_CHAIN, STATE_READY as READY } from '#ports/ivshmem/layout.ts';
import type { QueuePlace } from './ring.ts';

// Re-bound: an imported binding costs about 2 ns at each use in a loop (Node 26.10).
const signal = signalFd;
const STATE_READY = READY;

/** Buffers of one reservation, at most. */
export const IV_TX_BURST = MAX_CHAIN;

export class IvTxQueue {
  /** The memory that frames are built in. Another one after the port was lost and came back. */
  u8: Uint8Array = new Uint8Array(0);
  /** Where buffer i's frame bytes begin, behind the head-room; it may be moved within the buffer. */
  readonly at = new Float64Array(IV_TX_BURST);
  readonly length = new Int32Array(IV_TX_BURST);
  /** 1: the frame goes on in buffer i + 1. */
  readonly next = new Uint8Array(IV_TX_BURST);
  /** Bytes that fit in one buffer behind the head-room. */
  room = 0;

  /** Frames sent so far; frames left out since a length was none; doorbells rung. */
  sent = 0;
  rejected = 0;
  kicks = 0;
  /** The switch took the slot away, or said something that makes no sense: nothing works until the port joins again. */
  stale = false;

  readonly #buffers = new Uint32Array(IV_TX_BURST);
  #reserved = 0;
  #u32: Uint32Array = new Uint32Array(0);
  #open = false;
  #state = 0;
  #generationWord = 0;
  #generation = 0;
  #mask = 0;
  #bufferOffset = 0;
  #bufferBytes = 0;
  #bufferCount = 0;
  #headroom = 0;
  #txProducer = 0;
  #txConsumer = 0;
  #txWake = 0;
  #txEntries = 0;
  #freeProducer = 0;
  #freeConsumer = 0;
  #freeWake = 0;
  #freeEntries = 0;
  #txIndex = 0;
  #freeIndex = 0;
  #kickFd = -1;

  /** Begins anew in a slot just joined. */
  attach(place: QueuePlace): void {
    const { pool, tx, free } = place;
    const g = pool.geometry;
    this.u8 = pool.u8;
    this.#u32 = pool.u32;
    this.room = g.bufferBytes - g.headroom;
    this.#state = place.state;
    this.#generationWord = place.generationWord;
    this.#generation = place.generation;
    this.#mask = g.entries - 1;
    this.#bufferOffset = g.bufferOffset;
    this.#bufferBytes = g.bufferBytes;
    this.#bufferCount = g.bufferCount;
    this.#headroom = g.headroom;
    this.#txProducer = tx.producer;
    this.#txConsumer = tx.consumer;
    this.#txWake = tx.wake;
    this.#txEntries = tx.entries;
    this.#freeProducer = free.producer;
    this.#freeConsumer = free.consumer;
    this.#freeWake = free.wake;
    this.#freeEntries = free.entries;
    this.#txIndex = 0;
    this.#freeIndex = 0;
    this.#reserved = 0;
    this.#kickFd = place.kickFd;
    this.stale = false;
    this.#open = true;
  }

  /** After it nothing can be reserved: the slot, or its memory, is gone. */
  detach(): void {
    this.#open = false;
    this.#reserved = 0;
    this.#kickFd = -1;
  }

  /** Empty buffers that wait to be filled. */
  get free(): number {
    if (!this.#open) return 0;
    return this.#waiting();
  }

  /** Entries sent that the switch has not taken, by its own account. */
  get pending(): number {
    return this.#open ? (this.#txIndex - Atomics.load(this.#u32, this.#txConsumer)) >>> 0 : 0;
  }

  /**
   * Shows at most `max` (IV_TX_BURST) empty buffers: sets `at`, clears `length` and `next`.
   * @returns buffers that may be written; they are not used up before `send`.
   */
  reserve(max: number): number {
    this.#reserved = 0;
    if (!this.#open) return 0;
    const u32 = this.#u32;
    if (u32[this.#state] !== STATE_READY || u32[this.#generationWord] !== this.#generation) {
      this.stale = true;
      return 0;
    }
    if (max > IV_TX_BURST) max = IV_TX_BURST;
    const waiting = this.#waiting();
    if (waiting < max) max = waiting;
    const at = this.at;
    const length = this.length;
    const next = this.next;
    const buffers = this.#buffers;
    const mask = this.#mask;
    const entries = this.#freeEntries;
    const count = this.#bufferCount;
    const bytes = this.#bufferBytes;
    const start = this.#bufferOffset + this.#headroom;
    const index = this.#freeIndex;
    for (let i = 0; i < max; i++) {
      const buffer = u32[entries + ((index + i) & mask)]!;
      if (buffer >= count) {
        this.stale = true;
        max = i;
        break;
      }
      buffers[i] = buffer;
      at[i] = start + buffer * bytes;
      length[i] = 0;
      next[i] = 0;
    }
    this.#reserved = max;
    return max;
  }

  /**
   * Sends the first `n` buffers of the reservation, all of them or, when a length or place is outside of its buffer or the
   * last has `next`, none. Rings the switch where it sleeps.
   * @returns buffers sent: `n` or 0.
   */
  send(n: number): number {
    if (n > this.#reserved) n = this.#reserved;
    this.#reserved = 0;
    if (n <= 0) return 0;
    const u32 = this.#u32;
    const at = this.at;
    const length = this.length;
    const next = this.next;
    const buffers = this.#buffers;
    const mask = this.#mask;
    const entries = this.#txEntries;
    const bytes = this.#bufferBytes;
    const first = this.#bufferOffset;
    let frames = 0;
    for (let i = 0; i < n; i++) {
      const buffer = buffers[i]!;
      const offset = at[i]! - first - buffer * bytes;
      const size = length[i]!;
      const more = next[i]!;
      if (!(size >= 1 && offset >= 0 && offset + size <= bytes) || (more !== 0 && i === n - 1)) {
        this.rejected += n;
        return 0;
      }
      const d = entries + ((this.#txIndex + i) & mask) * 4;
      u32[d] = buffer;
      u32[d + 1] = offset;
      u32[d + 2] = size;
      u32[d + 3] = more & 1;
      if (more === 0) frames++;
    }
    this.#freeIndex = (this.#freeIndex + n) >>> 0;
    this.#txIndex = (this.#txIndex + n) >>> 0;
    u32[this.#freeConsumer] = this.#freeIndex;
    this.sent += frames;
    // Publishes, and is the full barrier before the switch's wish is read.
    Atomics.store(u32, this.#txProducer, this.#txIndex);
    if (this.#kickFd >= 0 && Atomics.load(u32, this.#txWake) !== 0) {
      this.kicks++;
      signal(this.#kickFd);
    }
    return n;
  }

  /** Asks the switch to call when it gives empty buffers. @returns true when some wait already. */
  arm(): boolean {
    if (!this.#open) return false;
    Atomics.store(this.#u32, this.#freeWake, 1);
    return this.#waiting() > 0;
  }

  disarm(): void {
    if (this.#open) Atomics.store(this.#u32, this.#freeWake, 0);
  }

  #waiting(): number {
    const waiting = (Atomics.load(this.#u32, this.#freeProducer) - this.#freeIndex) >>> 0;
    if (waiting <= this.#mask + 1) return waiting;
    this.stale = true;
    return 0;
  }
}
