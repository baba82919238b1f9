/**
 * The pools of a data process, by name. A pool is made with its first port and goes with its last; every port has a slot in
 * it, which is its client's peer id, for as long as the port lives.
 *
 * Ports of one pool share one object, so they must agree on it: what a port leaves unsaid is as the pool has it.
 */
import { type Backing, fileBacking, memoryBacking } from './backing.ts';
import { MAGIC_HIGH, MAGIC_LOW } from './layout.ts';
import { DEFAULT_SIZE, type PoolSettings } from './options.ts';
import { Pool } from './pool.ts';
import type { ClientConnection, Peer } from './server.ts';
import { BUFFER_BYTES, shapeOf } from './shape.ts';
import { POOL_OWNER } from './view.ts';

/** How often the pools show clients that the switch lives. */
const HEARTBEAT_MS = 1000;

/** A client that is connected, as the other clients of its pool get to know it. */
interface Guest {
  readonly peer: Peer;
  readonly connection: ClientConnection;
}

/**
 * A client with the ids that it has been told of. QEMU's device has room for each peer once: it frees what it keeps of a peer
 * that goes, and writes there and frees it again when a peer of the same id comes and goes (hw/misc/ivshmem.c,
 * close_peer_eventfds; seen with 7.2). So a peer that comes back is not told of again; nobody misses it, since guests ring
 * the switch only.
 */
interface ToldGuest extends Guest {
  readonly told: Set<number>;
}

/** A port's place in a pool. */
export class Seat {
  readonly shared: SharedPool;
  readonly slot: number;
  readonly portNo: number;
  /** The memory was taken away: resolves when nothing of the port uses it. */
  readonly onLoss: (reason: string) => Promise<void>;
  readonly #leave: (seat: Seat) => void;

  constructor(
    shared: SharedPool,
    slot: number,
    portNo: number,
    onLoss: (reason: string) => Promise<void>,
    leave: (seat: Seat) => void,
  ) {
    this.shared = shared;
    this.slot = slot;
    this.portNo = portNo;
    this.onLoss = onLoss;
    this.#leave = leave;
  }

  /** The other clients that are connected. */
  others(): Peer[] {
    const others = this.shared.guests.filter((guest) => guest !== undefined && guest.peer.id !== this.slot);
    return others.map((guest) => guest!.peer);
  }

  /** A client came: the others hear of it, once. Its descriptors stay open until `departed`. */
  arrived(guest: Guest): void {
    const { guests } = this.shared;
    // First of all it is one of them: should another be lost while it is told, the new one hears of that.
    guests[this.slot] = { ...guest, told: new Set(this.others().map(({ id }) => id)) };
    for (const other of guests) {
      if (other === undefined || other.peer.id === this.slot || other.told.has(this.slot)) continue;
      other.told.add(this.slot);
      other.connection.joined(guest.peer);
    }
  }

  /** It went: its descriptors may be closed. */
  departed(): void {
    if (this.shared.guests[this.slot] === undefined) return;
    this.shared.guests[this.slot] = undefined;
    for (const other of this.shared.guests) other?.connection.gone(this.slot);
  }

  /** Gives the place back. The slot must be closed. */
  leave(): void {
    this.#leave(this);
  }
}

/** One pool with who sits in it. */
export class SharedPool {
  readonly name: string;
  readonly isolated: boolean;
  readonly backing: Backing;
  /** Why the pool could not be made anew; empty when it could. */
  error = '';
  /** While the memory is being made anew. */
  renewed: Promise<void> | undefined;
  pool: Pool;
  /** By slot. */
  readonly seats: (Seat | undefined)[];
  /** By slot: clients that are connected. */
  readonly guests: (ToldGuest | undefined)[];

  constructor(name: string, isolated: boolean, backing: Backing, pool: Pool) {
    this.name = name;
    this.isolated = isolated;
    this.backing = backing;
    this.pool = pool;
    this.seats = new Array(pool.geometry.slots).fill(undefined);
    this.guests = new Array(pool.geometry.slots).fill(undefined);
  }

