// hot
/**
 * Chains of packed rings (virtio 1.2 sections 2.8.6 and 2.8.7): consecutive entries, or one entry that names an indirect
 * table of consecutive descriptors, into pieces of mapped memory.
 *
 * As in chain.ts each word is read once and every loop has a budget. The number of entries and the buffer id, which stands
 * in the last one, are found for bad chains too: they must go back.
 */
import { ChainWalker, MAX_PIECES, WALK_BAD, WALK_LONG, WALK_LOOP, WALK_OK } from './chain.ts';
import { DESC_INDIRECT, DESC_NEXT, DESC_WRITE } from './vring.ts';

const NEXT = DESC_NEXT;
const WRITE = DESC_WRITE;
const INDIRECT = DESC_INDIRECT;
const OK = WALK_OK;
const BAD = WALK_BAD;
const LONG = WALK_LONG;
const LOOP = WALK_LOOP;
const PIECES = MAX_PIECES;

export class PackedChainWalker extends ChainWalker {
  /** Ring entries and buffer id of the chain walked last. */
  entries = 0;
  id = 0;

  /**
   * Appends the pieces of the chain that starts at entry `head`, whose fourth word has been read as `word`.
   * @param direction DESC_WRITE for buffers that the switch fills, 0 for those it reads.
   * @returns a WALK_ result; WALK_LOOP: the chain has no end within the ring.
   */
  walkPacked(desc: Uint32Array, size: number, head: number, word: number, direction: number): number {
    this.bytes = 0;
    let at = head;
    let result: number = OK;
    for (let step = 1; step <= size; step++) {
      const d = at << 2;
      if (step > 1) word = desc[d + 3]!;
      const flags = word >>> 16;
      if (result === OK) {
        const length = desc[d + 2]!;
        this.at[0] = desc[d + 1]! * 4294967296 + desc[d]!;
        if ((flags & INDIRECT) !== 0) {
          result = step > 1 || (flags & NEXT) !== 0 ? BAD : this.#walkTable(length, direction);
        } else if ((flags & WRITE) !== direction) {
          result = BAD;
        } else {
          result = this.add(length > 0x3fffffff ? 0x3fffffff : length);
        }
      }
      if ((flags & NEXT) === 0) {
        this.entries = step;
        this.id = word & 0xffff;
        return result;
      }
      at++;
      if (at === size) at = 0;
    }
    return LOOP;
  }

  /**
   * The table's address is in `at`. All of its descriptors are used, NEXT means nothing (section 2.8.7). WRITE is asked for
   * where the switch fills buffers only: DPDK's driver (22.11) has it set in the header descriptor of frames it sends.
   */
  #walkTable(tableBytes: number, direction: number): number {
    const entries = tableBytes >>> 4;
    if (entries === 0 || (tableBytes & 15) !== 0) return BAD;
    if (entries > PIECES) return LONG;
    const first = this.findTable(tableBytes);
    if (first < 0) return -first;
    const words = this.tableWords;
    for (let i = 0; i < entries; i++) {
      const d = first + i * 4;
      const length = words[d + 2]!;
      const flags = words[d + 3]! >>> 16;
      if ((flags & INDIRECT) !== 0 || (flags & WRITE) < direction) return BAD;
      this.at[0] = words[d + 1]! * 4294967296 + words[d]!;
      const result = this.add(length > 0x3fffffff ? 0x3fffffff : length);
      if (result !== OK) return result;
    }
    return OK;
  }
}
