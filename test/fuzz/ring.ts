/**
 * Rings of fuzzed guests: honest chains of any shape, hostile words put over them, and a plain reading of what a ring offers
 * that is nothing like the switch's own.
 */
import { type Arena, GUEST_BASE } from './arena.ts';
import type { Random } from './random.ts';

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;
/** Offsets in the first region. */
const DESC_AT = 0;
const DRIVER_AT = 0x800;
const DEVICE_AT = 0x900;
const TABLES_AT = 0x1000;
const TABLES_END = 0x2000;
/** From here on regions hold buffers. */
export const BUFFERS_AT = TABLES_END;

/** Entries that one push may take. */
const BURST_MOST = 64;

export interface Chain {
  /** Buffer id: of a split ring the head. */
  readonly id: number;
  /** Entry at which a packed chain begins. */
  readonly entry: number;
  /** Wrap counter there. */
  readonly wrap: boolean;
  readonly pieces: readonly (readonly [at: number, bytes: number])[];
}

/** What a ring offered at a moment, as ranges of guest addresses. */
export interface Offer {
  readonly write: [at: number, bytes: number][];
  readonly read: [at: number, bytes: number][];
  /** Offered memory includes ring memory. */
  ofRings: boolean;
}

export class FuzzRing {
  readonly arena: Arena;
  readonly size: number;
  readonly packed: boolean;
  readonly write: boolean;
  readonly view: DataView;
  chains: Chain[] = [];
  /** Descriptors in use, by address, for mutations. */
  descriptors: number[] = [];
  #nextDesc = 0;
  #nextTable = 0;
  #part = 0;
  #at = BUFFERS_AT;
  /** Where the switch stands: free-running index, or entry | wrap << 15. */
  place = 0;
  /** Entries that the switch may have seen available in earlier cases; they stay offered whatever the index says now. */
  seen = 0;
  #entry = 0;
  #bits = 0;
  #entries = 0;

  constructor(arena: Arena, size: number, packed: boolean, write: boolean) {
    this.arena = arena;
    this.size = size;
    this.packed = packed;
    this.write = write;
    this.view = arena.parts[0]!.view;
  }

  static readonly offsets = { descriptors: DESC_AT, driver: DRIVER_AT, device: DEVICE_AT };

  /** Forgets everything; the memory has been cleared. @param place where the switch stands. */
  begin(place: number): void {
    this.place = place;
    this.chains = [];
    this.descriptors = [];
    this.#nextDesc = 0;
    this.#nextTable = 0;
    this.#part = 0;
    this.#at = BUFFERS_AT;
    this.#entries = 0;
    const view = this.view;
    if (this.packed) {
      this.#entry = place & 0x7fff;
      this.#bits = place & USED ? AVAIL : USED;
      // As the lap before left them.
      for (let i = 0; i < this.size; i++) {
        const lap = i < this.#entry ? (place & USED ? AVAIL | USED : 0) : place & USED ? 0 : AVAIL | USED;
        view.setUint16(DESC_AT + 16 * i + 14, lap, true);
      }
      view.setUint32(DRIVER_AT, 0, true);
      view.setUint32(DEVICE_AT, 0, true);
      return;
    }
    for (let i = 0; i < 6 + 2 * this.size; i += 2) view.setUint16(DRIVER_AT + i, 0, true);
    for (let i = 0; i < 6 + 8 * this.size; i += 2) view.setUint16(DEVICE_AT + i, 0, true);
    view.setUint16(DRIVER_AT + 2, place, true);
    view.setUint16(DEVICE_AT + 2, place, true);
  }

