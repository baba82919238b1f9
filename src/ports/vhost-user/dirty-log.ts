// hot
/**
 * The dirty log of a live migration (vhost-user.rst, "Migration"): a bit map in the front end's memory, one bit per page of
 * guest physical memory from address 0 on. Whoever writes to a page sets its bit **after** the write; the front end takes
 * bits off, then reads the pages.
 *
 * Pages of rx buffers are found in the rows that the burst copy has just done, whatever kind of ring listed them. Bits are
 * set by atomic operations, since others set theirs in the same bytes; being locked, they also come after the copies. A bit
 * that is set already is set again all the same: the front end may just be taking it off.
 */
import type { CopyLog } from '#datapath/packet/batch.ts';
import { type GuestMemory, TABLE_DELTA, TABLE_END, TABLE_START, TABLE_STRIDE } from './guest-memory.ts';
import { LOG_PAGE } from './wire.ts';

const PAGE = LOG_PAGE;
const START = TABLE_START;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;
const NO_TABLE = new Float64Array(0);

/** Who is told of writes to guest memory. */
export interface PageLog {
  /** Marks the pages of [at, at + bytes). */
  mark(at: number, bytes: number): void;
}

export class DirtyLog implements CopyLog, PageLog {
  readonly #bits: Uint8Array;
  readonly #table: Float64Array;
  readonly #regions: number;

  /** @param buffer the mapped log. @param memory where copies go; left out by who marks by address only. */
  constructor(buffer: ArrayBuffer, memory?: GuestMemory) {
    this.#bits = new Uint8Array(buffer);
    this.#table = memory?.table ?? NO_TABLE;
    this.#regions = memory?.count ?? 0;
  }

  /** Marks the pages of [at, at + bytes), guest physical. What lies behind the log's end is left out. */
  mark(at: number, bytes: number): void {
    const bits = this.#bits;
    const last = Math.floor((at + bytes - 1) / PAGE);
    for (let page = Math.floor(at / PAGE); page <= last; page++) {
      const byte = Math.floor(page / 8);
      if (byte >= bits.length) return;
      Atomics.or(bits, byte, 1 << (page - byte * 8));
    }
  }

  /** The copies rows[0 .. count * 3 - 1] have been done: marks what they wrote of this guest's memory. */
  copied(rows: Float64Array, count: number): void {
    const table = this.#table;
    const regions = this.#regions;
    let marked = -1;
    for (let row = 0; row < count; row++) {
      const to = rows[3 * row]!;
      const bytes = rows[3 * row + 2]!;
      if (bytes === 0) continue;
      for (let r = 0; r < regions; r++) {
        const delta = table[r * STRIDE + DELTA]!;
        const at = to - delta;
        if (at < table[r * STRIDE + START]! || at >= table[r * STRIDE + END]!) continue;
        // Small frames share pages: one bit per burst and page is enough, as all its copies are done.
        const page = Math.floor(at / PAGE);
        const last = Math.floor((at + bytes - 1) / PAGE);
        if (page === marked && last === marked) break;
        this.mark(at, bytes);
        marked = last;
        break;
      }
    }
  }
}
