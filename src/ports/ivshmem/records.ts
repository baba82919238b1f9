/**
 * The switch's own record of a pool: who holds each buffer, and its places in all rings. It lies in memory that no peer can
 * map, and nothing that it says is ever read back from the pool.
 *
 * A buffer is in exactly one of these states:
 * | state | B_HOLDERS | B_OWNER | on the stack |
 * |---|---|---|---|
 * | free | 0 | <= 0 | yes |
 * | held by a client for sending | 0 | ownerId(slot, queue) | no |
 * | held by the switch, during a burst | bit 0, and the bits of slots it was passed to | <= 0 | no |
 * | received by clients | a bit per slot | <= 0 | no |
 *
 * Who may change what. A buffer held for sending: the worker that polls that queue; it alone takes such a buffer, without a
 * lock. Everything else about buffers, and the stack: whoever has C_LOCK. Q_ words: the one who polls the queue (first
 * line), the one who sends on it (second line); both only between two bursts' ends. The main thread works on a slot only while
 * it is detached from all workers, and on buffers under the lock.
 *
 * Why one lock and plain words under it: an atomic operation is a call in V8, 10 to 30 times the cost of a plain one. So they
 * are done per burst, not per packet. A single worker keeps the lock for its whole burst; several take it for the two moments
 * of a burst at which buffers change hands.
 */
import type { PoolGeometry } from './layout.ts';

// Control words; a cache line each.
/** 1 while somebody works on the buffers. */
export const C_LOCK = 0;
/** Free buffers on the stack. */
export const C_FREE = 16;
export const CONTROL_WORDS = 32;

// Per queue pair. First line: rx.
/** Entries taken from the tx ring. */
export const Q_TX = 0;
/** Entries put on the free ring. */
export const Q_FREE = 1;
/** Buffers that the client holds for sending. */
export const Q_HELD = 2;
// Second line: tx.
/** Entries put on the rx ring. */
export const Q_RX = 16;
/** Entries taken from the return ring. */
export const Q_RETURN = 17;
/** Buffers that the client has received and not returned. */
export const Q_OUT = 18;
/** 1 while a worker sends on the queue; used where several may. */
export const Q_LOCK = 19;
/** ERROR_ number of layout.ts, when the client broke the queue; read by the main thread. */
export const Q_BROKEN = 20;
export const QUEUE_WORDS = 32;

// Per buffer.
/** Bit 0: the switch; bit s: slot s has received it. */
export const B_HOLDERS = 0;
/** Above 0: held for sending, see `ownerId`. Below 0: -(n + 1), slot n of the batch has had its edited header written into it. */
export const B_OWNER = 1;
/** While the switch holds it: place of the frame, offset << 16 | bytes. */
export const B_PLACE = 2;
/** While the switch holds it: number + 1 of the next buffer of the frame, 0 at its end. */
export const B_NEXT = 3;
export const BUFFER_WORDS = 4;

export const SWITCH_BIT = 1;

/** Names a queue pair in B_OWNER. */
export const ownerId = (slot: number, queue: number): number => slot * 8 + queue + 1;
/** Slot in a B_OWNER above 0. */
export const ownerSlot = (owner: number): number => (owner - 1) >>> 3;

const queueWords = (g: PoolGeometry): number => g.slots * g.queues * QUEUE_WORDS;

/** Bytes of a pool's records. */
export const recordsBytes = (g: PoolGeometry): number =>
  4 * (CONTROL_WORDS + queueWords(g) + g.bufferCount * (1 + BUFFER_WORDS));

/** Views of a pool's records; each thread makes its own. */
export class PoolRecords {
  readonly memory: SharedArrayBuffer;
  readonly control: Int32Array;
  /** Numbers of free buffers: stack[0 .. control[C_FREE] - 1]. */
  readonly stack: Int32Array;
  readonly buffers: Int32Array;
  readonly #geometry: PoolGeometry;

  constructor(memory: SharedArrayBuffer, g: PoolGeometry) {
    this.memory = memory;
    this.#geometry = g;
    const buffersAt = 4 * (CONTROL_WORDS + queueWords(g));
    this.control = new Int32Array(memory, 0, CONTROL_WORDS);
    this.buffers = new Int32Array(memory, buffersAt, g.bufferCount * BUFFER_WORDS);
    this.stack = new Int32Array(memory, buffersAt + 4 * g.bufferCount * BUFFER_WORDS, g.bufferCount);
  }

  /** The Q_ words of a queue pair. */
  queue(slot: number, queue: number): Int32Array {
    const row = slot * this.#geometry.queues + queue;
    return new Int32Array(this.memory, 4 * (CONTROL_WORDS + row * QUEUE_WORDS), QUEUE_WORDS);
  }
}

/** Tries to take the lock. */
export const tryLock = (control: Int32Array): boolean => Atomics.compareExchange(control, C_LOCK, 0, 1) === 0;

/**
 * Takes the lock, however long that takes: its holders are threads of the switch, which keep it for microseconds and wait for
 * nothing meanwhile.
 */
export const lock = (control: Int32Array): void => {
  while (!tryLock(control)) while (Atomics.load(control, C_LOCK) !== 0);
};

export const unlock = (control: Int32Array): void => {
  Atomics.store(control, C_LOCK, 0);
};
