// hot
/**
 * Guest memory behind an IOMMU, as one worker sees it: the translations that it needs now, taken from the shared table
 * (iotlb-shared.ts) one by one, and keys asked for where there are none.
 *
 * What a worker remembers is good within one burst: the main thread takes a translation out of the shared table and then
 * waits until no worker is inside a burst that began before. On entering the next one the worker sees that EPOCH has moved.
 */
import { eventfdSignal } from '#contract/os.ts';
import { MAX_PIECES, WALK_BAD, WALK_WAIT } from './chain.ts';
import {
  type AddressSpace,
  type GuestMemory,
  regionOf,
  TABLE_DELTA,
  TABLE_END,
  TABLE_START,
  TABLE_STRIDE,
} from './guest-memory.ts';
import {
  ASKED,
  COUNT,
  EPOCH,
  INSIDE,
  IOTLB_PAGE,
  type IotlbShared,
  keyOf,
  MAX_ASKS,
  MAX_REFUSED,
  ROW_DOUBLES,
  ROW_END,
  ROW_OFFSET,
  ROW_PERMISSION,
  ROW_REGION,
  ROW_START,
  SEQ,
  TAKEN,
} from './iotlb-shared.ts';

const START = TABLE_START;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;
const R_START = ROW_START;
const R_END = ROW_END;
const R_REGION = ROW_REGION;
const R_OFFSET = ROW_OFFSET;
const R_PERMISSION = ROW_PERMISSION;
const R_STRIDE = ROW_DOUBLES;
const SEQUENCE = SEQ;
const ENTRIES = COUNT;
const ASKS = MAX_ASKS;
const REFUSED = MAX_REFUSED;
const PAGE = IOTLB_PAGE;
const BAD = WALK_BAD;
const WAIT = WALK_WAIT;
const key = keyOf;
const signal = eventfdSignal;
const region = regionOf;

/** Translations that a space remembers. */
const KEPT = 32;
/** No translation lies above. */
const ADDRESSES = 2 ** 52;
/** Looks at a table that is being changed, at most; what is not seen then is looked for in the next poll. */
const LOOKS = 8;

/** A worker's side of the questions and of the bursts of one port. */
export class IommuWorker {
  readonly shared: IotlbShared;
  readonly worker: number;
  /** Keys asked so far. */
  asked = 0;
  readonly #missFd: number;
  readonly #spaces: IovaSpace[] = [];
  /** Keys asked for since EPOCH moved last; their answers are on their way. */
  readonly #recent = new Float64Array(MAX_ASKS);
  #depth = 0;
  #epoch = -1;

  /** @param missFd eventfd by which the main thread hears of questions. */
  constructor(shared: IotlbShared, worker: number, missFd: number) {
    this.shared = shared;
    this.worker = worker;
    this.#missFd = missFd;
  }

  add(space: IovaSpace): void {
    this.#spaces.push(space);
  }

