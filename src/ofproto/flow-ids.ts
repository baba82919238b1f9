/** Megaflow ids: small numbers, each given to one flow at a time. */
export class FlowIds {
  readonly #limit: number;
  readonly #free: number[] = [];
  readonly #taken = new Set<number>();
  #next = 0;
  #highest = -1;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @returns an id that nobody has, or -1 when all are given out. */
  take(): number {
    for (;;) {
      const id = this.#free.pop() ?? (this.#next < this.#limit ? this.#next++ : -1);
      if (id >= 0 && this.#taken.has(id)) continue;
      if (id >= 0) this.#taken.add(id);
      return id;
    }
  }

  /** Marks an id as given out (found in use after a restart). */
  reserve(id: number): void {
    this.#taken.add(id);
    if (id > this.#highest) this.#highest = id;
  }

  /** Every id that was ever given out or reserved is below. */
  get end(): number {
    return Math.max(this.#next, this.#highest + 1);
  }

  free(id: number): void {
    if (this.#taken.delete(id)) this.#free.push(id);
  }

  clear(): void {
    this.#free.length = 0;
    this.#taken.clear();
    this.#next = 0;
    this.#highest = -1;
  }
}
