/** The shared memory as a guest sees it: mapped, checked once, with one set of views; and the words of its slot. */
import { fileSize, map, release } from '#contract/os.ts';
import {
  FLAG_PLAIN,
  NAME_BYTES,
  PAGE,
  type PoolGeometry,
  readGeometry,
  S_CLIENT_NAME,
  S_FLAGS,
  S_GENERATION,
  S_HEARTBEAT,
  S_HELLO,
  S_NAME,
  S_QUEUES,
  S_RESET,
  S_STATE,
  STATE_BROKEN,
  STATE_CLOSED,
  STATE_FREE,
  STATE_READY,
  slotAt,
} from '#ports/ivshmem/layout.ts';

/** Fault owner of guest maps: nobody asks for it. */
const NO_OWNER = 0;

export class GuestPool {
  readonly geometry: PoolGeometry;
  readonly u8: Uint8Array;
  readonly u32: Uint32Array;
  readonly #buffer: ArrayBuffer;

  /** Maps the object; the descriptor stays the caller's. @throws OsError; RangeError that says why it is no pool. */
  constructor(fd: number) {
    const size = fileSize(fd);
    if (size < PAGE) throw new RangeError(`not an ivshmem pool: ${size} bytes`);
    const buffer = map(fd, 0, size, { write: true, owner: NO_OWNER });
    try {
      this.geometry = readGeometry(buffer, size);
    } catch (error) {
      release(buffer);
      throw error;
    }
    this.#buffer = buffer;
    this.u8 = new Uint8Array(buffer);
    this.u32 = new Uint32Array(buffer);
  }

  /** Gives the memory back. Reads find zeros from here on. */
  close(): void {
    release(this.#buffer);
  }

  /** @throws RangeError when the pool has no such slot, or it is the switch's. */
  slot(number: number): Slot {
    const last = this.geometry.slots - 1;
    if (number < 1 || number > last) throw new RangeError(`the pool has slots 1 to ${last}, no number ${number}`);
    return new Slot(this, number);
  }

  /**
   * The slot of the switch's port of that name or, without a name, the only one that has no doorbell.
   * @throws Error that says what there is.
   */
  findSlot(port: string | undefined): Slot {
    const taken = Array.from({ length: this.geometry.slots - 1 }, (_, i) => this.slot(i + 1)).filter(
      ({ state }) => state !== STATE_FREE && state !== STATE_CLOSED,
    );
    const found = taken.filter((slot) => (port === undefined ? slot.plain : slot.portName === port));
    if (found.length === 1) return found[0]!;
    const names = taken.map(({ portName }) => portName).join(', ') || 'none';
    const wanted = port === undefined ? 'exactly one without a doorbell (option port names one)' : port;
    throw new Error(`the pool has no slot of the port ${wanted}; its ports: ${names}`);
  }
}

/** One row of the slot table. */
export class Slot {
  readonly number: number;
  readonly #pool: GuestPool;
  readonly #row: number;

  constructor(pool: GuestPool, number: number) {
    this.#pool = pool;
    this.number = number;
    this.#row = slotAt(number);
  }

  get state(): number {
    return this.#load(S_STATE);
  }

  get generation(): number {
    return this.#load(S_GENERATION);
  }

  /** Queue pairs in use, never more than the pool has room for. */
  get queues(): number {
    return Math.min(Math.max(this.#load(S_QUEUES), 1), this.#pool.geometry.queues);
  }

  get plain(): boolean {
    return (this.#load(S_FLAGS) & FLAG_PLAIN) !== 0;
  }

  get portName(): string {
    const at = this.#row + S_NAME;
    const bytes = Buffer.from(this.#pool.u8.slice(at, at + NAME_BYTES));
    const end = bytes.indexOf(0);
    return bytes.toString('utf8', 0, end < 0 ? NAME_BYTES : end);
  }

  /** Somebody worked with the present generation, was here and left, or broke a ring: only a reset makes the slot ready again. */
  get used(): boolean {
    const { state, generation } = this;
    if (state !== STATE_READY) return state === STATE_BROKEN;
    return this.#load(S_HELLO) === generation || this.#load(S_RESET) === (generation + 1) >>> 0;
  }

  /** Whether the slot is still that of this generation. */
  holds(generation: number): boolean {
    return this.state === STATE_READY && this.generation === generation;
  }

  /** Asks the switch for another generation than this. */
  askReset(generation: number): void {
    this.#store(S_RESET, (generation + 1) >>> 0);
  }

  /** Says who works here, and with which generation. */
  hello(generation: number, name: string): void {
    const at = this.#row + S_CLIENT_NAME;
    this.#pool.u8.fill(0, at, at + NAME_BYTES);
    this.#pool.u8.set(Buffer.from(name).subarray(0, NAME_BYTES), at);
    this.#store(S_HELLO, generation);
  }

  /** Leaves. The generation is used up: who joins before the switch has looked must wait for the next one. */
  bye(): void {
    this.askReset(this.generation);
    this.#store(S_HELLO, 0);
  }

  beat(): void {
    const next = (this.#load(S_HEARTBEAT) + 1) >>> 0;
    this.#store(S_HEARTBEAT, next === 0 ? 1 : next);
  }

  #load(at: number): number {
    return Atomics.load(this.#pool.u32, (this.#row + at) / 4);
  }

  #store(at: number, value: number): void {
    Atomics.store(this.#pool.u32, (this.#row + at) / 4, value);
  }
}
