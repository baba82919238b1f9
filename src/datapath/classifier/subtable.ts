/**
 * A subtable: the megaflows of one port that share one mask, as an open-addressing hash table in one Int32Array.
 *
 * An entry (entry.ts) is a row of 2^shift words. Entries are found by linear probing; load stays at or under one half, so
 * that most lookups end at the first row.
 *
 * ## Deletion
 * No tombstones: the rows behind a freed one are shifted back (Knuth, vol. 3, algorithm 6.4R), so lookups never grow slower
 * with churn.
 *
 * ## Growth
 * A full table does not stop the worker: the new table starts empty, the old one is kept beside it, and every change (and
 * every burst, by `drain`) moves a few rows over. A lookup that fails in the new table looks in the old one. Moved rows stay
 * behind in the old table, where nothing finds them first; the walk starts under a free row and goes down, so that rows
 * shifted back by a deletion never pass it by.
 *
 * Invariant: `home[id]` is twice the word position of the entry of flow id, plus the parity of the table that it is in: the
 * parity of `table` is `parity`, that of `old` is the other one. Growth flips `parity`, and with it no home has to change.
 */
import { KEY_WORDS } from '#contract/flow-key.ts';
import { mapAnonymous } from '#contract/os.ts';
import { ENTRY_BYTES, ENTRY_ID, ENTRY_KEY, ENTRY_TALLY, ENTRY_VERDICT } from './entry.ts';
import type { FlowStats } from './flow-stats.ts';
import { HASH_SEED, hashFinish, hashWord } from './hash.ts';
import { CompactMask } from './mask.ts';

const MIN_ROWS = 16;
const NO_TABLE = new Int32Array(32);

/** Rows that a change moves over while the table grows. At least 2 are needed to be done before the next growth. */
const DRAIN_STEP = 8;

/** Tables from here on get pages of their own: large ones (transparent huge pages), so that lookups do not miss the TLB. */
const MAP_BYTES = 2 << 20;

const makeTable = (rows: number, shift: number): Int32Array =>
  (rows << shift) * 4 < MAP_BYTES ? new Int32Array(rows << shift) : new Int32Array(mapAnonymous((rows << shift) * 4));

/** What all subtables of a flow table share. */
export interface Shared {
  /** By flow id. */
  home: Int32Array;
  readonly stats: FlowStats;
}

export class Subtable {
  readonly port: number;
  /** Place in the flow table's list of subtables. */
  readonly index: number;
  /** KEY_WORDS words, as the flows gave it. */
  readonly mask: Uint32Array;
  readonly words: Int32Array;
  readonly bits: Int32Array;
  readonly width: number;
  /** log2 of the words of an entry. */
  readonly shift: number;
  count = 0;
  /** Something was hit since the sweep last began. */
  touched = false;
  /** Hits since they were last weighed; halved at every ranking. */
  hits = 0;
  table: Int32Array;
  /** Rows of `table` less one. */
  rowMask = MIN_ROWS - 1;
  /** The table before the last growth, while `draining`. */
  old: Int32Array = NO_TABLE;
  oldRowMask = 0;
  draining = false;
  parity = 0;
  #cursor = 0;
  #drainLeft = 0;
  #foundInOld = false;
  readonly #shared: Shared;
  readonly #key: Int32Array;

  constructor(port: number, index: number, mask: Uint32Array, compared: Uint32Array, shared: Shared) {
    const compact = new CompactMask(compared);
    this.port = port;
    this.index = index;
    this.mask = mask;
    this.words = compact.words;
    this.bits = compact.bits;
    this.width = compact.words.length;
    this.shift = this.width <= 4 ? 3 : this.width <= 12 ? 4 : this.width <= 28 ? 5 : 6;
    if (ENTRY_KEY + this.width > 1 << this.shift) throw new RangeError(`mask of ${compact.used} words`);
    this.#shared = shared;
    this.#key = new Int32Array(this.width);
    this.table = makeTable(MIN_ROWS, this.shift);
  }

  /** What `insert` took the place of. */
  replacedVerdict = 0;

