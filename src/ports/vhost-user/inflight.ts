/**
 * INFLIGHT_SHMFD (vhost-user.rst, "Inflight I/O tracking") in the main thread: the area that a front end keeps for the back
 * end, and the journal's file (journal.ts).
 *
 * The area's content is the back end's own affair. Buffers go back here in the order in which they came, so what is in
 * flight is what lies behind the used index, and no table of descriptors is needed: the area holds nothing but a random name.
 */
import { randomBytes } from 'node:crypto';
import { constants, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { map, memfd, release } from '#contract/os.ts';
import { layout } from '../layout.ts';
import { checkFiles } from '../memory.ts';
import { JOURNAL_BYTES, MAX_ROWS_JOURNAL, MAX_SECTIONS, ROW_WORDS, ROWS_AT, SECTION_WORDS } from './journal.ts';

/** Bytes of an area. */
export const AREA_BYTES = 4096;
const AREA = layout('inflight area', 16, { magic: 'u32', version: 'u32', low: 'u32', high: 'u32' });
const MAGIC = 0x52574946;
const VERSION = 1;

/** Names a front end's rings. */
export interface InflightName {
  readonly low: number;
  readonly high: number;
}

const fresh = (): Uint8Array => {
  const random = randomBytes(8);
  return AREA.encode({ magic: MAGIC, version: VERSION, low: random.readUInt32LE(0), high: random.readUInt32LE(4) });
};

/** A new area with a name of its own. @returns its descriptor, which is the caller's. */
export function makeArea(owner: number): number {
  const fd = memfd('ringway-inflight', AREA_BYTES, { seal: true });
  const buffer = map(fd, 0, AREA_BYTES, { write: true, owner });
  new Uint8Array(buffer).set(fresh());
  release(buffer);
  return fd;
}

/**
 * The name in an area that a front end hands over; an area of another kind, or an empty one, gets a name.
 * @throws RangeError when the file is too short, OsError when it cannot be mapped.
 */
export function nameOf(fd: number, offset: number, size: number, owner: number): InflightName {
  if (size < AREA.bytes) throw new RangeError(`an inflight area of ${size} bytes; at least ${AREA.bytes} are needed`);
  checkFiles([{ fd, mmapOffset: offset, size }]);
  const buffer = map(fd, offset, AREA.bytes, { write: true, owner });
  const bytes = new Uint8Array(buffer);
  // One copy: the front end may write there at any time.
  let area = AREA.decode(bytes.slice());
  if (area.magic !== MAGIC || area.version !== VERSION) {
    const made = fresh();
    bytes.set(made);
    area = AREA.decode(made);
  }
  release(buffer);
  return { low: area.low, high: area.high };
}

/** A step that a ring had decided upon when its data plane died. */
export interface Decided {
  readonly before: number;
  readonly next: number;
}

const keyOf = (low: number, high: number, ring: number): string => `${low >>> 0}:${high >>> 0}:${ring}`;
const journals = new Map<string, Journal>();

/** The file of one run directory; used by one process at a time. */
export class Journal {
  readonly fd: number;
  readonly #words: Int32Array;
  readonly #decided = new Map<string, Decided>();

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
    this.#words = new Int32Array(map(this.fd, 0, JOURNAL_BYTES, { write: true, owner: 0 }));
    for (let section = 0; section <= MAX_SECTIONS; section++) this.#read(section * SECTION_WORDS);
    // First all rows in one place, then the others are forgotten: being killed here loses nothing.
    this.#carry();
    for (let section = 1; section <= MAX_SECTIONS; section++) Atomics.store(this.#words, section * SECTION_WORDS, 0);
  }

  /** What ring `ring` of this name had decided, if anything. */
  decided({ low, high }: InflightName, ring: number): Decided | undefined {
    return this.#decided.get(keyOf(low, high, ring));
  }

  /** The step is done, or void. */
  forget({ low, high }: InflightName, ring: number): void {
    if (this.#decided.delete(keyOf(low, high, ring))) this.#carry();
  }

  #read(at: number): void {
    const words = this.#words;
    const rows = Math.min(Math.max(0, words[at]!), MAX_ROWS_JOURNAL);
    for (let row = 0; row < rows; row++) {
      const from = at + ROWS_AT + row * ROW_WORDS;
      const step = words[from + 3]! >>> 0;
      const key = keyOf(words[from]!, words[from + 1]!, words[from + 2]!);
      this.#decided.set(key, { before: step >>> 16, next: step & 0xffff });
    }
  }

  /** Writes what is still to be done into section 0. Rows beyond its size are those of guests that are long gone. */
  #carry(): void {
    const words = this.#words;
    const rows = [...this.#decided].slice(-MAX_ROWS_JOURNAL);
    rows.forEach(([key, { before, next }], row) => {
      words.set([...key.split(':').map((word) => Number(word) | 0), (before << 16) | next], ROWS_AT + row * ROW_WORDS);
    });
    Atomics.store(words, 0, rows.length);
  }
}