  /** Memory for one piece. @returns its guest address, or -1: no room. */
  allocate(random: Random, bytes: number): number {
    for (; this.#part < this.arena.parts.length; this.#part++, this.#at = 0) {
      const part = this.arena.parts[this.#part]!;
      const at = this.#at + random.below(4);
      if (at + bytes > part.bytes) continue;
      this.#at = at + bytes + random.below(9);
      return part.guestAddress + at;
    }
    return -1;
  }

  /** Offers a chain of pieces. @returns false when there is no room in ring, tables or memory. */
  add(random: Random, lengths: readonly number[], indirect: boolean): boolean {
    const direct = indirect ? 1 : lengths.length;
    if ((this.packed ? this.#entries : this.#nextDesc) + direct > this.size) return false;
    if (indirect && TABLES_AT + this.#nextTable + 16 * lengths.length > TABLES_END) return false;
    const pieces: [number, number][] = [];
    for (const bytes of lengths) {
      const at = this.allocate(random, bytes);
      if (at < 0) return false;
      pieces.push([at, bytes]);
    }
    const flag = this.write ? WRITE : 0;
    let table = 0;
    if (indirect) {
      table = TABLES_AT + this.#nextTable;
      this.#nextTable += 16 * pieces.length;
      pieces.forEach(([at, bytes], i) => {
        const more = i + 1 < pieces.length;
        this.#put(table + 16 * i, at, bytes, this.packed ? 7 : flag | (more ? NEXT : 0), more ? i + 1 : 0);
        if (this.packed) this.view.setUint16(table + 16 * i + 14, flag, true);
      });
    }
    if (this.packed) this.#addPacked(random, pieces, flag, indirect ? table : -1);
    else this.#addSplit(pieces, flag, indirect ? table : -1);
    return true;
  }

  #addSplit(pieces: [number, number][], flag: number, table: number): void {
    const head = this.#nextDesc;
    if (table >= 0) {
      this.#put(DESC_AT + 16 * head, GUEST_BASE + table, 16 * pieces.length, INDIRECT, 0);
      this.#nextDesc++;
    } else {
      pieces.forEach(([at, bytes], i) => {
        const more = i + 1 < pieces.length;
        this.#put(DESC_AT + 16 * (head + i), at, bytes, flag | (more ? NEXT : 0), more ? head + i + 1 : 0);
      });
      this.#nextDesc += pieces.length;
    }
    const index = (this.place + this.chains.length) & 0xffff;
    this.view.setUint16(DRIVER_AT + 4 + 2 * (index % this.size), head, true);
    this.view.setUint16(DRIVER_AT + 2, index + 1, true);
    this.chains.push({ id: head, entry: index % this.size, wrap: false, pieces });
  }

  #addPacked(random: Random, pieces: [number, number][], flag: number, table: number): void {
    const id = random.below(0x10000);
    const entry = this.#entry;
    const wrap = this.#bits === AVAIL;
    const rows: readonly (readonly [number, number])[] =
      table >= 0 ? [[GUEST_BASE + table, 16 * pieces.length]] : pieces;
    rows.forEach(([at, bytes], i) => {
      const more = i + 1 < rows.length ? NEXT : 0;
      const flags = (table >= 0 ? INDIRECT : flag) | more | this.#bits;
      this.#put(DESC_AT + 16 * this.#entry, at, bytes, id, flags);
      this.#entry++;
      this.#entries++;
      if (this.#entry === this.size) {
        this.#entry = 0;
        this.#bits ^= AVAIL | USED;
      }
    });
    this.chains.push({ id, entry, wrap, pieces });
  }

  #put(offset: number, at: number, bytes: number, third: number, last: number): void {
    this.view.setUint32(offset, at % 4294967296, true);
    this.view.setUint32(offset + 4, Math.floor(at / 4294967296), true);
    this.view.setUint32(offset + 8, bytes, true);
    this.view.setUint16(offset + 12, third, true);
    this.view.setUint16(offset + 14, last, true);
    this.descriptors.push(GUEST_BASE + offset);
  }

  /** Everything that the ring offers as it stands, hostile or not: more rather than less. */
  offers(into: Offer): void {
    const view = this.view;
    if (this.packed) {
      for (let i = 0; i < this.size; i++) {
        let flags = view.getUint16(DESC_AT + 16 * i + 14, true);
        if (((flags & AVAIL) !== 0) === ((flags & USED) !== 0)) continue;
        // Entries behind a head belong to it whatever their bits say.
        for (let at = i, step = 0; step < this.size; step++) {
          this.#offerOf(DESC_AT + 16 * at, flags, into);
          if ((flags & NEXT) === 0) break;
          at = (at + 1) % this.size;
          flags = view.getUint16(DESC_AT + 16 * at + 14, true);
        }
      }
      return;
    }
    const index = view.getUint16(DRIVER_AT + 2, true);
    const waiting = (index - this.place) & 0xffff;
    // An index that is a little ahead comes into range when the burst that nobody looked at it in has taken some.
    const ahead = waiting > this.size + BURST_MOST ? 0 : Math.min(waiting, this.size);
    const offered = Math.max(ahead, this.seen);
    for (let i = 0; i < offered; i++) {
      let at = view.getUint16(DRIVER_AT + 4 + 2 * ((this.place + i) % this.size), true);
      for (let step = 0; step < this.size && at < this.size; step++) {
        const flags = view.getUint16(DESC_AT + 16 * at + 12, true);
        this.#offerOf(DESC_AT + 16 * at, flags, into);
        if ((flags & NEXT) === 0) break;
        at = view.getUint16(DESC_AT + 16 * at + 14, true);
      }
    }
  }

  #offerOf(offset: number, flags: number, into: Offer): void {
    const at = this.view.getUint32(offset, true) + this.view.getUint32(offset + 4, true) * 4294967296;
    const bytes = this.view.getUint32(offset + 8, true);
    if ((flags & INDIRECT) === 0) {
      note(at, bytes, (flags & WRITE) !== 0, into);
      return;
    }
    const part = this.arena.find(at);
    if (!part) return;
    const from = at - part.guestAddress;
    const end = Math.min(part.bytes, from + bytes, from + 16 * 2048);
    for (let row = from; row + 16 <= end; row += 16) {
      const view = part.view;
      const start = view.getUint32(row, true) + view.getUint32(row + 4, true) * 4294967296;
      const rowFlags = view.getUint16(row + (this.packed ? 14 : 12), true);
      // Of a packed ring's table a sent frame is read whatever WRITE says, as DPDK's driver wants it.
      const length = view.getUint32(row + 8, true);
      if (this.packed) note(start, length, false, into);
      if (!this.packed || (rowFlags & WRITE) !== 0) note(start, length, (rowFlags & WRITE) !== 0, into);
    }
  }

