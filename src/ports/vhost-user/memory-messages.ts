/**
 * What the front end says of the guest's memory: tables and regions, and where the missing pages of a guest come from that
 * arrives by post-copy migration.
 */
import { type AnswerWithFd, RefusedError } from './device-host.ts';
import type { Region } from './guest-memory.ts';
import { MemoryTable } from './memory-table.ts';
import { Postcopy } from './postcopy.ts';
import { type PartFinder, placeRing, type Ring, ringParts } from './ring.ts';
import * as wire from './wire.ts';

/** What uses the memory, and must follow when it changes. */
export interface MemoryUser {
  /** Workers let go of everything. */
  detach(): Promise<void>;
  /** Workers get what there is now. */
  apply(): Promise<void>;
  /** Translations to this memory are void. */
  forget(): Promise<void>;
}

const NOTHING = new Uint8Array(0);

export class MemoryMessages {
  readonly table: MemoryTable;
  readonly postcopy = new Postcopy();
  readonly #user: MemoryUser;

  constructor(owner: number, user: MemoryUser) {
    this.table = new MemoryTable(owner);
    this.#user = user;
  }

  /** Workers may have the memory. */
  get ready(): boolean {
    return this.table.memory !== undefined && !this.postcopy.awaiting;
  }

  /** The regions as workers are to map them. */
  get regions(): readonly Region[] {
    const { memory, regions } = this.table;
    if (!memory || !this.postcopy.shared) return regions;
    return regions.map((region, i) => ({ ...region, mapped: memory.base[i]! }));
  }

  /** While pages are missing, the front end confirms by an eight-byte message that it brings those of the regions told. */
  isConfirmation({ code, payload }: wire.Message): boolean {
    const regions = code === wire.SET_MEM_TABLE || code === wire.ADD_MEM_REG || code === wire.REM_MEM_REG;
    return regions && this.postcopy.listening && payload.length === wire.U64.bytes;
  }

  /** @throws RefusedError when the front end cannot bring pages after all. */
  async confirmed(payload: Uint8Array): Promise<undefined> {
    if (wire.decodeU64(payload) !== 0n)
      throw new RefusedError('post-copy migration: the front end refused the regions');
    this.postcopy.awaiting = false;
    await this.#user.apply();
  }

  async set(payload: Uint8Array, fds: number[]): Promise<Uint8Array | undefined> {
    // Workers let go of the old table before it goes; rings start again on the new one.
    const rows = wire.decodeMemoryTable(payload);
    await this.#user.forget();
    await this.#user.detach();
    for (const buffer of this.table.memory?.buffers ?? []) this.postcopy.release(buffer);
    this.table.replace(rows, fds);
    const told = this.#serve();
    await this.#user.apply();
    if (!told) return undefined;
    const answer = payload.slice();
    rows.forEach((row, i) => {
      const userAddress = BigInt(told[i]!);
      wire.MEMORY_REGION.encode(
        { ...row, userAddress },
        answer,
        wire.MEMORY_HEADER.bytes + i * wire.MEMORY_REGION.bytes,
      );
    });
    return answer;
  }

  async add(payload: Uint8Array, fds: number[]): Promise<Uint8Array | undefined> {
    const row = wire.decodeRegion(payload);
    this.table.add(row, fds);
    const told = this.#serve();
    await this.#user.apply();
    if (!told) return undefined;
    const at = this.table.regions.findIndex(({ guestAddress }) => guestAddress === Number(row.guestAddress));
    return wire.encodeRegion({ ...row, userAddress: BigInt(told[at]!) });
  }

  async remove(payload: Uint8Array): Promise<undefined> {
    await this.#user.forget();
    const before = this.table.memory?.buffers ?? [];
    const done = this.table.remove(wire.decodeRegion(payload));
    try {
      await this.#user.apply();
    } finally {
      const now = this.table.memory?.buffers ?? [];
      for (const buffer of before) if (!now.includes(buffer)) this.postcopy.release(buffer);
      done();
    }
  }

  /** Pages of rings that the main thread is about to read are waited for, without stopping it. */
  async bring(rings: Iterable<Ring>, packed: boolean, find?: PartFinder): Promise<void> {
    if (!this.postcopy.listening) return;
    for (const ring of rings) {
      if (!ring.started || ring.synced || !this.ready) continue;
      const place = placeRing(ring, this.table, packed, find);
      if (typeof place === 'string' || place.windows) continue;
      const [desc, , used] = ringParts(ring, packed).map(({ bytes }) => bytes);
      const { base } = this.table.memory!;
      await this.postcopy.touch(base[place.usedRegion]! + place.usedOffset, used!);
      if (packed && this.postcopy.listening) {
        await this.postcopy.touch(base[place.descriptorRegion]! + place.descriptorOffset, desc!);
      }
    }
  }

  /** The front end asks who would tell it of missing pages. */
  async advise(): Promise<AnswerWithFd> {
    return { payload: NOTHING, fd: this.postcopy.advise() };
  }

  async listen(): Promise<undefined> {
    // Nobody would know where pages are missing in memory that is in use already.
    if (this.table.memory && !this.postcopy.listening) {
      throw new RefusedError('POSTCOPY_LISTEN with memory in use');
    }
    this.postcopy.listen();
  }

  async end(): Promise<Uint8Array> {
    this.postcopy.end();
    return wire.encodeU64(0n);
  }

  /** The front end has gone: whoever waits for a page goes on. */
  abandon(): void {
    this.postcopy.abandon();
  }

  /** Workers have let go. */
  clear(): void {
    this.postcopy.abandon();
    this.table.clear();
  }

  /** @returns the addresses of all regions in this process, when the front end is to know them. */
  #serve(): readonly number[] | undefined {
    const { memory } = this.table;
    if (!memory || !this.postcopy.listening) return undefined;
    this.postcopy.serve(memory.buffers);
    return [...memory.base];
  }
}
