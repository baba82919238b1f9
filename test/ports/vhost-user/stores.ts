/** A process that can be killed at any store to memory that outlives it: views that count what is written through them. */

export class Killed extends Error {
  override name = 'Killed';
}

type Words = Uint8Array | Uint16Array | Uint32Array | Int32Array;

const targets = new WeakMap<object, Words>();
const real = { store: Atomics.store, load: Atomics.load };
let left = Number.POSITIVE_INFINITY;
let done = 0;

const tick = (): void => {
  if (left === 0) throw new Killed('killed');
  left--;
  done++;
};

// Atomics take no proxy; and those of the code under test count too.
Object.assign(Atomics, {
  store: (words: Words, index: number, value: number) => {
    tick();
    return real.store((targets.get(words) ?? words) as Int32Array, index, value);
  },
  load: (words: Words, index: number) => real.load((targets.get(words) ?? words) as Int32Array, index),
});

/** The same memory; each store is counted. */
export function watched<T extends Words>(words: T): T {
  const proxy = new Proxy(words, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
    set: (target, key, value) => {
      tick();
      return Reflect.set(target, key, value, target);
    },
  });
  targets.set(proxy, words);
  return proxy;
}

/** Runs `body`, and kills it in front of store number `at` (from 0 on). @returns stores done, and whether it was killed. */
export function killedAt(at: number, body: () => void): { stores: number; killed: boolean } {
  left = at;
  done = 0;
  try {
    body();
    return { stores: done, killed: false };
  } catch (error) {
    if (!(error instanceof Killed)) throw error;
    return { stores: done, killed: true };
  } finally {
    left = Number.POSITIVE_INFINITY;
  }
}
