// hot
/** The return ring of a queue pair: received buffers that come back. Emptied by the worker that sends on the queue. */
import { type PortCounter, portCounter } from '#contract/catalogue.ts';
import type { PortCounters } from '#ports/port.ts';
import { ERROR_RETURN_INDEX, R_CONSUMER, R_PRODUCER, RING_RETURN, ringEntriesAt, ringHeaderAt } from './layout.ts';
import { B_OWNER, BUFFER_WORDS, C_FREE, Q_BROKEN, Q_LOCK, Q_OUT, Q_RETURN } from './records.ts';
import type { PoolView } from './view.ts';

const OWNER = B_OWNER;
const ROW = BUFFER_WORDS;
const FREE = C_FREE;
const BROKEN = Q_BROKEN;
const LOCK = Q_LOCK;
const OUT = Q_OUT;
const CURSOR = Q_RETURN;
const PRODUCER = R_PRODUCER >> 2;
const CONSUMER = R_CONSUMER >> 2;
const INDEX_ERROR = ERROR_RETURN_INDEX;
/** Entries of one look, at most: more than a burst can have sent since the last. */
const MAX_LOOK = 1024;
const counter = (name: PortCounter): number => portCounter(name);
const BAD_RETURNS = counter('bad_returns');

export class ReturnRing {
  readonly #view: PoolView;
  readonly #row: Int32Array;
  readonly #shared: boolean;
  readonly #header: Int32Array;
  readonly #entries: Uint32Array;
  readonly #bit: number;
  readonly #counters: PortCounters;

  /**
   * @param at byte offset of the queue pair. @param row its Q_ words.
   * @param shared other workers send on this queue too.
   */
  constructor(view: PoolView, slot: number, at: number, row: Int32Array, shared: boolean, counters: PortCounters) {
    const { entries } = view.geometry;
    this.#view = view;
    this.#row = row;
    this.#shared = shared;
    this.#header = new Int32Array(view.memory, at + ringHeaderAt(RING_RETURN), 32);
    this.#entries = new Uint32Array(view.memory, at + ringEntriesAt(RING_RETURN, entries), entries);
    this.#bit = 1 << slot;
    this.#counters = counters;
  }

  /** `drain`, unless another worker sends on the queue at the moment. Under the pool's lock. */
  look(): void {
    if (!this.#shared) {
      this.drain();
    } else if (Atomics.compareExchange(this.#row, LOCK, 0, 1) === 0) {
      this.drain();
      Atomics.store(this.#row, LOCK, 0);
    }
  }

  /**
   * Takes buffers that came back; those that nobody else holds are free again. Under the pool's lock and, of a shared queue,
   * the queue's.
   */
  drain(): void {
    const row = this.#row;
    const cursor = row[CURSOR]!;
    const waiting = (Atomics.load(this.#header, PRODUCER) - cursor) >>> 0;
    if (waiting === 0 || row[BROKEN] !== 0) return;
    const entries = this.#entries;
    if (waiting > entries.length) {
      row[BROKEN] = INDEX_ERROR;
      return;
    }
    const { control, stack, buffers } = this.#view.records;
    const count = stack.length;
    const mask = entries.length - 1;
    const bit = this.#bit;
    const n = Math.min(waiting, MAX_LOOK);
    let free = control[FREE]!;
    let good = 0;
    for (let i = 0; i < n; i++) {
      const buffer = entries[(cursor + i) & mask]!;
      if (buffer >= count) continue;
      const at = buffer * ROW;
      const holders = buffers[at]!;
      if ((holders & bit) === 0) continue;
      const left = holders & ~bit;
      buffers[at] = left;
      good++;
      if (left === 0) {
        buffers[at + OWNER] = 0;
        stack[free++] = buffer;
      }
    }
    control[FREE] = free;
    row[CURSOR] = (cursor + n) | 0;
    row[OUT] = row[OUT]! - good;
    this.#header[CONSUMER] = row[CURSOR]!;
    if (good < n) {
      const slots = this.#counters.slots;
      const base = this.#counters.base;
      slots[base + BAD_RETURNS] = slots[base + BAD_RETURNS]! + (n - good);
    }
  }
}
