/**
 * A device IOTLB in the main thread: which bytes of the memory table each range of I/O virtual addresses (IOVA) names, and
 * what the device may do with them. Rows are sorted by address, do not overlap, and join where they go on in one another.
 *
 * Whether workers are still using what was taken away is not known here (iommu.ts).
 */
import {
  COUNT,
  EPOCH,
  IotlbShared,
  MAX_ENTRIES,
  ROW_DOUBLES,
  ROW_END,
  ROW_OFFSET,
  ROW_PERMISSION,
  ROW_REGION,
  ROW_START,
  SEQ,
} from './iotlb-shared.ts';

/** IOVAs `start` to before `end` are bytes from `offset` on of region number `region`. */
export interface Translation {
  readonly start: number;
  readonly end: number;
  readonly region: number;
  readonly offset: number;
  readonly permission: number;
}

const LIMIT = MAX_ENTRIES;

export class Iotlb {
  readonly shared = new IotlbShared();
  /** Translations that were given up for want of room. */
  evicted = 0;
  #victim = 0;

  get size(): number {
    return this.shared.words[COUNT]!;
  }

  row(index: number): Translation {
    const at = index * ROW_DOUBLES;
    const { rows } = this.shared;
    return {
      start: rows[at + ROW_START]!,
      end: rows[at + ROW_END]!,
      region: rows[at + ROW_REGION]!,
      offset: rows[at + ROW_OFFSET]!,
      permission: rows[at + ROW_PERMISSION]!,
    };
  }

  /** The translation of `at`, if there is one. */
  find(at: number): Translation | undefined {
    const index = this.#firstAfter(at);
    if (index === this.size) return undefined;
    const row = this.row(index);
    return row.start <= at ? row : undefined;
  }

  /** Whether there is anything in [start, end). */
  overlaps(start: number, end: number): boolean {
    const index = this.#firstAfter(start);
    return index < this.size && this.row(index).start < end;
  }

  /**
   * Adds a translation, which takes the place of all others in its range.
   * @param pinned says of a translation that it must not be given up for want of room.
   */
  insert(entry: Translation, pinned: (row: Translation) => boolean = () => false): void {
    this.remove(entry.start, entry.end);
    let { start, end, offset } = entry;
    let from = this.#firstAfter(start);
    let to = from;
    const continues = (a: Translation, b: Translation): boolean =>
      a.end === b.start &&
      a.region === b.region &&
      a.permission === b.permission &&
      a.offset + (a.end - a.start) === b.offset;
    const before = from > 0 ? this.row(from - 1) : undefined;
    if (before && continues(before, entry)) {
      ({ start, offset } = before);
      from--;
    }
    const after = to < this.size ? this.row(to) : undefined;
    if (after && continues(entry, after)) {
      end = after.end;
      to++;
    }
    this.#splice(from, to - from, [{ ...entry, start, end, offset }]);
    const added = (row: Translation): boolean => row.start <= entry.start && entry.start < row.end;
    this.#evict((row) => added(row) || pinned(row));
  }

  /** Takes away what lies in [start, end). @returns false when there was nothing. */
  remove(start: number, end: number): boolean {
    const from = this.#firstAfter(start);
    let to = from;
    const rest: Translation[] = [];
    for (; to < this.size; to++) {
      const row = this.row(to);
      if (row.start >= end) break;
      if (row.start < start) rest.push({ ...row, end: start });
      if (row.end > end) rest.push({ ...row, start: end, offset: row.offset + (end - row.start) });
    }
    if (to === from) return false;
    this.#splice(from, to - from, rest);
    this.#evict(() => false);
    this.#taken();
    return true;
  }

  /** Runs a change of what workers see beside the rows. */
  change(work: () => void): void {
    const { words } = this.shared;
    Atomics.add(words, SEQ, 1);
    work();
    Atomics.add(words, SEQ, 1);
  }

  /** What workers remember is void from their next burst on. */
  forget(): void {
    this.#taken();
  }

  #taken(): void {
    Atomics.add(this.shared.words, EPOCH, 1);
  }

  #evict(kept: (row: Translation) => boolean): void {
    while (this.size > LIMIT) {
      let victim = this.#victim++ % this.size;
      // One that is kept is passed over; if all are, the one at hand goes.
      for (let tries = this.size; tries > 0 && kept(this.row(victim)); tries--) victim = this.#victim++ % this.size;
      this.#splice(victim, 1, []);
      this.evicted++;
      this.#taken();
    }
  }

  /** Index of the first row that ends behind `at`. */
  #firstAfter(at: number): number {
    const { rows } = this.shared;
    let low = 0;
    let high = this.size;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (rows[middle * ROW_DOUBLES + ROW_END]! > at) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #splice(from: number, count: number, rows: readonly Translation[]): void {
    const { words, rows: all } = this.shared;
    const size = this.size;
    this.change(() => {
      all.copyWithin((from + rows.length) * ROW_DOUBLES, (from + count) * ROW_DOUBLES, size * ROW_DOUBLES);
      rows.forEach(({ start, end, region, offset, permission }, i) => {
        all.set([start, end, region, offset, permission], (from + i) * ROW_DOUBLES);
      });
      words[COUNT] = size + rows.length - count;
    });
  }
}
