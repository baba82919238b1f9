/** Ivshmem ports with their clients in this process, and the shortest switch between them. */
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, PORT_ROW } from '#contract/catalogue.ts';
import { close, eventfd, memfd } from '#contract/os.ts';
import { PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import { ivshmemPort } from '#ports/ivshmem/attachment.ts';
import { type PoolShape, STATE_CLOSED } from '#ports/ivshmem/layout.ts';
import { Pool } from '#ports/ivshmem/pool.ts';
import type { PortFactory, WorkerPort } from '#ports/port.ts';
import { Peer, unmapPeers } from './peer.ts';

export const batch = new PacketBatch();
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);

export const SHAPE: PoolShape = {
  size: 1 << 21,
  slots: 6,
  queues: 2,
  entries: 64,
  bufferBytes: 2048,
  headroom: 128,
  credit: 48,
};

/** Buffers few enough for the pool to run out of them, and for chance to hit on those of others. */
export const SMALL: PoolShape = {
  size: 1 << 18,
  slots: 5,
  queues: 2,
  entries: 64,
  bufferBytes: 512,
  headroom: 64,
  credit: 40,
};

export const makePool = (change: Partial<PoolShape> = {}): Pool => {
  const shape = { ...SHAPE, ...change };
  return new Pool(memfd('test-pool', shape.size, { seal: true }), shape, 0);
};

export const endPool = (pool: Pool): void => {
  unmapPeers(pool);
  pool.close();
  close(pool.place.fd);
};

/** Counters of a row that are not 0, by name. */
export const namedCounts = (counters: Float64Array): Record<string, number> => {
  const names = [
    ...PORT_COUNTERS.map((c, i) => [c.name, i] as const),
    ...DROP_REASONS.map((c, i) => [c.name, DROP_BASE + i] as const),
  ];
  return Object.fromEntries(names.filter(([, i]) => counters[i] !== 0).map(([name, i]) => [name, counters[i]!]));
};

export interface PortOptions {
  readonly mtu?: number;
  readonly queues?: number;
  readonly worker?: number;
  readonly workers?: number;
}

/** A slot with its worker's view and one client per queue pair. */
export class Side {
  readonly pool: Pool;
  readonly slot: number;
  port: WorkerPort;
  readonly peers: Peer[] = [];
  readonly counters = new Float64Array(PORT_ROW);
  readonly kickFds: number[] = [];
  readonly callFds: number[] = [];
  open = true;

  constructor(pool: Pool, slot: number, options: PortOptions = {}) {
    const { mtu = 1500, queues = 1 } = options;
    this.pool = pool;
    this.slot = slot;
    pool.open(slot, { queues, mtu, portNo: slot, name: `port${slot}`, plain: false });
    for (let q = 0; q < queues; q++) {
      this.peers.push(new Peer(pool, slot, q));
      this.kickFds.push(eventfd());
      this.callFds.push(eventfd());
    }
    this.port = this.attach(options, undefined);
  }

  /** A worker gets the port; the one before, if any, loses it. */
  attach(options: PortOptions, previous: WorkerPort | undefined = this.port): WorkerPort {
    const { mtu = 1500, worker = 0, workers = 1 } = options;
    const { pool, slot } = this;
    const queues = this.peers.map((_, queue) => ({
      queue,
      kickFd: this.kickFds[queue]!,
      callFd: this.callFds[queue]!,
    }));
    const attachment = { kind: 'ivshmem', portNo: slot, rxQueues: [], pool: pool.place, slot, queues, mtu };
    const context = { worker, workers, counters: { slots: this.counters, base: 0 }, batch };
    this.port = (ivshmemPort as PortFactory)(attachment, context, previous);
    return this.port;
  }

  get peer(): Peer {
    return this.peers[0]!;
  }

  counts(): Record<string, number | undefined> {
    return namedCounts(this.counters);
  }

  /** The client dies: the port is detached, its slot shut. */
  kill(): void {
    if (!this.open) return;
    this.open = false;
    this.port.close();
    this.pool.shut(this.slot, STATE_CLOSED);
    for (const fd of [...this.kickFds, ...this.callFds]) close(fd);
  }
}

/** One burst from a port's queue to others. @returns packets received. */
export const forward = (from: Side, to: readonly Pick<Side, 'port'>[], whole = false, queue = 0): number => {
  const rx = from.port.rx[queue]!;
  const n = rx.poll(batch, whole);
  if (n > 0) {
    for (const { port } of to) port.tx!.push(batch, list, n);
    batch.copy();
    for (const { port } of to) port.tx!.publish();
    rx.complete();
  }
  batch.clear();
  return n;
};

/** A frame of `length` bytes with bytes that differ from place to place. */
export const frameOf = (length: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i === 12 ? 8 : i === 13 ? 0 : (i * 7 + seed * 13) & 0xff));

/** Two clients of a small pool. */
export const withPair = (work: (a: Side, b: Side, pool: Pool) => void): void => {
  const pool = makePool(SMALL);
  const [a, b] = [1, 2].map((n) => new Side(pool, n));
  try {
    work(a!, b!, pool);
  } finally {
    a!.kill();
    b!.kill();
    endPool(pool);
  }
};

/** Every buffer is in one state, free ones are on the stack, and the switch is in no burst. */
export const balanced = (pool: Pool): boolean => {
  const a = pool.audit();
  return a.total === a.free + a.sending + a.receiving + a.held && a.stacked === a.free && a.held === 0;
};