  /**
   * Adds a flow; where one with the same key is, it takes its place (its verdict is left in `replacedVerdict`).
   * @returns the id that was there before, or -1.
   */
  insert(id: number, key: Uint32Array, verdict: number): number {
    this.drain(DRAIN_STEP);
    const masked = this.#key;
    for (let i = 0; i < this.width; i++) masked[i] = key[this.words[i]!]! & this.bits[i]!;
    const at = this.#find(masked);
    if (at >= 0) {
      const table = this.#foundInOld ? this.old : this.table;
      const previous = table[at]! - 1;
      this.replacedVerdict = table[at + ENTRY_VERDICT]!;
      if (previous !== id) this.#shared.stats.spill(table, at);
      table[at] = id + 1;
      table[at + ENTRY_VERDICT] = verdict;
      this.#shared.home[id] = at * 2 + (this.#foundInOld ? this.parity ^ 1 : this.parity);
      return previous;
    }
    if ((this.count + 1) * 2 > this.rowMask + 1) this.#resize((this.rowMask + 1) * 2);
    this.#place(id, verdict, masked, 0);
    this.count++;
    return -1;
  }

  /** Takes a flow that is here out. @returns its verdict. */
  remove(id: number): number {
    const home = this.#shared.home[id]!;
    const inOld = (home & 1) !== this.parity;
    const at = home >>> 1;
    if (!inOld && this.draining) {
      // The row that was moved over is still in the old table and would come back to light.
      for (let i = 0; i < this.width; i++) this.#key[i] = this.table[at + ENTRY_KEY + i]!;
      const stale = this.#locate(this.old, this.oldRowMask, this.#key);
      if (stale >= 0) this.#free(this.old, this.oldRowMask, stale);
    }
    const verdict = this.verdict(id);
    this.#shared.stats.spill(inOld ? this.old : this.table, at);
    if (inOld) this.#free(this.old, this.oldRowMask, at);
    else this.#free(this.table, this.rowMask, at);
    this.count--;
    this.drain(DRAIN_STEP);
    const rows = this.rowMask + 1;
    if (rows > MIN_ROWS && this.count * 16 < rows && !this.draining) this.#resize(Math.max(MIN_ROWS, rows >> 2));
    return verdict;
  }

  /** Carries the statistics of rows from .. from + rows - 1 over to the lane. Rows still in the old table wait. */
  sweep(from: number, rows: number): void {
    const table = this.table;
    const stats = this.#shared.stats;
    const shift = this.shift;
    const to = Math.min(from + rows, this.rowMask + 1);
    for (let row = from; row < to; row++) {
      if (table[(row << shift) + ENTRY_TALLY] !== 0) stats.spill(table, row << shift);
    }
  }

  /** Verdict of a flow that is here. */
  verdict(id: number): number {
    const home = this.#shared.home[id]!;
    return ((home & 1) === this.parity ? this.table : this.old)[(home >>> 1) + ENTRY_VERDICT]!;
  }

  /** Whether a flow that is here has this key. */
  hasKey(id: number, key: Uint32Array): boolean {
    const home = this.#shared.home[id]!;
    const table = (home & 1) === this.parity ? this.table : this.old;
    for (let i = 0; i < this.width; i++) {
      if (((key[this.words[i]!]! & this.bits[i]!) | 0) !== table[(home >>> 1) + ENTRY_KEY + i]) return false;
    }
    return true;
  }

  /** Reads back the masked key of a flow that is here into KEY_WORDS words. */
  readKey(id: number, into: Uint32Array): void {
    const home = this.#shared.home[id]!;
    const table = (home & 1) === this.parity ? this.table : this.old;
    const at = (home >>> 1) + ENTRY_KEY;
    into.fill(0, 0, KEY_WORDS);
    for (let i = 0; i < this.width; i++) if (this.bits[i] !== 0) into[this.words[i]!] = table[at + i]!;
  }

