/**
 * Where a packed ring stands after another back end, or another life of this one, has left it.
 *
 * The front end's word is not enough: QEMU hands over place 0 when a back end comes back after it died, since the place
 * lies in no memory that both could read. See vring-packed.ts for what the USED bits say: an *edge* is an entry that has
 * not been used in its lap while the one before it has, or the other way round. A ring at rest has one edge, its place.
 *
 * Two ends leave more: entries behind the place that are used already, in front of which others still wait.
 * - A back end died while it gave chains back. The head of the first chain was to be shown last.
 * - QEMU, which drops what a guest sends while there is no back end, began to drop at a place of its own
 *   (QEMU, hw/virtio/virtio.c, virtqueue_packed_drop_all).
 *
 * Either way the driver waits for the first one, and whoever goes on behind the used entries leaves it waiting for ever.
 */
import { DESC_NEXT } from './vring.ts';
import { ENTRY_MASK, PACKED_AVAIL, PACKED_USED, WRAP_BIT } from './vring-packed.ts';

const USED = PACKED_USED << 16;
const AVAIL = PACKED_AVAIL << 16;
const BOTH = USED | AVAIL;
const NEXT = DESC_NEXT << 16;
/** Edges of a ring that is worth understanding. */
const MOST_EDGES = 9;

const usedBit = (desc: Uint32Array, entry: number): number => ((desc[4 * entry + 3]! & USED) === 0 ? 0 : 1);

/** Neither used nor never touched: AVAIL and USED differ. */
const isAvailable = (desc: Uint32Array, entry: number): boolean => {
  const bits = desc[4 * entry + 3]! & BOTH;
  return bits !== 0 && bits !== BOTH;
};

const isEdge = (desc: Uint32Array, size: number, entry: number): boolean =>
  usedBit(desc, entry) !== (entry === 0 ? 1 - usedBit(desc, size - 1) : usedBit(desc, entry - 1));

const placeAt = (desc: Uint32Array, entry: number): number => entry | (usedBit(desc, entry) === 0 ? WRAP_BIT : 0);

/**
 * Whether a back end may go on at `place`: the entry there has not been used in its lap, the one before it has.
 * @param desc the ring's words, four per entry.
 */
export function fitsPlace(desc: Uint32Array, size: number, place: number): boolean {
  const entry = place & ENTRY_MASK;
  return entry < size && isEdge(desc, size, entry) && placeAt(desc, entry) === (place & 0xffff);
}

/**
 * The place to go on at: what the ring says, else what the front end has `given`. Chains that wait in front of used ones
 * are given back as they are.
 * @returns entry | wrap << 15. Any content of the ring gives some place within it.
 */
export function findPlace(desc: Uint32Array, size: number, given: number): number {
  const edges = edgesOf(desc, size);
  if (edges.length === 1) {
    const edge = edges[0]!;
    const waiting = waitingBefore(desc, size, edge);
    return waiting === 0 ? placeAt(desc, edge) : finish(desc, size, (edge - waiting + size) % size, size);
  }
  if (edges.length <= MOST_EDGES) {
    const starts = edges.map((_, first) => first).filter((first) => mayStart(desc, size, edges, first));
    if (starts.length === 1) {
      const from = edges[starts[0]!]!;
      return finish(desc, size, from, (edges.at(starts[0]! - 1)! - from + size) % size);
    }
  }
  // No back end of this kind leaves such a ring: the front end knows best.
  return (given & ENTRY_MASK) < size ? given & 0xffff : WRAP_BIT;
}

/** All edges, an odd number, but no more than tell that there are too many. */
function edgesOf(desc: Uint32Array, size: number): number[] {
  const edges: number[] = [];
  for (let entry = 0; entry < size && edges.length <= MOST_EDGES; entry++)
    if (isEdge(desc, size, entry)) edges.push(entry);
  return edges;
}

/** Whether from this edge on entries wait and are used by turns, up to the edge before it, where a lap is full. */
function mayStart(desc: Uint32Array, size: number, edges: readonly number[], first: number): boolean {
  for (let arc = 0; arc < edges.length - 1; arc++) {
    const end = edges[(first + arc + 1) % edges.length]!;
    for (let entry = edges[(first + arc) % edges.length]!; entry !== end; entry = (entry + 1) % size)
      if (isAvailable(desc, entry) !== (arc % 2 === 0)) return false;
  }
  return true;
}

/**
 * A ring that was full, of which QEMU has dropped all up to the place: what waits and what was dropped make a whole lap, so
 * the one edge is where the dropped ones begin. A driver fills a ring from its place on: entries that wait up to the edge,
 * while the one at the edge does not, are those. @returns how many entries wait; 0 when the edge is the place.
 */
function waitingBefore(desc: Uint32Array, size: number, edge: number): number {
  let waiting = 0;
  while (waiting < size && isAvailable(desc, (edge - 1 - waiting + size) % size)) waiting++;
  if (waiting === 0 || waiting === size || isAvailable(desc, edge)) return 0;
  for (let i = 0; i < size - waiting; i++) if (isAvailable(desc, (edge + i) % size)) return 0;
  if (size - waiting > 1) return waiting;
  // A chain over the whole ring whose head is not written yet looks the same, but for chains that end in it.
  for (let i = 1; i < waiting; i++) if ((desc[4 * ((edge + i) % size) + 3]! & NEXT) === 0) return waiting;
  return 0;
}

/** Gives back the chains that wait in `length` entries behind `from`, the first one last. @returns the place behind. */
function finish(desc: Uint32Array, size: number, from: number, length: number): number {
  const wrap = 1 - usedBit(desc, from);
  const bitsAt = (offset: number): number => ((from + offset < size ? wrap : 1 - wrap) === 1 ? BOTH : 0);
  const wordAt = (offset: number): number => 4 * ((from + offset) % size) + 3;
  let end = length;
  const heads: [offset: number, id: number][] = [];
  for (let offset = 0; offset < end; offset++) {
    if (!isAvailable(desc, (from + offset) % size)) continue;
    // The chain may not have got all of its entries rewritten. Its id stands in the last one.
    const head = offset;
    while (offset + 1 < size && (desc[wordAt(offset)]! & NEXT) !== 0) {
      offset++;
      desc[wordAt(offset)] = (desc[wordAt(offset)]! & ~BOTH) | bitsAt(offset);
    }
    heads.push([head, desc[wordAt(offset)]! & 0xffff]);
    end = Math.max(end, offset + 1);
  }
  for (const [offset, id] of heads.reverse()) Atomics.store(desc, wordAt(offset), (id | bitsAt(offset)) >>> 0);
  const next = from + end;
  return next < size ? next | (wrap === 1 ? WRAP_BIT : 0) : (next - size) | (wrap === 1 ? 0 : WRAP_BIT);
}
