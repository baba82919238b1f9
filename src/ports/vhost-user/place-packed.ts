/**
 * Where a packed ring stands after another back end, or another life of this one, has left it.
 *
 * The front end's word is not enough: QEMU hands over place 0 when a back end comes back after it died, since the place
 * lies in no memory that both could read. See vring-packed.ts for what the USED bits say.
 */
import { DESC_NEXT } from './vring.ts';
import { ENTRY_MASK, PACKED_AVAIL, PACKED_USED, WRAP_BIT } from './vring-packed.ts';

const USED = PACKED_USED << 16;
const BOTH = (PACKED_USED | PACKED_AVAIL) << 16;
const NEXT = DESC_NEXT << 16;
/** Runs of equal USED bits that a ring can have: two, two more when a back end died while it gave chains back. */
const MOST_RUNS = 4;

const usedBit = (desc: Uint32Array, entry: number): number => ((desc[4 * entry + 3]! & USED) === 0 ? 0 : 1);

/**
 * Whether a back end may go on at `place`: the entry there has not been used in its lap, the one before it has.
 * @param desc the ring's words, four per entry.
 */
export function fitsPlace(desc: Uint32Array, size: number, place: number): boolean {
  const entry = place & ENTRY_MASK;
  if (entry >= size) return false;
  const wrap = place & WRAP_BIT ? 1 : 0;
  const before = entry === 0 ? usedBit(desc, size - 1) !== wrap : usedBit(desc, entry - 1) === wrap;
  return before && usedBit(desc, entry) !== wrap;
}

/**
 * The place to go on at: `given` where the ring does not speak against it, else what the USED bits say. Chains that were
 * being given back when their back end died are finished: their used descriptors are in the ring, but for the first.
 * @returns entry | wrap << 15. Any content of the ring gives some place within it.
 */
export function findPlace(desc: Uint32Array, size: number, given: number): number {
  const runs = runsOf(desc, size);
  if (runs.length > 2) {
    const finished = finish(desc, size, runs);
    if (finished !== undefined) return finished;
  }
  if (fitsPlace(desc, size, given)) return given;
  const first = usedBit(desc, 0);
  if (runs.length === 1) return first === 1 ? 0 : WRAP_BIT;
  if (runs.length <= MOST_RUNS) return runs[0]! | (first === 1 ? WRAP_BIT : 0);
  // No back end of this kind leaves such a ring: the front end knows best.
  return (given & ENTRY_MASK) < size ? given & 0xffff : WRAP_BIT;
}

/** Lengths of the runs of equal USED bits from entry 0 on, no more than tell the ring's state. */
function runsOf(desc: Uint32Array, size: number): number[] {
  const runs: number[] = [];
  let start = 0;
  for (let entry = 1; entry <= size && runs.length <= MOST_RUNS; entry++) {
    if (entry < size && usedBit(desc, entry) === usedBit(desc, start)) continue;
    runs.push(entry - start);
    start = entry;
  }
  return runs;
}

/** One entry that stands alone between used ones is the head whose chain was to be shown last. */
function finish(desc: Uint32Array, size: number, runs: readonly number[]): number | undefined {
  if (runs.length > MOST_RUNS) return undefined;
  const [a, b, c, d] = runs as [number, number, number, number?];
  let head: number;
  let end: number;
  if (a === 1 && d === undefined && b <= c) {
    // Head at the beginning of a lap | given back | last lap.
    head = 0;
    end = a + b;
  } else if (b === 1) {
    // This lap | head | given back | last lap.
    head = a;
    end = a + b + c;
  } else if (c === 1) {
    // Given back in the next lap | this lap | head | given back.
    head = a + b;
    end = size + a;
  } else {
    return undefined;
  }
  const wrap = usedBit(desc, head) === 0 ? 1 : 0;
  // The chain at the head may not have got all of its entries rewritten.
  let last = head;
  for (let steps = 1; steps < size && (desc[4 * (last % size) + 3]! & NEXT) !== 0; steps++) last++;
  const id = desc[4 * (last % size) + 3]! & 0xffff;
  const bitsAt = (entry: number): number => ((entry < size ? wrap : 1 - wrap) === 1 ? BOTH : 0);
  for (let entry = head + 1; entry <= last; entry++) {
    const word = 4 * (entry % size) + 3;
    desc[word] = (desc[word]! & ~BOTH) | bitsAt(entry);
  }
  Atomics.store(desc, 4 * head + 3, (id | bitsAt(head)) >>> 0);
  const next = Math.max(end, last + 1);
  return next < size ? next | (wrap === 1 ? WRAP_BIT : 0) : (next - size) | (wrap === 1 ? 0 : WRAP_BIT);
}
