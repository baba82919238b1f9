// hot
/**
 * Chains that were taken from a packed ring and wait to be given back: private records, then one pass over the ring.
 *
 * Order of the pass: entries behind the head of the first chain, the other chains, and last the first head, which shows
 * all of them at once to a driver that goes in order. A data plane that dies within the pass leaves exactly that head
 * behind, which `findPlace` sees.
 */
import type { PackedVring } from './vring-packed.ts';
import { EVENT_DESC, EVENT_DISABLE, PACKED_AVAIL, PACKED_USED, passesPackedEvent, WRAP_BIT } from './vring-packed.ts';

const USED_BITS = (PACKED_AVAIL | PACKED_USED) << 16;
const MEMBER_KEEPS = ~USED_BITS;
const WRAP = WRAP_BIT;
const passes = passesPackedEvent;

export class UsedChains {
  /** Chains, and their entries in all. */
  count = 0;
  entries = 0;
  /** Entries that were given back since the driver's wish was last read. */
  untold = 0;
  /** Buffer id, bytes written, and ring entries of each chain. */
  readonly id: Uint16Array;
  readonly length: Uint32Array;
  readonly span: Uint16Array;
  readonly #vring: PackedVring;
  readonly #eventIdx: boolean;

  /** @param most chains that may wait. */
  constructor(vring: PackedVring, most: number, eventIdx: boolean) {
    this.#vring = vring;
    this.#eventIdx = eventIdx;
    this.id = new Uint16Array(most);
    this.length = new Uint32Array(most);
    this.span = new Uint16Array(most);
  }

  add(id: number, length: number, span: number): void {
    this.id[this.count] = id;
    this.length[this.count] = length;
    this.span[this.count] = span;
    this.count++;
    this.entries += span;
  }

  /**
   * Gives all chains back, the first of which lies at `place`. @returns the place behind them.
   * The driver's memory is what is written: nothing of it is believed.
   */
  publish(place: number): number {
    const desc = this.#vring.desc;
    const size = this.#vring.size;
    const count = this.count;
    const id = this.id;
    const length = this.length;
    const span = this.span;
    const head = place & (WRAP - 1);
    let bits = (place & WRAP) !== 0 ? USED_BITS : 0;
    const first = id[0]! | bits;
    let at = head;
    for (let i = 0; i < count; i++) {
      const entry = at;
      const shown = id[i]! | bits;
      for (let left = span[i]!; ; ) {
        at++;
        if (at === size) {
          at = 0;
          bits ^= USED_BITS;
        }
        if (--left === 0) break;
        // NEXT and id stay: with them the end of a chain can be found again.
        desc[4 * at + 3] = (desc[4 * at + 3]! & MEMBER_KEEPS) | bits;
      }
      if (i === 0) continue;
      desc[4 * entry + 2] = length[i]!;
      desc[4 * entry + 3] = shown;
    }
    desc[4 * head + 2] = length[0]!;
    // Sequentially consistent: the driver's wish for an interrupt is read only after the descriptors are out.
    Atomics.store(this.#vring.words, 4 * head + 3, first);
    this.count = 0;
    this.untold += this.entries;
    this.entries = 0;
    return at | (bits !== 0 ? WRAP : 0);
  }

  /** Whether the driver wants to hear of the chains published since it was asked last; they end at `place` (section 2.8.14). */
  wanted(place: number): boolean {
    const steps = this.untold;
    this.untold = 0;
    const word = this.#vring.driverEvent[0]!;
    const flags = (word >>> 16) & 3;
    if (flags === EVENT_DISABLE) return false;
    return !this.#eventIdx || flags !== EVENT_DESC || passes(word, place, steps, this.#vring.size);
  }

  /** Forgets the chains behind the first `count`, and their entries. */
  cut(count: number, entries: number): void {
    this.count = count;
    this.entries = entries;
  }
}
