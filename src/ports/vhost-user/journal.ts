// hot
/**
 * What makes a burst one step for rings in flight: a redo journal, kept in a file, that outlives a killed data plane.
 *
 * A burst touches several rings: its sender's, and those of all receivers. They cannot be changed at once. So when all
 * copies are done and before anything is shown, the worker writes down how every ring will be, and then, with one store,
 * that this is decided. A data plane killed before that store has shown nothing: the frames are taken again from the
 * sender's ring. One killed after it may have shown some: the next one shows the rest, ring by ring as guests come back
 * (redo.ts). Either way each frame arrives once, in its order.
 *
 * The file is the switch's own; no guest sees it. A row names its ring by a random number that the front end keeps for us in
 * the shared area of INFLIGHT_SHMFD (inflight.ts): that makes it certain that a ring is the one that was left, and not
 * another guest's. Of a ring there is one decision at a time: who decides about a shared one holds its lock until all that
 * was decided is done.
 *
 * Layout, in 32-bit words: sections of SECTION_WORDS. Sections 0 and 1 hold in turn what is carried over from earlier lives,
 * written by the main thread; section 2 + w is worker w's. Word 0 of a section is its number of decided rows, 0 while nothing
 * is decided. Rows begin at word ROWS_AT: name low, name high, ring | PACKED_ROW, before << 16 | next, number of chains, and
 * for each chain of a packed ring id | span << 16 and the bytes written (a split ring's used elements lie in it already).
 *
 * Frames that wait for the control plane's answer lie in the upcall ring of the worker's lane, which the control plane keeps: its
 * two ends are rows too, name, before, LANE_ROW | LANE_HEAD or LANE_FREED, next, 0.
 *
 * Outside: frames of other kinds of port are in no ring of a guest. Rings that would not fit into the section are left out; it takes some 8 000 frames for that.
 */
import type { BurstJournal, UpcallEnds } from '#datapath/packet/batch.ts';
import type { UsedChains } from './used-packed.ts';
import { STATE_CURSOR } from './vring.ts';

export const SECTION_WORDS = 16_384;
/** Words of a row without chains, and of a chain. */
export const ROW_WORDS = 5;
export const CHAIN_WORDS = 2;
export const ROWS_AT = 8;
export const PACKED_ROW = 1 << 16;
export const LANE_ROW = 1 << 17;
export const LANE_HEAD = 0;
export const LANE_FREED = 1;
/** Sections in front of those of workers. */
export const CARRIED_SECTIONS = 2;
/** Workers that can have a section. */
export const MAX_SECTIONS = 64;
export const JOURNAL_BYTES = (CARRIED_SECTIONS + MAX_SECTIONS) * SECTION_WORDS * 4;

const CURSOR = STATE_CURSOR;
const ROWS = ROWS_AT;
const ROW = ROW_WORDS;
const CHAIN = CHAIN_WORDS;
const WORDS = SECTION_WORDS;
const PACKED = PACKED_ROW;
const HEAD = LANE_ROW | LANE_HEAD;
const FREED = LANE_ROW | LANE_FREED;

/** Where a ring will stand when the burst at hand is done; of a packed one also the chains that will be used then. */
export interface JournalQueue {
  readonly next: number;
  readonly waiting?: UsedChains;
}

/** A ring of a worker that takes part. */
export interface JournalRing {
  /** Its name: two 32-bit words, and the ring's number. */
  readonly low: number;
  readonly high: number;
  readonly ring: number;
  /** The ring's row of shared state. */
  readonly state: Int32Array;
  readonly queue: JournalQueue;
}

/** A worker's half: one for all of its ports. */
export class WorkerJournal implements BurstJournal {
  readonly #words: Int32Array;
  readonly #upcalls: UpcallEnds | undefined;
  readonly #rings: JournalRing[] = [];

  /** @param words the worker's section. @param upcalls its upcall ring, where that is kept. */
  constructor(words: Int32Array, upcalls?: UpcallEnds) {
    this.#words = words;
    this.#upcalls = upcalls;
  }

  get empty(): boolean {
    return this.#rings.length === 0;
  }

  add(ring: JournalRing): void {
    this.#rings.push(ring);
  }

  remove(ring: JournalRing): void {
    const at = this.#rings.indexOf(ring);
    if (at >= 0) this.#rings.splice(at, 1);
  }

  decide(): void {
    const words = this.#words;
    const rings = this.#rings;
    const count = rings.length;
    let rows = 0;
    let at = ROWS;
    const upcalls = this.#upcalls;
    if (upcalls !== undefined) {
      rows = this.#end(at, HEAD, upcalls.shownHead, upcalls.head);
      rows += this.#end(at + rows * ROW, FREED, upcalls.shownFreed, upcalls.freed);
      at += rows * ROW;
    }
    for (let i = 0; i < count; i++) {
      const ring = rings[i]!;
      const before = ring.state[CURSOR]! & 0xffff;
      const next = ring.queue.next & 0xffff;
      if (before === next) continue;
      const used = ring.queue.waiting;
      const chains = used === undefined ? 0 : used.count;
      if (at + ROW + chains * CHAIN > WORDS) continue;
      words[at] = ring.low;
      words[at + 1] = ring.high;
      words[at + 2] = used === undefined ? ring.ring : ring.ring | PACKED;
      words[at + 3] = (before << 16) | next;
      words[at + 4] = chains;
      at += ROW;
      if (used !== undefined) {
        const id = used.id;
        const span = used.span;
        const length = used.length;
        for (let chain = 0; chain < chains; chain++) {
          words[at] = id[chain]! | (span[chain]! << 16);
          words[at + 1] = length[chain]!;
          at += CHAIN;
        }
      }
      rows++;
    }
    if (rows > 0) Atomics.store(words, 0, rows);
  }

  /** A row of an end of the upcall ring, if it moves. @returns rows. */
  #end(at: number, row: number, shown: number, next: number): number {
    if (shown === next) return 0;
    const words = this.#words;
    words[at] = this.#upcalls!.name;
    words[at + 1] = shown;
    words[at + 2] = row;
    words[at + 3] = next;
    words[at + 4] = 0;
    return 1;
  }

  done(): void {
    if (this.#words[0] === 0) return;
    if (this.#upcalls !== undefined) this.#upcalls.show();
    Atomics.store(this.#words, 0, 0);
  }
}
