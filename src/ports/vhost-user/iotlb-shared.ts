/**
 * The part of a device IOTLB that workers see: translations, what has been refused, and what workers ask for.
 *
 * | part | writer | reader |
 * |---|---|---|
 * | rows, COUNT, refused; guarded by SEQ, odd while they change | main thread | workers, who look again when SEQ moved meanwhile |
 * | EPOCH: moves when something was taken away | main thread, after taking it | workers, on entering a burst: what they remember is void |
 * | INSIDE, per worker: odd within a burst | that worker | main thread: once it was even, or moved on, nothing of before is in use |
 * | PAUSED, per ring: 1 while its own addresses have no translation | main thread | workers, within a burst |
 * | ASKED, TAKEN and asks, per worker: a ring of keys | the worker writes asks and ASKED, the main thread TAKEN | both |
 *
 * A key is a page of 4 KiB and what is wanted of it, as one double: page * 4 + IOTLB_READ or IOTLB_WRITE.
 */
import { MAX_VRINGS } from './wire.ts';

export const IOTLB_PAGE = 4096;
/** Translations of a port, at most. */
export const MAX_ENTRIES = 4096;
/** Workers that a port behind an IOMMU can have. */
export const MAX_IOTLB_WORKERS = 128;
/** Keys that one worker may have waiting. */
export const MAX_ASKS = 256;
export const MAX_REFUSED = 16;

export const SEQ = 0;
export const EPOCH = 1;
export const COUNT = 2;
export const INSIDE = 16;
export const ASKED = INSIDE + MAX_IOTLB_WORKERS;
export const TAKEN = ASKED + MAX_IOTLB_WORKERS;
export const PAUSED = TAKEN + MAX_IOTLB_WORKERS;
const WORDS = PAUSED + MAX_VRINGS;

/** Fields of a row: IOVAs from START to before END are bytes from OFFSET on of a region. */
export const ROW_START = 0;
export const ROW_END = 1;
export const ROW_REGION = 2;
export const ROW_OFFSET = 3;
export const ROW_PERMISSION = 4;
export const ROW_DOUBLES = 5;
/** A change may need two rows more before one is evicted, and a worker's search may end behind the last. */
export const ROWS = MAX_ENTRIES + 3;

export const keyOf = (at: number, permission: number): number => Math.floor(at / IOTLB_PAGE) * 4 + permission;

/** Views of one shared buffer. */
export class IotlbShared {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly rows: Float64Array;
  readonly refused: Float64Array;
  readonly asks: Float64Array;

  /** @param buffer that of another thread; without one, a new one is made. */
  constructor(buffer?: SharedArrayBuffer) {
    const doubles = ROWS * ROW_DOUBLES + MAX_REFUSED + MAX_IOTLB_WORKERS * MAX_ASKS;
    this.buffer = buffer ?? new SharedArrayBuffer(WORDS * 4 + doubles * 8);
    this.words = new Int32Array(this.buffer, 0, WORDS);
    let at = WORDS * 4;
    const next = (length: number): Float64Array => {
      const view = new Float64Array(this.buffer, at, length);
      at += length * 8;
      return view;
    };
    this.rows = next(ROWS * ROW_DOUBLES);
    this.refused = next(MAX_REFUSED);
    this.asks = next(MAX_IOTLB_WORKERS * MAX_ASKS);
  }
}
