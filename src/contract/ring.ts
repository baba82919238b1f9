/**
 * One-writer, one-reader ring of records in shared memory: see lane.ts for the layout and records.ts for what it carries.
 *
 * The writer reserves a record, fills its words, and publishes a whole burst with one atomic store; the reader walks what
 * is published and gives the space back when it no longer needs the bytes. Lengths read from the ring are checked: a
 * writer gone wrong makes the ring "broken", it never makes the reader leave it.
 */
import { MAX_RECORD_BYTES } from './lane.ts';
import { RECORD_PAD } from './records.ts';

const align8 = (n: number): number => (n + 7) & ~7;

export class RingWriter {
  /** Words and bytes of the ring itself. */
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
  readonly #header: Int32Array;
  readonly #headAt: number;
  readonly #tailAt: number;
  readonly #size: number;
  #head = 0;
  #tail = 0;

  /**
   * @param at byte offset of the ring in `buffer`; @param size its bytes, a power of two;
   * @param headAt, tailAt the header words that publish what is written and what is free again.
   */
  constructor(buffer: ArrayBuffer, header: Int32Array, at: number, size: number, headAt: number, tailAt: number) {
    this.words = new Uint32Array(buffer, at, size / 4);
    this.bytes = new Uint8Array(buffer, at, size);
    this.#header = header;
    this.#headAt = headAt;
    this.#tailAt = tailAt;
    this.#size = size;
    this.#head = header[headAt]! >>> 0;
    this.#tail = header[tailAt]! >>> 0;
  }

  /**
   * Makes room for a record of `length` bytes and writes its words 0 and 1.
   * @returns index of its first 32-bit word in `words`, or -1 when the ring is full (nothing is changed then).
   */
  reserve(kind: number, length: number): number {
    const size = this.#size;
    const need = align8(length);
    if (need > MAX_RECORD_BYTES) return -1;
    let at = this.#head & (size - 1);
    const pad = at + need > size ? size - at : 0;
    if (((this.#head - this.#tail) >>> 0) + pad + need > size) {
      this.#tail = Atomics.load(this.#header, this.#tailAt) >>> 0;
      if (((this.#head - this.#tail) >>> 0) + pad + need > size) return -1;
    }
    if (pad > 0) {
      this.words[at >>> 2] = pad;
      this.words[(at >>> 2) + 1] = RECORD_PAD;
      this.#head = (this.#head + pad) >>> 0;
      at = 0;
    }
    const word = at >>> 2;
    this.words[word] = need;
    this.words[word + 1] = kind;
    this.#head = (this.#head + need) >>> 0;
    return word;
  }

  /** Free-running byte count of all that was reserved: what `publish` shows. */
  get head(): number {
    return this.#head;
  }

  /** Bytes that are free now, as the reader last said. */
  free(): number {
    this.#tail = Atomics.load(this.#header, this.#tailAt) >>> 0;
    return this.#size - ((this.#head - this.#tail) >>> 0);
  }

  /** Shows everything reserved so far to the reader. */
  publish(): void {
    Atomics.store(this.#header, this.#headAt, this.#head | 0);
  }

  /** Starts again at 0; only while the other side is known not to look. */
  reset(): void {
    this.#head = 0;
    this.#tail = 0;
    Atomics.store(this.#header, this.#headAt, 0);
  }
}

export class RingReader {
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
  readonly #header: Int32Array;
  readonly #headAt: number;
  readonly #tailAt: number;
  readonly #size: number;
  #cursor = 0;
  /** Set when the writer's record lengths make no sense; nothing more is read then. */
  broken = false;

  constructor(buffer: ArrayBuffer, header: Int32Array, at: number, size: number, headAt: number, tailAt: number) {
    this.words = new Uint32Array(buffer, at, size / 4);
    this.bytes = new Uint8Array(buffer, at, size);
    this.#header = header;
    this.#headAt = headAt;
    this.#tailAt = tailAt;
    this.#size = size;
    this.#cursor = header[tailAt]! >>> 0;
  }

  /** Free-running byte count behind the record that `next` returned last: what `release` takes. */
  get cursor(): number {
    return this.#cursor;
  }

  /** @returns word index of the next published record, or -1 when there is none. Its bytes stay until `release`. */
  next(): number {
    for (let turn = 0; turn < 2; turn++) {
      const head = Atomics.load(this.#header, this.#headAt) >>> 0;
      const ready = (head - this.#cursor) >>> 0;
      if (ready === 0 || this.broken) return -1;
      const at = this.#cursor & (this.#size - 1);
      const length = this.words[at >>> 2]!;
      if (length < 8 || (length & 7) !== 0 || length > ready || at + length > this.#size || length > this.#size) {
        this.broken = true;
        return -1;
      }
      this.#cursor = (this.#cursor + length) >>> 0;
      if (this.words[(at >>> 2) + 1] !== RECORD_PAD) return at >>> 2;
    }
    return -1;
  }

  /** Gives the space of all records read so far (or up to `cursor`) back to the writer. */
  release(cursor: number = this.#cursor): void {
    Atomics.store(this.#header, this.#tailAt, cursor | 0);
  }

  reset(): void {
    this.#cursor = 0;
    this.broken = false;
    Atomics.store(this.#header, this.#tailAt, 0);
  }
}
