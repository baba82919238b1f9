/**
 * Guest memory: the regions of a memory table, checked at the door, mapped, and translated.
 *
 * Two address spaces name the same bytes: guest physical addresses (descriptors) and addresses of the front end's own
 * process (ring addresses of SET_VRING_ADDR). All numbers are doubles: `checkRegions` admits nothing at or above 2^52, so
 * that a sum of two of them is exact. A worker's translation table is one flat Float64Array of (start, end, delta) per
 * region: a range [a, a + n) lies in a region when start <= a and a + n <= end, and its address here is a + delta.
 */
import { address, alias, release } from '#contract/os.ts';
import { type FilePart, mapFiles } from '../memory.ts';
import type { Piece } from './ring-windows.ts';
import type { MemoryRegion } from './wire.ts';

const LIMIT = 2 ** 52;

/** One region, in plain numbers. */
export interface Region extends FilePart {
  readonly guestAddress: number;
  readonly userAddress: number;
  /** Where this process has it mapped already, for all threads alike; else each maps it for itself. */
  readonly mapped?: number;
}

export const TABLE_START = 0;
export const TABLE_END = 1;
export const TABLE_DELTA = 2;
export const TABLE_STRIDE = 3;

/** Turns a memory table into numbers. @throws RangeError that says which region is impossible and why. */
export function checkRegions(rows: readonly MemoryRegion[], fds: readonly number[]): Region[] {
  if (rows.length !== fds.length) throw new RangeError(`${rows.length} memory regions, ${fds.length} descriptors`);
  const regions = rows.map((row, i) => {
    const limit = BigInt(LIMIT);
    if (row.size === 0n) throw new RangeError(`memory region ${i} is empty`);
    for (const [what, start] of [
      ['guest address', row.guestAddress],
      ['user address', row.userAddress],
      ['mmap offset', row.mmapOffset],
    ] as const) {
      if (start >= limit || row.size >= limit || start + row.size > limit) {
        throw new RangeError(
          `memory region ${i}: ${what} 0x${start.toString(16)} plus size 0x${row.size.toString(16)} is too large`,
        );
      }
    }
    return {
      guestAddress: Number(row.guestAddress),
      userAddress: Number(row.userAddress),
      size: Number(row.size),
      fd: fds[i]!,
      mmapOffset: Number(row.mmapOffset),
    };
  });
  for (const space of ['guestAddress', 'userAddress'] as const) {
    const order = [...regions].sort((a, b) => a[space] - b[space]);
    for (let i = 1; i < order.length; i++) {
      if (order[i - 1]![space] + order[i - 1]!.size > order[i]![space]) {
        throw new RangeError(
          `memory regions overlap at ${space === 'guestAddress' ? 'guest' : 'user'} address 0x${order[i]![space].toString(16)}`,
        );
      }
    }
  }
  return regions;
}

/**
 * A place in the memory table. Behind an IOMMU it may be scattered, region -1; `pieces` are the pages that it lies in.
 */
export interface Place {
  readonly region: number;
  readonly offset: number;
  readonly pieces?: readonly Piece[];
}

/**
 * Finds a front-end address. @returns undefined unless [at, at + length) lies wholly in one region.
 * @param at, length any non-negative integers.
 */
export function findUserAddress(regions: readonly Region[], at: bigint, length: number): Place | undefined {
  if (at >= BigInt(LIMIT)) return undefined;
  const start = Number(at);
  const region = regions.findIndex((r) => start >= r.userAddress && start + length <= r.userAddress + r.size);
  return region < 0 ? undefined : { region, offset: start - regions[region]!.userAddress };
}

/** The same bytes of the same open file at the same addresses. A descriptor stays open while a table names it. */
const same = (a: Region, b: Region): boolean =>
  a.fd === b.fd &&
  a.guestAddress === b.guestAddress &&
  a.userAddress === b.userAddress &&
  a.size === b.size &&
  a.mmapOffset === b.mmapOffset &&
  a.mapped === b.mapped;