  /** A burst begins; bursts of several queues may nest. */
  enter(): void {
    if (this.#depth++ > 0) return;
    const words = this.shared.words;
    Atomics.add(words, INSIDE + this.worker, 1);
    const epoch = Atomics.load(words, EPOCH);
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.#recent.fill(0);
    const spaces = this.#spaces;
    const count = spaces.length;
    for (let i = 0; i < count; i++) spaces[i]!.forget();
  }

  /** A burst ends: nothing that was translated in it is used any more. */
  leave(): void {
    if (--this.#depth === 0) Atomics.add(this.shared.words, INSIDE + this.worker, 1);
  }

  /** The view goes while a burst may be open. */
  close(): void {
    if (this.#depth === 0) return;
    this.#depth = 1;
    this.leave();
  }

  /** Asks for the translation of `at`. @returns WALK_WAIT, or WALK_BAD for one that was refused. */
  ask(at: Float64Array, permission: number): number {
    const wanted = key(at[0]!, permission);
    const refused = this.shared.refused;
    for (let i = 0; i < REFUSED; i++) if (refused[i] === wanted) return BAD;
    const recent = this.#recent;
    for (let i = 0; i < ASKS; i++) if (recent[i] === wanted) return WAIT;
    const words = this.shared.words;
    const worker = this.worker;
    const head = words[ASKED + worker]!;
    if (((head - Atomics.load(words, TAKEN + worker)) | 0) >= ASKS) return WAIT;
    this.shared.asks[worker * ASKS + (head & (ASKS - 1))] = wanted;
    Atomics.store(words, ASKED + worker, (head + 1) | 0);
    recent[this.asked & (ASKS - 1)] = wanted;
    this.asked = (this.asked + 1) | 0;
    signal(this.#missFd);
    return WAIT;
  }
}

/** Addresses that may be read, or written. */
export class IovaSpace implements AddressSpace {
  readonly table = new Float64Array(KEPT * STRIDE);
  readonly u32: Uint32Array[] = [];
  readonly base = new Float64Array(KEPT);
  readonly most = MAX_PIECES;
  readonly at = new Float64Array(1);
  absent: number = BAD;
  protected next = 0;
  readonly #iommu: IommuWorker;
  readonly #memory: GuestMemory;
  readonly #permission: number;

  // set-up
  constructor(iommu: IommuWorker, memory: GuestMemory, permission: number) {
    this.#iommu = iommu;
    this.#memory = memory;
    this.#permission = permission;
    for (let i = 0; i < KEPT; i++) this.u32.push(memory.u32[0]!);
    this.base.fill(memory.base[0]!);
    iommu.add(this);
  }

  forget(): void {
    this.table.fill(0);
  }

  find(): number {
    const at = this.at[0]!;
    const kept = region(this.table, KEPT, at);
    if (kept >= 0) return kept;
    const fetched = this.#fetch(at);
    if (fetched >= 0) return fetched;
    if (fetched === -2) this.absent = WAIT;
    else this.absent = at < ADDRESSES ? this.#iommu.ask(this.at, this.#permission) : BAD;
    return -1;
  }

  /** Takes over the shared row that holds `at`. @returns where it is kept now, -1 there is none, -2 look again later. */
  #fetch(at: number): number {
    const shared = this.#iommu.shared;
    const words = shared.words;
    const rows = shared.rows;
    for (let look = 0; look < LOOKS; look++) {
      const seen = Atomics.load(words, SEQUENCE);
      if ((seen & 1) !== 0) continue;
      let low = 0;
      let high = words[ENTRIES]!;
      const count = high;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (rows[middle * R_STRIDE + R_END]! > at) high = middle;
        else low = middle + 1;
      }
      const row = low * R_STRIDE;
      const start = rows[row + R_START]!;
      const end = rows[row + R_END]!;
      const number = rows[row + R_REGION]!;
      const offset = rows[row + R_OFFSET]!;
      const permission = rows[row + R_PERMISSION]!;
      if (Atomics.load(words, SEQUENCE) !== seen) continue;
      if (low === count || at < start || (permission & this.#permission) === 0) return -1;
      return this.#keep(start, end, number, offset);
    }
    return -2;
  }

  #keep(start: number, end: number, number: number, offset: number): number {
    const memory = this.#memory;
    const place = this.next;
    this.next = place + 1 === KEPT ? 0 : place + 1;
    const base = memory.base[number]!;
    this.u32[place] = memory.u32[number]!;
    this.base[place] = base;
    this.table[place * STRIDE + START] = start;
    this.table[place * STRIDE + END] = end;
    this.table[place * STRIDE + DELTA] = base + offset - start;
    return place;
  }
}

/**
 * A space for looking ahead: what has no translation is asked for and passed over as if it had one, so that one look asks
 * for everything. The pieces found are not to be used.
 */
export class AskingSpace extends IovaSpace {
  override find(): number {
    const row = super.find();
    if (row >= 0) return row;
    const page = Math.floor(this.at[0]! / PAGE) * PAGE;
    const place = this.next;
    this.table[place * STRIDE + START] = page;
    this.table[place * STRIDE + END] = page + PAGE;
    return place;
  }

  /** Looks at what follows, after all that was passed over has been forgotten. */
  override forget(): void {
    super.forget();
    this.next = 0;
  }
}
