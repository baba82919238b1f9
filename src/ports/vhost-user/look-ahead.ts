// hot
/**
 * Looks at chains that a guest has made available, before their turn, so that translations of their buffers are asked for in
 * time and all at once. What it reads of a ring it believes for nothing else.
 */
import { type ChainWalker, WALK_WAIT } from './chain.ts';
import type { PackedChainWalker } from './chain-packed.ts';
import { STATE_CURSOR, type Vring } from './vring.ts';
import { ENTRY_MASK, PACKED_AVAIL, PACKED_USED, type PackedVring, WRAP_BIT } from './vring-packed.ts';

const CURSOR = STATE_CURSOR;
const ENTRY = ENTRY_MASK;
const WRAP = WRAP_BIT;
const AVAIL = PACKED_AVAIL;
const USED = PACKED_USED;
const WAIT = WALK_WAIT;
const BOTH = PACKED_AVAIL | PACKED_USED;
/** Chains of one look, at most, and how far it may go beyond the place of the ring. */
const LOOK = 64;
const FAR = 1024;

export interface LookAhead {
  /** Looks at chains that were not looked at before. */
  run(): void;
}

export class SplitLookAhead implements LookAhead {
  readonly #vring: Vring;
  readonly #walker: ChainWalker;
  readonly #direction: number;
  /** Available entry to look at next. */
  #next = 0;

  /** @param direction DESC_WRITE for buffers that the switch fills, 0 for those it reads. */
  constructor(vring: Vring, walker: ChainWalker, direction: number) {
    this.#vring = vring;
    this.#walker = walker;
    this.#direction = direction;
    this.#next = vring.state[CURSOR]! & 0xffff;
  }

  run(): void {
    const vring = this.#vring;
    const size = vring.size;
    const walker = this.#walker;
    const cursor = vring.state[CURSOR]! & 0xffff;
    const waiting = (Atomics.load(vring.avail, 1) - cursor) & 0xffff;
    if (waiting > size) return;
    let ahead = (this.#next - cursor) & 0xffff;
    // The ring has passed what was looked at.
    if (ahead > FAR) ahead = 0;
    for (let i = 0; i < LOOK && ahead < waiting && ahead < FAR; i++) {
      const head = vring.avail[((cursor + ahead) & (size - 1)) + 2]!;
      if (head >= size) return;
      walker.clear();
      // An indirect table that cannot be read yet is looked at again.
      if (walker.walk(vring.desc, size, head, this.#direction) === WAIT) break;
      ahead++;
    }
    this.#next = (cursor + ahead) & 0xffff;
  }
}

export class PackedLookAhead implements LookAhead {
  readonly #vring: PackedVring;
  readonly #walker: PackedChainWalker;
  readonly #direction: number;
  /** Place of the ring at the last look, and entries looked at beyond it. */
  #place = 0;
  #ahead = 0;

  /** @param direction as for split rings. */
  constructor(vring: PackedVring, walker: PackedChainWalker, direction: number) {
    this.#vring = vring;
    this.#walker = walker;
    this.#direction = direction;
    this.#place = vring.state[CURSOR]!;
  }

  run(): void {
    const vring = this.#vring;
    const size = vring.size;
    const walker = this.#walker;
    const words = vring.words;
    const place = vring.state[CURSOR]!;
    const first = place & ENTRY;
    if (first >= size) return;
    let moved = first - (this.#place & ENTRY);
    if (((place ^ this.#place) & WRAP) !== 0) moved += size;
    this.#place = place;
    let ahead = moved >= 0 && moved <= this.#ahead ? this.#ahead - moved : 0;
    for (let i = 0; i < LOOK && ahead < size && ahead < FAR; i++) {
      let entry = first + ahead;
      let bits = (place & WRAP) !== 0 ? AVAIL : USED;
      if (entry >= size) {
        entry -= size;
        bits ^= BOTH;
      }
      const word = Atomics.load(words, 4 * entry + 3);
      if (((word >>> 16) & BOTH) !== bits) break;
      walker.clear();
      walker.entries = 0;
      const walked = walker.walkPacked(vring.desc, size, entry, word, this.#direction);
      if (walked === WAIT || walker.entries === 0) break;
      ahead += walker.entries;
    }
    this.#ahead = ahead;
  }
}
