// hot
/**
 * Queues whose used rings are logged for a migration. They stand around the queues proper, which need not know: where a
 * queue was before a call, and is after it, says what was written in between.
 */
import type { PacketBatch } from '#datapath/packet/batch.ts';
import type { RxQueue, TxQueue } from '#ports/port.ts';
import type { PageLog } from './dirty-log.ts';
import { DESC_BYTES, STATE_CURSOR } from './vring.ts';
import { ENTRY_MASK, EVENT_BYTES } from './vring-packed.ts';

const CURSOR = STATE_CURSOR;
const MASK = ENTRY_MASK;
const DESC = DESC_BYTES;
const EVENT = EVENT_BYTES;
/** A used element (virtio 1.2 section 2.7.8). */
const ELEMENT = 8;

/** Where the log wants the used part of a ring to be, guest physical, and the ring's row of shared state. */
export interface LoggedRing {
  readonly packed: boolean;
  readonly size: number;
  readonly eventIdx: boolean;
  /** The used ring; of a packed ring, the device's event suppression. */
  readonly usedAt: number;
  /** Of a packed ring: its descriptors. */
  readonly descriptorsAt: number;
  readonly state: Int32Array;
}

class RingLog {
  readonly #log: PageLog;
  readonly #ring: LoggedRing;

  constructor(log: PageLog, ring: LoggedRing) {
    this.#log = log;
    this.#ring = ring;
  }

  get place(): number {
    return this.#ring.state[CURSOR]!;
  }

  /** Entries from place `before` to where the ring is now were given back. */
  used(before: number): void {
    const { packed, size, usedAt, descriptorsAt, state } = this.#ring;
    const now = state[CURSOR]!;
    if (now === before) return;
    const first = packed ? before & MASK : before & (size - 1);
    const end = packed ? now & MASK : now & (size - 1);
    const from = packed ? descriptorsAt : usedAt + 4;
    const bytes = packed ? DESC : ELEMENT;
    if (end > first) {
      this.#log.mark(from + first * bytes, (end - first) * bytes);
    } else {
      this.#log.mark(from + first * bytes, (size - first) * bytes);
      if (end > 0) this.#log.mark(from, end * bytes);
    }
    if (!packed) this.#log.mark(usedAt + 2, 2);
  }

  /** Entries of any places may have been written. */
  tried(): void {
    const { packed, size, usedAt } = this.#ring;
    if (!packed) this.#log.mark(usedAt, 4 + ELEMENT * size);
  }

  /** The wish for notifications was written. */
  event(): void {
    const { packed, size, eventIdx, usedAt } = this.#ring;
    if (packed) this.#log.mark(usedAt, EVENT);
    else if (eventIdx) this.#log.mark(usedAt + 4 + ELEMENT * size, 2);
    else this.#log.mark(usedAt, 2);
  }
}

export class LoggedRx implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #inner: RxQueue;
  readonly #log: RingLog;

  constructor(inner: RxQueue, log: PageLog, ring: LoggedRing) {
    this.portNo = inner.portNo;
    this.queue = inner.queue;
    this.kickFd = inner.kickFd;
    this.#inner = inner;
    this.#log = new RingLog(log, ring);
  }

  poll(batch: PacketBatch, whole = false): number {
    const before = this.#log.place;
    const n = this.#inner.poll(batch, whole);
    // A first poll after a sleep turns notifications off, and chains without a packet are given back at once.
    if (n > 0) this.#log.event();
    this.#log.used(before);
    return n;
  }

  complete(): void {
    const before = this.#log.place;
    this.#inner.complete();
    this.#log.used(before);
  }

  arm(): boolean {
    const waiting = this.#inner.arm();
    this.#log.event();
    return waiting;
  }

  disarm(): void {
    this.#inner.disarm();
    this.#log.event();
  }

  rest(): void {
    this.#inner.rest?.();
  }
}

export class LoggedTx implements TxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  readonly journaled: boolean;
  readonly #inner: TxQueue;
  readonly #log: RingLog;

  constructor(inner: TxQueue, log: PageLog, ring: LoggedRing) {
    this.portNo = inner.portNo;
    this.queue = inner.queue;
    this.shared = inner.shared;
    this.journaled = inner.journaled === true;
    this.#inner = inner;
    this.#log = new RingLog(log, ring);
    // A queue that is made says that it wants no kicks.
    this.#log.event();
  }

  lock(): boolean {
    return this.#inner.lock();
  }

  unlock(): void {
    this.#inner.unlock();
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const sent = this.#inner.push(batch, list, n);
    // Buffers that were looked at and left lie in the used ring already, where nothing shows them.
    if (sent < n) this.#log.tried();
    return sent;
  }

  publish(): void {
    const before = this.#log.place;
    this.#inner.publish();
    this.#log.used(before);
  }
}
