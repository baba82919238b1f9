/**
 * The memory table of a connection, in the main thread: set as a whole (SET_MEM_TABLE) or region by region (ADD_MEM_REG,
 * REM_MEM_REG).
 *
 * It owns the descriptors of its regions. Workers map them for themselves and must have let go of a region before its
 * descriptor is closed: so what removes one gives back a function that does the rest, for when they have.
 */
import { close } from '#contract/os.ts';
import { checkFiles, sealed } from '../memory.ts';
import { checkRegions, GuestMemory, type Region } from './guest-memory.ts';
import { MAX_REGIONS, type MemoryRegion } from './wire.ts';

let generations = 0;

export class MemoryTable {
  readonly #owner: number;
  #rows: readonly MemoryRegion[] = [];
  #regions: readonly Region[] = [];
  /**
   * How often a region was added beyond the first time. QEMU 7.2 has a device of its own for each queue pair behind one
   * connection, and each of them adds and removes the guest's regions (QEMU, hw/virtio/vhost-user.c).
   */
  readonly #repeats = new Map<MemoryRegion, number>();
  #memory: GuestMemory | undefined;
  #generation = 0;
  /** Why there is no memory though some was sent; empty otherwise. */
  error = '';

  /** @param owner port number for the SIGBUS guard. */
  constructor(owner: number) {
    this.#owner = owner;
  }

  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** The regions, mapped in this thread; undefined while there are none. */
  get memory(): GuestMemory | undefined {
    return this.#memory;
  }

  /** Number of the table as it is now, never used twice in a process. */
  get generation(): number {
    return this.#generation;
  }

  facts(): Record<string, string> {
    if (!this.#memory) return {};
    return {
      memory: sealed(this.#regions) ? 'sealed' : 'unsealed',
      memory_regions: String(this.#regions.length),
      memory_bytes: String(this.#regions.reduce((sum, r) => sum + r.size, 0)),
    };
  }

  /** Replaces all regions, which nobody may be using. `fds` are taken over. @throws Error when the table makes no sense. */
  replace(rows: readonly MemoryRegion[], fds: number[]): void {
    this.clear();
    this.#guarded(() => this.#become(rows, fds));
    fds.fill(-1);
  }

  /**
   * Adds one region, whose descriptor is taken over; one that is there already must be removed as often as it was added.
   * @throws Error when it makes no sense; the table stays as it was.
   */
  add(row: MemoryRegion, fds: number[]): void {
    if (fds.length !== 1) throw new RangeError('the memory region came without a descriptor');
    const same = this.#find(row);
    if (same && same.mmapOffset === row.mmapOffset) {
      this.#repeats.set(same, (this.#repeats.get(same) ?? 0) + 1);
      close(fds[0]!);
      fds[0] = -1;
      return;
    }
    if (this.#rows.length === MAX_REGIONS) throw new RangeError(`there are ${MAX_REGIONS} memory regions already`);
    this.#guarded(() => this.#become([...this.#rows, row], [...this.#regions.map(({ fd }) => fd), fds[0]!]));
    fds[0] = -1;
  }

  /**
   * Takes the region with these addresses and this size out. @returns what is to be done when workers have let go of it.
   * @throws RangeError when there is none.
   */
  remove({ guestAddress, userAddress, size }: MemoryRegion): () => void {
    const row = this.#find({ guestAddress, userAddress, size });
    if (!row) throw new RangeError(`there is no memory region of ${size} bytes at 0x${guestAddress.toString(16)}`);
    const repeats = this.#repeats.get(row) ?? 0;
    if (repeats > 0) {
      this.#repeats.set(row, repeats - 1);
      return () => {};
    }
    const at = this.#rows.indexOf(row);
    const { fd } = this.#regions[at]!;
    const before = this.#memory;
    const others = <T>(list: readonly T[]): T[] => list.filter((_, i) => i !== at);
    if (this.#rows.length > 1)
      this.#become(
        others(this.#rows),
        others(this.#regions).map((region) => region.fd),
      );
    else this.#forget();
    this.#repeats.delete(row);
    return () => {
      before?.close();
      close(fd);
    };
  }

  /** Drops all regions, which nobody may be using. */
  clear(): void {
    this.#memory?.close();
    for (const { fd } of this.#regions) close(fd);
    this.#forget();
  }

  #find({ guestAddress, userAddress, size }: Omit<MemoryRegion, 'mmapOffset'>): MemoryRegion | undefined {
    return this.#rows.find(
      (row) => row.guestAddress === guestAddress && row.userAddress === userAddress && row.size === size,
    );
  }

  #forget(): void {
    this.#repeats.clear();
    this.#rows = [];
    this.#regions = [];
    this.#memory = undefined;
  }

  #become(rows: readonly MemoryRegion[], fds: readonly number[]): void {
    const regions = checkRegions(rows, fds);
    checkFiles(regions);
    this.#memory = new GuestMemory(regions, this.#owner, this.#memory);
    this.#rows = rows;
    this.#regions = regions;
    this.#generation = ++generations;
  }

  #guarded(change: () => void): void {
    try {
      change();
      this.error = '';
    } catch (error) {
      if (!this.#memory) {
        this.error = `the memory table was refused: ${(error as Error).message}; is the guest's memory shared (share=on)?`;
      }
      throw error;
    }
  }
}
