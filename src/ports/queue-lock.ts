// hot
/** The lock of a tx queue that several workers send on: a word of memory that they share, 0 while it is free. */

/** Some microseconds: more than a burst of another worker takes. */
const SPINS = 20_000;
/** Milliseconds. */
const WAITS = 100;

/** @returns false when the lock did not come free: its holder's thread lost its CPU. */
export function lockQueue(state: Int32Array, at: number): boolean {
  for (let spin = 0; spin < SPINS; spin++) {
    if (state[at] === 0 && Atomics.compareExchange(state, at, 0, 1) === 0) return true;
  }
  return false;
}

/** As lockQueue, but waits for such a holder too, where frames must not be lost. */
export function lockQueueSurely(state: Int32Array, at: number): boolean {
  if (lockQueue(state, at)) return true;
  for (let wait = 0; wait < WAITS; wait++) {
    Atomics.wait(state, at, 1, 1);
    if (Atomics.compareExchange(state, at, 0, 1) === 0) return true;
  }
  return false;
}

export function unlockQueue(state: Int32Array, at: number): void {
  Atomics.store(state, at, 0);
}