  /** What the switch writes of the ring itself. */
  allowUsed(): void {
    if (this.packed) {
      this.arena.allow(GUEST_BASE + DESC_AT, 16 * this.size);
      this.arena.allow(GUEST_BASE + DEVICE_AT, 4);
    } else this.arena.allow(GUEST_BASE + DEVICE_AT, 6 + 8 * this.size);
  }

  /** Used id and length of chain `i` of this case. */
  used(i: number): [id: number, bytes: number] {
    const { entry } = this.chains[i]!;
    if (!this.packed) {
      const at = DEVICE_AT + 4 + 8 * entry;
      return [this.view.getUint32(at, true), this.view.getUint32(at + 4, true)];
    }
    const at = DESC_AT + 16 * entry;
    return [this.view.getUint16(at + 12, true), this.view.getUint32(at + 8, true)];
  }

  /** Notes what the switch may have seen and not taken, now that it stands at `place`. */
  end(place: number): void {
    const waiting = (this.view.getUint16(DRIVER_AT + 2, true) - place) & 0xffff;
    const left = this.seen - ((place - this.place) & 0xffff);
    this.seen = this.packed ? 0 : Math.max(0, left, waiting > this.size ? 0 : waiting);
  }

  get usedIndex(): number {
    return this.view.getUint16(DEVICE_AT + 2, true);
  }
}

const note = (at: number, bytes: number, write: boolean, into: Offer): void => {
  (write ? into.write : into.read).push([at, bytes]);
  if (at < GUEST_BASE + BUFFERS_AT && at + bytes > GUEST_BASE) into.ofRings = true;
};
