/**
 * Where the parts of a virtqueue lie (virtio 1.2 sections 2.7 and 2.8) and how a chain shape becomes descriptors.
 */
import type { Block } from './memory.ts';
import type { ChainShape } from './options.ts';

/** Descriptor flags (virtio 1.2 section 2.7.5). */
export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;
export const DESC_BYTES = 16;
/** avail.flags: the switch need not call; used.flags: the guest need not kick (sections 2.7.6 and 2.7.8). */
export const AVAIL_NO_INTERRUPT = 1;
export const USED_NO_NOTIFY = 1;

/** Packed rings: descriptor flags (section 2.8.1), and event suppression (section 2.8.14). */
export const PACKED_AVAIL = 1 << 7;
export const PACKED_USED = 1 << 15;
export const EVENT_BYTES = 4;
export const EVENT_DISABLE = 1;
export const EVENT_DESC = 2;
/** A place in a packed ring is an entry with the wrap counter as this bit. */
export const WRAP_BIT = 1 << 15;

/** Bytes kept before each frame, for the virtio-net header. */
export const HEADER_ROOM = 16;
/** Entries of a buffer's indirect table: header and pieces of one chain. */
export const TABLE_ENTRIES = 64;
export const MAX_CUTS = TABLE_ENTRIES - 2;

/**
 * Byte offsets of a ring's parts from the start of its block, and the bytes of ring and tables. Of a packed ring the parts
 * `avail` and `used` are the driver's and the device's event suppression.
 */
export interface RingLayout {
  readonly size: number;
  readonly descAt: number;
  readonly availAt: number;
  readonly usedAt: number;
  /** Indirect tables, one per buffer. */
  readonly tablesAt: number;
  readonly bytes: number;
  /** Buffers and the distance from one to the next. */
  readonly buffers: number;
  readonly stride: number;
}

const align = (value: number, to: number): number => Math.ceil(value / to) * to;

/** Lays out a ring of `size` descriptors with `buffers` buffers for frames of `frameBytes`. */
export function ringLayout(
  size: number,
  buffers: number,
  frameBytes: number,
  tables: boolean,
  packed = false,
): RingLayout {
  const availAt = size * DESC_BYTES;
  const usedAt = align(availAt + (packed ? EVENT_BYTES : 6 + 2 * size), 64);
  const tablesAt = align(usedAt + (packed ? EVENT_BYTES : 6 + 8 * size), 64);
  return {
    size,
    descAt: 0,
    availAt,
    usedAt,
    tablesAt,
    bytes: tablesAt + (tables ? buffers * TABLE_ENTRIES * DESC_BYTES : 0),
    buffers,
    stride: align(HEADER_ROOM + frameBytes, 16),
  };
}

/** A chain shape, checked and made fit for the hot loops. */
export interface ShapePlan {
  readonly headerAlone: boolean;
  readonly indirect: boolean;
  readonly cuts: Int32Array;
  /** Descriptors of the longest chain; ring descriptors of every chain. */
  readonly pieces: number;
  readonly ringDescriptors: number;
}

/** @throws RangeError when the shape cannot be laid on a ring of `size`, or needs INDIRECT_DESC where there is none. */
export function planShape(shape: ChainShape, size: number, indirectAllowed: boolean): ShapePlan {
  const cuts = Int32Array.from(shape.cuts ?? []);
  if (cuts.length > MAX_CUTS) throw new RangeError(`shape has ${cuts.length} cuts; at most ${MAX_CUTS} are possible`);
  for (let i = 0; i < cuts.length; i++) {
    if (cuts[i]! <= (i > 0 ? cuts[i - 1]! : 0)) throw new RangeError('shape cuts must ascend and be above 0');
  }
  const headerAlone = shape.headerAlone ?? false;
  const indirect = shape.indirect ?? false;
  if (indirect && !indirectAllowed)
    throw new RangeError('shape asks for an indirect table; INDIRECT_DESC was not negotiated');
  const pieces = cuts.length + 1 + (headerAlone ? 1 : 0);
  const ringDescriptors = indirect ? 1 : pieces;
  if (ringDescriptors > size) throw new RangeError(`shape needs ${ringDescriptors} descriptors, the ring has ${size}`);
  return { headerAlone, indirect, cuts, pieces, ringDescriptors };
}

/**
 * Writes the chains of a receive ring: buffer i gets head i * ringDescriptors and stays with it.
 * @returns where the frame of each buffer begins, in bytes from the start of the file's views.
 */
export function postBuffers(
  block: Block,
  layout: RingLayout,
  plan: ShapePlan,
  headerBytes: number,
  frameBytes: number,
): number[] {
  const { u32, guestAddress } = block.file;
  const write = (entry: number, at: number, length: number, flags: number): void => {
    u32.set([guestAddress + at, (guestAddress + at) / 2 ** 32, length, flags], entry / 4);
  };
  const starts = [-headerBytes, ...(plan.headerAlone ? [0] : []), ...plan.cuts.filter((cut) => cut < frameBytes)];
  const last = starts.length - 1;
  const count = Math.min(layout.buffers, Math.floor(layout.size / plan.ringDescriptors));
  return Array.from({ length: count }, (_, i) => {
    const frame = block.buffersAt + i * layout.stride + HEADER_ROOM;
    const head = i * plan.ringDescriptors;
    const table = block.ringAt + layout.tablesAt + i * TABLE_ENTRIES * DESC_BYTES;
    const first = plan.indirect ? 0 : head;
    const entries = plan.indirect ? table : block.ringAt + layout.descAt;
    for (const [k, start] of starts.entries()) {
      const end = k < last ? starts[k + 1]! : frameBytes;
      const flags = DESC_WRITE | (k < last ? DESC_NEXT | ((first + k + 1) << 16) : 0);
      write(entries + (first + k) * DESC_BYTES, frame + start, end - start, flags);
    }
    if (plan.indirect) {
      write(block.ringAt + layout.descAt + head * DESC_BYTES, table, starts.length * DESC_BYTES, DESC_INDIRECT);
    }
    return frame;
  });
}
