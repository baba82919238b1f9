// hot
/** A worker's view of a pool, shared by all ports of the pool that the worker has. */
import { address, map, release } from '#contract/os.ts';
import { FinishedFrames } from '../frame/finished.ts';
import type { PoolGeometry } from './layout.ts';
import { C_FREE, PoolRecords, tryLock, unlock } from './records.ts';
import type { ReturnRing } from './returns.ts';

const FREE = C_FREE;
const take = tryLock;
const give = unlock;

/**
 * Under which name accesses past the end of a pool's file are reported (os.takeFaults): of no port, since a pool belongs to
 * several. Sessions look at the file's size themselves.
 */
export const POOL_OWNER = 2 ** 30;

/** What a worker needs to find a pool; plain data. */
export interface PoolPlace {
  /** Number of the pool, never used twice in a process; above 0. */
  readonly number: number;
  readonly fd: number;
  readonly geometry: PoolGeometry;
  readonly records: SharedArrayBuffer;
}

export class PoolView {
  readonly number: number;
  readonly geometry: PoolGeometry;
  readonly memory: ArrayBuffer;
  /** Absolute address of the pool. */
  readonly base: number;
  readonly records: PoolRecords;
  /** No other worker works on this pool: the lock is kept from poll to complete. */
  readonly alone: boolean;
  /** Return rings that this worker empties. */
  readonly returns: ReturnRing[] = [];
  /** Ports that use this view. */
  users = 0;
  /** By longest frame; ports of one MTU share them. */
  readonly #finished = new Map<number, FinishedFrames>();
  #depth = 0;
  /** All return rings were looked into since the lock was taken. */
  #looked = false;

  /** @throws OsError when the pool cannot be mapped. */
  constructor(place: PoolPlace, alone: boolean) {
    this.number = place.number;
    this.geometry = place.geometry;
    this.alone = alone;
    this.memory = map(place.fd, 0, place.geometry.size, { write: true, owner: POOL_OWNER });
    this.base = address(this.memory);
    this.records = new PoolRecords(place.records, place.geometry);
  }

  /** Takes the lock, or goes one level deeper where this worker has it. @returns false after `tries` vain attempts. */
  enter(tries: number): boolean {
    if (this.#depth > 0) {
      this.#depth++;
      return true;
    }
    const control = this.records.control;
    for (let i = 0; i < tries; i++) {
      if (take(control)) {
        this.#depth = 1;
        this.#looked = false;
        return true;
      }
    }
    return false;
  }

  leave(): void {
    if (--this.#depth === 0) give(this.records.control);
  }

  /** Free buffers, after a look into all return rings of this worker if there are fewer than `wanted`. Under the lock. */
  free(wanted: number): number {
    const control = this.records.control;
    if (control[FREE]! < wanted && !this.#looked) {
      this.#looked = true;
      const rings = this.returns;
      for (let i = 0; i < rings.length; i++) rings[i]!.look();
    }
    return control[FREE]!;
  }

  /** What makes frames of at most `longest` bytes of those that a port of this pool cannot take as they are. */
  finished(longest: number): FinishedFrames {
    const finished = this.#finished.get(longest) ?? new FinishedFrames(longest);
    this.#finished.set(longest, finished);
    return finished;
  }

  /** Lets go of the mapping and of private memory. */
  close(): void {
    this.#finished.forEach((finished) => {
      finished.close();
    });
    release(this.memory);
  }
}