  #find(key: Int32Array): number {
    this.#foundInOld = false;
    const at = this.#locate(this.table, this.rowMask, key);
    if (at >= 0 || !this.draining) return at;
    this.#foundInOld = true;
    return this.#locate(this.old, this.oldRowMask, key);
  }

  #hash(source: Int32Array, from: number): number {
    let hash = HASH_SEED;
    for (let i = 0; i < this.width; i++) hash = hashWord(hash, source[from + i]!);
    return hashFinish(hash);
  }

  /** @returns word position of the entry with this key, or -1. */
  #locate(table: Int32Array, rowMask: number, key: Int32Array): number {
    const width = this.width;
    for (let row = this.#hash(key, 0) & rowMask; ; row = (row + 1) & rowMask) {
      const at = row << this.shift;
      if (table[at + ENTRY_ID] === 0) return -1;
      let i = 0;
      while (i < width && table[at + ENTRY_KEY + i] === key[i]) i++;
      if (i === width) return at;
    }
  }

  /** Writes an entry into the first free row of the new table. @returns its position. */
  #place(id: number, verdict: number, source: Int32Array, from: number): number {
    const table = this.table;
    let at = (this.#hash(source, from) & this.rowMask) << this.shift;
    const wrap = ((this.rowMask + 1) << this.shift) - 1;
    while (table[at] !== 0) at = (at + (1 << this.shift)) & wrap;
    table[at] = id + 1;
    table[at + ENTRY_VERDICT] = verdict;
    for (let i = 0; i < this.width; i++) table[at + ENTRY_KEY + i] = source[from + i]!;
    this.#shared.home[id] = at * 2 + this.parity;
    return at;
  }

  /** Empties a row and shifts back what was displaced behind it. */
  #free(table: Int32Array, rowMask: number, at: number): void {
    const size = 1 << this.shift;
    const parity = table === this.old ? this.parity ^ 1 : this.parity;
    let hole = at >>> this.shift;
    for (let row = (hole + 1) & rowMask; table[row << this.shift] !== 0; row = (row + 1) & rowMask) {
      const from = row << this.shift;
      const wanted = this.#hash(table, from + ENTRY_KEY) & rowMask;
      if (((row - wanted) & rowMask) < ((row - hole) & rowMask)) continue;
      const id = table[from]! - 1;
      const to = hole << this.shift;
      table.copyWithin(to, from, from + size);
      // A row left behind in the old table is not the flow's home.
      if (this.#shared.home[id] === from * 2 + parity) this.#shared.home[id] = to * 2 + parity;
      hole = row;
    }
    table.fill(0, hole << this.shift, (hole + 1) << this.shift);
  }

  #resize(rows: number): void {
    if (this.draining) this.drain(this.#drainLeft);
    this.old = this.table;
    this.oldRowMask = this.rowMask;
    this.table = makeTable(rows, this.shift);
    this.rowMask = rows - 1;
    this.parity ^= 1;
    let free = 0;
    while (this.old[free << this.shift] !== 0) free++;
    this.#cursor = free;
    this.#drainLeft = this.oldRowMask;
    this.draining = true;
    this.drain(DRAIN_STEP);
  }

  /** Moves up to `rows` rows to the new table, while there is an old one. */
  drain(rows: number): void {
    if (!this.draining) return;
    const old = this.old;
    for (let n = Math.min(rows, this.#drainLeft); n > 0; n--) {
      this.#cursor = (this.#cursor - 1) & this.oldRowMask;
      this.#drainLeft--;
      const at = this.#cursor << this.shift;
      const id = old[at]! - 1;
      // A row that a deletion shifted back under the walk was moved before: its home says so.
      if (id < 0 || this.#shared.home[id] !== at * 2 + (this.parity ^ 1)) continue;
      const to = this.#place(id, old[at + ENTRY_VERDICT]!, old, at + ENTRY_KEY);
      this.table[to + ENTRY_TALLY] = old[at + ENTRY_TALLY]!;
      this.table[to + ENTRY_BYTES] = old[at + ENTRY_BYTES]!;
      old[at + ENTRY_TALLY] = 0;
      old[at + ENTRY_BYTES] = 0;
    }
    if (this.#drainLeft === 0) {
      this.draining = false;
      this.old = NO_TABLE;
      this.oldRowMask = 0;
    }
  }
}
