/** Where one queue pair's words lie in the pool, as indices of a Uint32Array: what rx and tx read and write. */
import {
  type PoolGeometry,
  queueAt,
  R_CONSUMER,
  R_PRODUCER,
  R_WAKE,
  RING_FREE,
  RING_RETURN,
  RING_RX,
  RING_TX,
  ringEntriesAt,
  ringHeaderAt,
  S_GENERATION,
  S_STATE,
  slotAt,
} from '#ports/ivshmem/layout.ts';
import type { GuestPool } from './pool.ts';

/** One ring: places of its words, and of its first entry. */
export interface RingPlace {
  readonly producer: number;
  readonly wake: number;
  readonly consumer: number;
  readonly entries: number;
}

/** A queue pair that this guest has joined. */
export interface QueuePlace {
  readonly pool: GuestPool;
  /** The slot's words that say whether it is still ours. */
  readonly state: number;
  readonly generationWord: number;
  readonly generation: number;
  readonly tx: RingPlace;
  readonly free: RingPlace;
  readonly rx: RingPlace;
  readonly back: RingPlace;
  /** Interrupts this guest; -1: nobody does. */
  readonly callFd: number;
  /** Interrupts the switch; -1: it polls. */
  readonly kickFd: number;
}

const ringPlace = (g: PoolGeometry, block: number, ring: number): RingPlace => {
  const header = block + ringHeaderAt(ring);
  return {
    producer: (header + R_PRODUCER) / 4,
    wake: (header + R_WAKE) / 4,
    consumer: (header + R_CONSUMER) / 4,
    entries: (block + ringEntriesAt(ring, g.entries)) / 4,
  };
};

/** The words of queue pair `queue` of a slot. */
export function queuePlace(
  pool: GuestPool,
  slot: number,
  queue: number,
  generation: number,
  fds: { callFd: number; kickFd: number },
): QueuePlace {
  const g = pool.geometry;
  const block = queueAt(g, slot, queue);
  return {
    pool,
    state: (slotAt(slot) + S_STATE) / 4,
    generationWord: (slotAt(slot) + S_GENERATION) / 4,
    generation,
    tx: ringPlace(g, block, RING_TX),
    free: ringPlace(g, block, RING_FREE),
    rx: ringPlace(g, block, RING_RX),
    back: ringPlace(g, block, RING_RETURN),
    ...fds,
  };
}
