// hot
/**
 * What makes a burst one step for rings in flight: a redo journal, kept in a file, that outlives a killed data plane.
 *
 * A burst touches several rings: its sender's, and those of all receivers. Their used indices cannot be stored at once. So
 * when all copies are done and before the first index is shown, the worker writes down where every ring will stand, and
 * then, with one store, that this is decided. A data plane killed before that store has shown nothing: the frames are taken
 * again from the sender's ring. One killed after it may have shown some: the next one shows the rest, ring by ring as guests
 * come back. Either way each frame arrives once.
 *
 * The file is the switch's own; no guest sees it. A row names its ring by a random number that the front end keeps for us in
 * the shared area of INFLIGHT_SHMFD (inflight.ts): that makes it certain that a ring is the one that was left, and not
 * another guest's. It is applied only where the used index still stands where the row says.
 *
 * Layout, in 32-bit words: sections of SECTION_WORDS, section 0 carried over from earlier lives and written by the main
 * thread before any worker starts on the journal, section 1 + w of worker w. Word 0 of a section is its number of decided
 * rows, 0 while nothing is decided; rows of ROW_WORDS from word ROWS_AT on: name low, name high, ring, before << 16 | next.
 *
 * Outside: rings shared by several workers (their queue is shown under its lock, before the burst ends), and packed rings.
 */
import type { BurstJournal } from '#datapath/packet/batch.ts';
import { STATE_CURSOR } from './vring.ts';

export const SECTION_WORDS = 4096;
export const ROW_WORDS = 4;
export const ROWS_AT = 4;
export const MAX_ROWS_JOURNAL = (SECTION_WORDS - ROWS_AT) / ROW_WORDS;
/** Workers that can have a section. */
export const MAX_SECTIONS = 64;
export const JOURNAL_BYTES = (1 + MAX_SECTIONS) * SECTION_WORDS * 4;

const CURSOR = STATE_CURSOR;
const ROWS = ROWS_AT;
const ROW = ROW_WORDS;
const MOST = MAX_ROWS_JOURNAL;

/** A ring of a worker that takes part. */
export interface JournalRing {
  /** Its name: two 32-bit words, and the ring's number. */
  readonly low: number;
  readonly high: number;
  readonly ring: number;
  /** The ring's row of shared state. */
  readonly state: Int32Array;
  /** The queue on it: where the ring will stand when the burst at hand is done. */
  readonly queue: { readonly next: number };
}

/** A worker's half: one for all of its ports. */
export class WorkerJournal implements BurstJournal {
  readonly #words: Int32Array;
  readonly #rings: JournalRing[] = [];

  /** @param words the worker's section. */
  constructor(words: Int32Array) {
    this.#words = words;
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
    for (let i = 0; i < count && rows < MOST; i++) {
      const ring = rings[i]!;
      const before = ring.state[CURSOR]! & 0xffff;
      const next = ring.queue.next & 0xffff;
      if (before === next) continue;
      const at = ROWS + rows * ROW;
      words[at] = ring.low;
      words[at + 1] = ring.high;
      words[at + 2] = ring.ring;
      words[at + 3] = (before << 16) | next;
      rows++;
    }
    if (rows > 0) Atomics.store(words, 0, rows);
  }

  done(): void {
    if (this.#words[0] !== 0) Atomics.store(this.#words, 0, 0);
  }
}