/**
 * Where a worker finds the bytes that a guest's addresses name: rows of `table`, each of which lies in one buffer. Rows may
 * change between two calls of `find`.
 */
export interface AddressSpace {
  /** TABLE_STRIDE doubles per row. */
  readonly table: Float64Array;
  /** A view of the buffer that row r lies in, and the address of its first word. */
  readonly u32: readonly Uint32Array[];
  readonly base: Float64Array;
  /** Rows that one range may cross, at most. */
  readonly most: number;
  /** The argument of `find`, a double that needs no object this way. */
  readonly at: Float64Array;
  /** What an address is that the last `find` did not find, as a WALK_ result of chain.ts. */
  readonly absent: number;
  /** The row that holds guest address `at`; -1: none. */
  find(): number;
}

/** WALK_BAD of chain.ts: an address outside of the memory table is no address. */
const BAD = 1;

/** A mapped memory table. Each thread that touches guest memory has its own. */
export class GuestMemory implements AddressSpace {
  readonly regions: readonly Region[];
  readonly count: number;
  readonly buffers: readonly ArrayBuffer[];
  /** Region r is u32[r]: for indirect tables. */
  readonly u32: readonly Uint32Array[];
  readonly base: Float64Array;
  /** Guest address translation, TABLE_STRIDE doubles per region. */
  readonly table: Float64Array;
  readonly most: number;
  readonly at = new Float64Array(1);
  readonly absent = BAD;
  /** Mappings to be released by `close`: those that no later table took over. */
  readonly #own: Set<ArrayBuffer>;

  /**
   * @param owner port number for the SIGBUS guard.
   * @param previous a table of this thread, whose mappings are taken over for regions that both have.
   * @throws OsError when a region cannot be mapped; `previous` is what it was then.
   */
  constructor(regions: readonly Region[], owner: number, previous?: GuestMemory) {
    const kept = regions.map((r) =>
      r.mapped === undefined
        ? previous?.buffers[previous.regions.findIndex((old) => same(old, r))]
        : alias(r.mapped, r.size),
    );
    const fresh = mapFiles(
      regions.filter((_, i) => kept[i] === undefined),
      owner,
    );
    const buffers = kept.map((buffer) => buffer ?? fresh.shift()!);
    if (previous) for (const buffer of buffers) previous.#own.delete(buffer);
    this.regions = regions;
    this.count = regions.length;
    this.buffers = buffers;
    this.#own = new Set(buffers.filter((_, i) => regions[i]!.mapped === undefined));
    this.u32 = buffers.map((buffer) => new Uint32Array(buffer, 0, Math.floor(buffer.byteLength / 4)));
    this.base = Float64Array.from(buffers, address);
    this.most = regions.length;
    this.table = new Float64Array(regions.length * TABLE_STRIDE);
    regions.forEach((r, i) => {
      this.table[i * TABLE_STRIDE + TABLE_START] = r.guestAddress;
      this.table[i * TABLE_STRIDE + TABLE_END] = r.guestAddress + r.size;
      this.table[i * TABLE_STRIDE + TABLE_DELTA] = this.base[i]! - r.guestAddress;
    });
  }

  find(): number {
    return regionOf(this.table, this.count, this.at[0]!);
  }

  /** Lets the guest's memory go now; views of it read zeros from here on. */
  close(): void {
    for (const buffer of this.#own) release(buffer);
    this.#own.clear();
  }
}

/** The region that holds guest address `at`, of the first `count` rows of a translation table; -1: none. */
export const regionOf = (table: Float64Array, count: number, at: number): number => {
  for (let r = 0; r < count; r++) {
    if (at >= table[r * TABLE_STRIDE + TABLE_START]! && at < table[r * TABLE_STRIDE + TABLE_END]!) return r;
  }
  return -1;
};
