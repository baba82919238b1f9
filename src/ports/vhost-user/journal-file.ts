/** The journal's file in the main thread: what the last life of the data plane had decided, until it is done (journal.ts). */
import { constants, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { close, map, release } from '#contract/os.ts';
import { type InflightName, randomName } from './inflight.ts';
import {
  CARRIED_SECTIONS,
  CHAIN_WORDS,
  JOURNAL_BYTES,
  LANE_FREED,
  LANE_HEAD,
  LANE_ROW,
  MAX_SECTIONS,
  PACKED_ROW,
  ROW_WORDS,
  ROWS_AT,
  SECTION_WORDS,
} from './journal.ts';

/** Words of section 0 that say what the file is: kind and version, and the journal's name. */
const KIND_AT = 1;
const NAME_AT = 2;
const KIND = 0x4a570002;

/** A step that a ring had decided upon when its data plane died. */
export interface Decided {
  readonly before: number;
  readonly next: number;
  /** Of a packed ring: the chains that are used with it, oldest first. */
  readonly chains: readonly { readonly id: number; readonly span: number; readonly length: number }[] | undefined;
}

/** A step of an end of an upcall ring: byte counts. */
export interface EndStep {
  readonly before: number;
  readonly next: number;
}

/** What was decided about the upcall ring of a lane. */
export interface LaneSteps {
  head?: EndStep;
  freed?: EndStep;
}

interface Row extends InflightName, Decided {
  readonly ring: number;
}

const keyOf = ({ low, high }: InflightName, ring: number): string => `${low >>> 0}:${high >>> 0}:${ring}`;
const journals = new Map<string, Journal>();

/** The file of one run directory; used by one process at a time. */
export class Journal {
  readonly fd: number;
  readonly name: InflightName;
  readonly #words: Int32Array;
  readonly #decided = new Map<string, Row>();
  readonly #lanes = new Map<number, LaneSteps>();
  /** Section that holds what is carried over. */
  #carried = 0;

  /** The journal of a run directory, opened when it is first needed. @throws Error when the file cannot be had. */
  static of(rundir: string): Journal {
    const path = join(rundir, 'inflight.journal');
    const journal = journals.get(path) ?? new Journal(path);
    journals.set(path, journal);
    return journal;
  }

  /** Reads what the last life left, and makes room for this one. */
  constructor(path: string) {
    this.fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    ftruncateSync(this.fd, JOURNAL_BYTES);
    const words = new Int32Array(map(this.fd, 0, JOURNAL_BYTES, { write: true, owner: 0 }));
    this.#words = words;
    const sections = CARRIED_SECTIONS + MAX_SECTIONS;
    if (words[KIND_AT] === KIND) {
      for (let section = 0; section < sections; section++) this.#read(section * SECTION_WORDS);
    } else {
      // A new file, or one of another version, of which nothing can be said.
      for (let section = 0; section < sections; section++) {
        if (words[section * SECTION_WORDS] !== 0) words[section * SECTION_WORDS] = 0;
      }
      const { low, high } = randomName();
      words[NAME_AT] = low;
      words[NAME_AT + 1] = high;
      Atomics.store(words, KIND_AT, KIND);
    }
    this.name = { low: words[NAME_AT]! >>> 0, high: words[NAME_AT + 1]! >>> 0 };
    this.#carried = words[0]! > 0 ? 0 : 1;
    // First all rows in one place, then the others are forgotten: being killed here loses nothing.
    this.#carry();
    for (let section = CARRIED_SECTIONS; section < sections; section++) {
      if (words[section * SECTION_WORDS] !== 0) Atomics.store(words, section * SECTION_WORDS, 0);
    }
  }

  /** Lets go of the file. */
  close(): void {
    release(this.#words.buffer as ArrayBuffer);
    close(this.fd);
  }

  /** What ring `ring` of this name had decided, if anything. */
  decided(name: InflightName, ring: number): Decided | undefined {
    return this.#decided.get(keyOf(name, ring));
  }

  /** The step is done, or void. */
  forget(name: InflightName, ring: number): void {
    if (this.#decided.delete(keyOf(name, ring))) this.#carry();
  }

  /** What the lane of this name had decided. */
  lane(name: number): LaneSteps {
    return this.#lanes.get(name) ?? {};
  }

  forgetLane(name: number): void {
    if (this.#lanes.delete(name)) this.#carry();
  }

  #read(section: number): void {
    const words = this.#words;
    const end = section + SECTION_WORDS;
    let at = section + ROWS_AT;
    for (let rows = words[section]!; rows > 0 && at + ROW_WORDS <= end; rows--) {
      const [low, high, ring, step, count] = words.subarray(at, at + ROW_WORDS) as unknown as number[];
      at += ROW_WORDS;
      if ((ring! & LANE_ROW) !== 0) {
        const steps = this.#lanes.get(low!) ?? {};
        steps[(ring! & ~LANE_ROW) === LANE_FREED ? 'freed' : 'head'] = { before: high!, next: step! };
        this.#lanes.set(low!, steps);
        continue;
      }
      if (count! < 0 || at + count! * CHAIN_WORDS > end) return;
      const chains = Array.from({ length: count! }, (_, i) => {
        const word = words[at + i * CHAIN_WORDS]!;
        return { id: word & 0xffff, span: word >>> 16, length: words[at + i * CHAIN_WORDS + 1]! >>> 0 };
      });
      at += count! * CHAIN_WORDS;
      const row: Row = {
        low: low!,
        high: high!,
        ring: ring! & ~PACKED_ROW,
        before: step! >>> 16,
        next: step! & 0xffff,
        chains: (ring! & PACKED_ROW) !== 0 ? chains : undefined,
      };
      this.#decided.set(keyOf(row, row.ring), row);
    }
  }

  /**
   * Writes what is still to be done into the section that is not in use, and then leaves the other. Rows beyond its size are
   * those of guests that are long gone.
   */
  #carry(): void {
    const words = this.#words;
    const from = this.#carried * SECTION_WORDS;
    this.#carried = 1 - this.#carried;
    const to = this.#carried * SECTION_WORDS;
    let at = to + ROWS_AT;
    let rows = 0;
    const put = (...row: number[]): void => {
      if (at + row.length > to + SECTION_WORDS) return;
      words.set(row, at);
      at += row.length;
      rows++;
    };
    for (const { low, high, ring, before, next, chains: used } of [...this.#decided.values()].reverse()) {
      const chains = (used ?? []).flatMap(({ id, span, length }) => [id | (span << 16), length]);
      const word = used ? ring | PACKED_ROW : ring;
      put(low, high, word, (before << 16) | next, chains.length / CHAIN_WORDS, ...chains);
    }
    for (const [name, { head, freed }] of this.#lanes) {
      if (head) put(name, head.before, LANE_ROW | LANE_HEAD, head.next, 0);
      if (freed) put(name, freed.before, LANE_ROW | LANE_FREED, freed.next, 0);
    }
    Atomics.store(words, to, rows);
    Atomics.store(words, from, 0);
  }
}
