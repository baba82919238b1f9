/** Numbers that one seed decides: the same on every machine, and a stream of its own for every (seed, case). */

/** xorshift128 (Marsaglia, "Xorshift RNGs", 2003), its state spread from the seed by a multiplicative hash. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number, stream: number) {
    let h = 0x9e3779b9;
    const spread = (word: number): number => {
      h = Math.imul(h ^ (word >>> 0), 0x85ebca6b);
      h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
      h ^= h >>> 16;
      return h;
    };
    this.#a = spread(seed);
    this.#b = spread(seed / 4294967296);
    this.#c = spread(stream);
    this.#d = spread(stream / 4294967296) | 1;
    for (let i = 0; i < 8; i++) this.word();
  }

  /** 32 bits. */
  word(): number {
    const t = this.#d ^ (this.#d << 11);
    this.#d = this.#c;
    this.#c = this.#b;
    this.#b = this.#a;
    this.#a = this.#a ^ (this.#a >>> 19) ^ t ^ (t >>> 8);
    return this.#a >>> 0;
  }

  /** 0 to below - 1. */
  below(below: number): number {
    return Math.floor((this.word() / 4294967296) * below);
  }

  /** least to most, both included. */
  range(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** 64 bits. */
  wide(): bigint {
    return (BigInt(this.word()) << 32n) | BigInt(this.word());
  }
}
