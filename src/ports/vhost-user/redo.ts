/** What the journal of a killed data plane had decided about a ring is done, in the main thread, before a worker has it. */
import type { PageLog } from './dirty-log.ts';
import type { Decided } from './journal-file.ts';
import { PiecewiseLog } from './ring-windows.ts';
import { DESC_BYTES, type RingPlace } from './vring.ts';
import { ENTRY_MASK, PACKED_AVAIL, PACKED_USED, WRAP_BIT } from './vring-packed.ts';

const USED = PACKED_USED << 16;
const BOTH = (PACKED_AVAIL | PACKED_USED) << 16;

/** A used element (virtio 1.2 section 2.7.8). */
const ELEMENT = 8;

/** A ring after its start. */
export interface Started {
  /** Where it goes on. */
  readonly place: number;
  /** Place from which on used entries were written here, or by a data plane that had no time to log them; -1: none. */
  readonly from: number;
}

/** Guest physical memory. */
export interface Range {
  readonly at: number;
  readonly bytes: number;
}

/** What was written of a ring that goes on at `place`, where the log wants it. */
export function repairs(ring: RingPlace, packed: boolean, { place, from }: Started): Range[] {
  if (from < 0 || !ring.log) return [];
  const { size } = ring;
  const [at, bytes] = packed ? [ring.log.descriptorsAt, DESC_BYTES] : [ring.log.usedAt + 4, ELEMENT];
  const [first, end] = packed ? [from & ENTRY_MASK, place & ENTRY_MASK] : [from % size, place % size];
  const ranges: Range[] = [];
  const found: PageLog = { mark: (start, length) => ranges.push({ at: start, bytes: length }) };
  const pieces = ring.windows?.flat() ?? [];
  const log = pieces.length > 0 ? new PiecewiseLog(found, pieces) : found;
  const part = (begin: number, stop: number): void => {
    if (stop > begin) log.mark(at + begin * bytes, (stop - begin) * bytes);
  };
  part(first, first < end ? end : size);
  if (first >= end) part(0, end);
  if (!packed) log.mark(ring.log.usedAt + 2, 2);
  return ranges;
}

/** @param used the used ring of a split ring as 16-bit words. */
export function redoSplit(used: Uint16Array, step: Decided | undefined): Started {
  const now = used[1]!;
  if (!step || step.chains !== undefined) return { place: now, from: -1 };
  if (step.before === now) Atomics.store(used, 1, step.next);
  else if (step.next !== now) return { place: now, from: -1 };
  return { place: step.next, from: step.before };
}

/**
 * Writes the used descriptors once more, unless the first of them was shown: then all are written, and the driver may be
 * using the entries again.
 * @param desc the ring's words, four per entry. @returns undefined where the step does not fit the ring.
 */
export function redoPacked(desc: Uint32Array, size: number, step: Decided): Started | undefined {
  const { before, next, chains } = step;
  const head = before & ENTRY_MASK;
  if (chains === undefined || chains.length === 0 || head >= size) return undefined;
  const entries = chains.reduce((sum, { span }) => sum + span, 0);
  if (entries > size || chains.some(({ span }) => span === 0)) return undefined;
  const end = head + entries;
  if (next !== (end < size ? end | (before & WRAP_BIT) : (end - size) | (~before & WRAP_BIT))) return undefined;
  const bitsAt = (position: number): number => (((before & WRAP_BIT) !== 0) === position < size ? BOTH : 0);
  const word = (position: number): number => 4 * (position % size) + 3;
  if (((desc[word(head)]! ^ bitsAt(head)) & USED) === 0) return { place: next, from: before };
  // As UsedChains.publish does: the first head last, for the driver sees none before it.
  let position = end;
  for (const { id, span, length } of chains.toReversed()) {
    for (let member = position - 1; member > position - span; member--) {
      desc[word(member)] = ((desc[word(member)]! & ~BOTH) | bitsAt(member)) >>> 0;
    }
    position -= span;
    desc[word(position) - 1] = length;
    if (position > head) desc[word(position)] = (id | bitsAt(position)) >>> 0;
  }
  Atomics.store(desc, word(head), (chains[0]!.id | bitsAt(head)) >>> 0);
  return { place: next, from: before };
}