  /** Its memory was taken away: all ports let go of it, then it is made anew in the same object. */
  fault(reason: string): void {
    if (this.renewed) return;
    const letGo = this.seats.map((seat) => seat?.onLoss(reason));
    this.renewed = Promise.all(letGo).then(() => this.#renew());
  }

  #renew(): void {
    this.renewed = undefined;
    // All ports may have left meanwhile, and the pool with them.
    if (this.seats.every((seat) => seat === undefined)) return;
    this.error = '';
    try {
      const { bufferBytes } = this.pool.geometry;
      this.backing.restore();
      this.pool.close();
      this.pool = new Pool(this.backing.fd, shapeOf(this.backing.size, this.isolated, bufferBytes), POOL_OWNER);
    } catch (error) {
      this.error = (error as Error).message;
    }
  }
}

export class Pools {
  readonly #pools = new Map<string, SharedPool>();
  #timer: NodeJS.Timeout | undefined;

  /** Pools there are. */
  get size(): number {
    return this.#pools.size;
  }

  /** @throws Error that names the option which contradicts the pool's other ports, and the fix. */
  check(port: string, wanted: PoolSettings, portNo: number): void {
    const shared = this.#pools.get(wanted.name);
    const others = shared?.seats.filter((seat) => seat !== undefined && seat.portNo !== portNo) ?? [];
    if (!shared || others.length === 0) return;
    const { backing } = shared;
    const refuse = (option: string, is: string, has: string): never => {
      throw new Error(
        `option ${option} of port ${port} is ${is}, but pool "${wanted.name}", which other ports use, has ${has}; leave ${option} out, or name another pool`,
      );
    };
    if (wanted.size !== undefined && wanted.size !== backing.size)
      refuse('size', `${wanted.size}`, `${backing.size} bytes`);
    const { bufferBytes } = shared.pool.geometry;
    if (wanted.bufferBytes !== undefined && wanted.bufferBytes !== bufferBytes)
      refuse('buffer-size', `${wanted.bufferBytes}`, `${bufferBytes} bytes`);
    if (wanted.backing === 'memfd' && backing.where !== 'memfd')
      refuse('backing', 'memfd', `the file ${backing.where}`);
    if (typeof wanted.backing === 'object' && wanted.backing.path !== backing.where)
      refuse(backing.where === 'memfd' ? 'backing' : 'backing-path', wanted.backing.path, backing.where);
    if (others.length >= shared.seats.length - 1)
      throw new Error(`pool "${wanted.name}" has ${others.length} ports, as many as fit; name another pool`);
  }

  /** A place in the pool, which is made if need be. @throws Error as `check`, or when the object cannot be made. */
  join(port: string, wanted: PoolSettings, portNo: number, onLoss: Seat['onLoss']): Seat {
    this.check(port, wanted, portNo);
    const shared = this.#pools.get(wanted.name) ?? this.#make(wanted);
    // Slot 0 is the switch.
    const slot = shared.seats.findIndex((seat, at) => at > 0 && seat === undefined);
    const seat = new Seat(shared, slot, portNo, onLoss, (left) => this.#leave(left));
    shared.seats[slot] = seat;
    return seat;
  }

  #make(wanted: PoolSettings): SharedPool {
    const size = wanted.size ?? DEFAULT_SIZE;
    const backing =
      typeof wanted.backing === 'object'
        ? fileBacking(wanted.backing, size, isPool)
        : memoryBacking(`pool-${wanted.name}`, size);
    let shared: SharedPool;
    try {
      shared = new SharedPool(
        wanted.name,
        wanted.isolated,
        backing,
        new Pool(backing.fd, shapeOf(size, wanted.isolated, wanted.bufferBytes ?? BUFFER_BYTES), POOL_OWNER),
      );
    } catch (error) {
      backing.close();
      throw error;
    }
    this.#pools.set(wanted.name, shared);
    this.#timer ??= setInterval(() => this.#beat(), HEARTBEAT_MS).unref();
    return shared;
  }

  #leave(seat: Seat): void {
    const { shared } = seat;
    shared.seats[seat.slot] = undefined;
    if (shared.seats.some((other) => other !== undefined)) return;
    this.#pools.delete(shared.name);
    shared.pool.close();
    shared.backing.close();
    if (this.#pools.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #beat(): void {
    for (const { pool } of this.#pools.values()) pool.beat();
  }
}

const isPool = (start: ArrayBuffer): boolean => {
  const words = new Uint32Array(start, 0, 2);
  // A switch that was killed while it formatted the file has written the first half only.
  return words[0] === MAGIC_LOW && (words[1] === MAGIC_HIGH || words[1] === 0);
};
