// hot
/**
 * Descriptor chains (virtio 1.2 section 2.7.5), direct and indirect, into pieces of mapped memory.
 *
 * The guest may change a descriptor while it is read: each word is read once. It may also make chains endless: every loop
 * has a budget. A descriptor that crosses two regions is split. Arguments and results are small integers, addresses pass
 * through typed arrays: nothing is allocated even where a call is not inlined.
 *
 * Not supported: an indirect table that crosses two rows of an address space or is not 4-byte aligned; it counts as a bad descriptor.
 */
import { type AddressSpace, TABLE_DELTA, TABLE_END, TABLE_STRIDE } from './guest-memory.ts';
import { DESC_INDIRECT, DESC_NEXT, DESC_WRITE } from './vring.ts';

const NEXT = DESC_NEXT;
const WRITE = DESC_WRITE;
const INDIRECT = DESC_INDIRECT;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;

/** Pieces of one packet's chains, at most; also the longest indirect table in descriptors. */
export const MAX_PIECES = 2048;

export const WALK_OK = 0;
/** An address outside memory, a wrong direction, an empty descriptor, or a senseless indirect table. */
export const WALK_BAD = 1;
/** More than MAX_PIECES pieces. */
export const WALK_LONG = 2;
/** A next field outside the table, or more descriptors than there are: the chain loops. */
export const WALK_LOOP = 3;
/** An address whose translation is not here yet; it has been asked for. */
export const WALK_WAIT = 4;

const OK = WALK_OK;
const BAD = WALK_BAD;
const LONG = WALK_LONG;
const LOOP = WALK_LOOP;
const PIECES = MAX_PIECES;
const NO_WORDS = new Uint32Array(0);

export class ChainWalker {
  /** Where buffers lie, and where indirect tables do. */
  readonly memory: AddressSpace;
  protected readonly tables: AddressSpace;
  /** Absolute address and length of every piece. */
  readonly pieceAddress = new Float64Array(MAX_PIECES);
  readonly pieceLength = new Int32Array(MAX_PIECES);
  count = 0;
  /** Bytes of the chain walked last; at most 2^31 - 1. */
  bytes = 0;
  /** Address of the range that `add` and `findTable` look at. */
  protected readonly at = new Float64Array(1);
  protected tableWords: Uint32Array = NO_WORDS;

  constructor(memory: AddressSpace, tables = memory) {
    this.memory = memory;
    this.tables = tables;
  }

  /** Forgets all pieces. */
  clear(): void {
    this.count = 0;
  }

  /**
   * Appends the pieces of the chain that starts at `head` (below the table's size).
   * @param direction DESC_WRITE for buffers that the switch fills, 0 for those it reads.
   * @returns a WALK_ result; not WALK_OK: some pieces may have been appended.
   */
  walk(desc: Uint32Array, size: number, head: number, direction: number): number {
    this.bytes = 0;
    let at = head;
    for (let step = 0; step < size; step++) {
      const d = at << 2;
      const low = desc[d]!;
      const high = desc[d + 1]!;
      const length = desc[d + 2]!;
      const last = desc[d + 3]!;
      const flags = last & 0xffff;
      this.at[0] = high * 4294967296 + low;
      if ((flags & INDIRECT) !== 0) {
        if ((flags & NEXT) !== 0) return BAD;
        return this.#walkIndirect(length, direction);
      }
      if ((flags & WRITE) !== direction) return BAD;
      const result = this.add(length > 0x3fffffff ? 0x3fffffff : length);
      if (result !== OK) return result;
      if ((flags & NEXT) === 0) return OK;
      at = last >>> 16;
      if (at >= size) return LOOP;
    }
    return LOOP;
  }

  /** The table's address is in `at`. Section 2.7.5.3: no nesting, indices within the table, whole descriptors. */
  #walkIndirect(tableBytes: number, direction: number): number {
    const entries = tableBytes >>> 4;
    if (entries === 0 || entries > PIECES || (tableBytes & 15) !== 0) return BAD;
    const first = this.findTable(tableBytes);
    if (first < 0) return -first;
    const words = this.tableWords;
    let at = 0;
    for (let step = 0; step < entries; step++) {
      const d = first + at * 4;
      const low = words[d]!;
      const high = words[d + 1]!;
      const length = words[d + 2]!;
      const last = words[d + 3]!;
      const flags = last & 0xffff;
      if ((flags & INDIRECT) !== 0 || (flags & WRITE) !== direction) return BAD;
      this.at[0] = high * 4294967296 + low;
      const result = this.add(length > 0x3fffffff ? 0x3fffffff : length);
      if (result !== OK) return result;
      if ((flags & NEXT) === 0) return OK;
      at = last >>> 16;
      if (at >= entries) return LOOP;
    }
    return LOOP;
  }

  /** The indirect table of `bytes` at `at`, in `tableWords`. @returns the index of its first word, or a negated WALK_ result. */
  protected findTable(bytes: number): number {
    const space = this.tables;
    const at = this.at[0]!;
    space.at[0] = at;
    const row = space.find();
    if (row < 0) return -space.absent;
    const first = (at + space.table[row * STRIDE + DELTA]! - space.base[row]!) / 4;
    if (at + bytes > space.table[row * STRIDE + END]! || first !== Math.floor(first)) return -BAD;
    this.tableWords = space.u32[row]!;
    return first;
  }

  /** Appends [`at`, `at` + length), split where regions meet. */
  protected add(length: number): number {
    if (length === 0) return BAD;
    const space = this.memory;
    const table = space.table;
    let left = length;
    // A row more than there are can only be asked for by a range that leaves them all.
    for (let turn = space.most; turn >= 0 && left > 0; turn--) {
      const at = this.at[0]!;
      space.at[0] = at;
      const region = space.find();
      if (region < 0) return space.absent;
      if (this.count === PIECES) return LONG;
      const room = table[region * STRIDE + END]! - at;
      const take = room < left ? room | 0 : left;
      this.pieceAddress[this.count] = at + table[region * STRIDE + DELTA]!;
      this.pieceLength[this.count] = take;
      this.count++;
      this.at[0] = at + take;
      left -= take;
    }
    if (left > 0) return BAD;
    if (this.bytes + length > 0x3fffffff) return LONG;
    this.bytes += length;
    return OK;
  }
}
