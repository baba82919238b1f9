/**
 * The memory of a racing guest, and what is written to it: values of which every mixture, half of an old word and half of a
 * new one, either lies in memory that is offered or reaches out of the region. So what may be touched is known beforehand,
 * whatever the switch reads when.
 *
 *     front page | rings and tables | near window | never offered | far window | end of the file
 */
import { GUEST_BASE, PAGE } from './arena.ts';
import type { Random } from './random.ts';
import { BUFFERS_AT, FuzzRing, INDIRECT, NEXT, WRITE } from './ring.ts';

export const SIZE = 64;
/** Offsets in the region. */
export const NEAR_END = BUFFERS_AT + 6 * PAGE;
export const FAR_AT = NEAR_END + 2 * PAGE;
export const REGION_BYTES = FAR_AT + PAGE;
const TABLES_AT = PAGE;
const TABLE_ROWS = 4;
const TABLES = 16;
/** The longest that fits wherever an address of the near window or of a table stands. */
const LONGEST_FITTING = 4 * PAGE;
const HIGH = Math.floor(GUEST_BASE / 4294967296);
const LOW = GUEST_BASE % 4294967296;
const BUFFERS = 16;
const STRIDE = 0x100;

export const bufferAt = (i: number): number => BUFFERS_AT + (i % BUFFERS) * STRIDE;
const farAt = (i: number): number => REGION_BYTES - STRIDE * (1 + (i % 8));
const tableAt = (i: number): number => TABLES_AT + (i % TABLES) * 16 * TABLE_ROWS;

const addressOf = (random: Random): number => {
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2:
      return LOW + farAt(random.below(8));
    case 3:
    case 4:
      return LOW + tableAt(random.below(TABLES));
    case 5:
      // In front of the region, behind it, and just before its end.
      return LOW + random.pick([-PAGE, -64, -1, REGION_BYTES, REGION_BYTES + 64, REGION_BYTES - 1, 4 * REGION_BYTES]);
    default:
      return LOW + bufferAt(random.below(BUFFERS));
  }
};

/** Multiples of 16 are those of tables too. */
const FRAMES = [60, 64, 100, 208, 256, 1408];
const ROOMS = [208, 1526, 1536, 2048, LONGEST_FITTING];

const lengthOf = (random: Random, write: boolean): number =>
  random.once(4)
    ? random.pick([0, 1, 9, 11, 12, 13, 2 * REGION_BYTES, 0x7fffffff, 0xffffffff])
    : random.pick(write ? ROOMS : FRAMES);

/** A ring as it stands before the race: every entry a buffer of its own. */
export interface Shape {
  readonly packed: boolean;
  /** Written by the switch. */
  readonly write: boolean;
  readonly indices: boolean;
}

/** Words of the memory shared with the thread that polls. */
export const CONTROL = { stop: 0, running: 1, writes: 2, bytes: 12 } as const;

export interface RacerData {
  readonly fds: readonly number[];
  readonly shapes: readonly Shape[];
  readonly seed: number;
  readonly control: SharedArrayBuffer;
}

const { descriptors: DESC_AT, driver: DRIVER_AT } = FuzzRing.offsets;

/** One word of one descriptor, table row, ring entry or header becomes another. */
export function disturb(view: DataView, shape: Shape, random: Random): void {
  const { packed, write, indices } = shape;
  const kind = random.below(16);
  if (kind === 0) {
    // A virtio-net header, or the payload behind it.
    view.setUint16(
      bufferAt(random.below(BUFFERS)) + 2 * random.below(20),
      random.once(8) ? random.pick([1, 0x101, 34, 1460, 0x7fff]) : 0,
      true,
    );
    return;
  }
  if (kind === 1) {
    driverWord(view, shape, random);
    return;
  }
  const inTable = kind < 6;
  const at = inTable
    ? tableAt(random.below(TABLES)) + 16 * random.below(TABLE_ROWS)
    : DESC_AT + 16 * random.below(SIZE);
  const flag = write ? WRITE : 0;
  switch (random.below(6)) {
    case 0:
    case 1:
      view.setUint32(at, addressOf(random), true);
      return;
    case 2:
      view.setUint32(at + 4, random.once(16) ? random.pick([0, 2, 0xffffffff]) : HIGH, true);
      return;
    case 3:
      view.setUint32(at + 8, lengthOf(random, write), true);
      return;
    case 4: {
      // NEXT and INDIRECT now and then, the wrong direction seldom.
      const extra = random.once(4) ? random.pick([NEXT, INDIRECT, INDIRECT, NEXT | INDIRECT, flag ^ WRITE]) : 0;
      if (!packed) view.setUint16(at + 12, flag | extra, true);
      else if (inTable) view.setUint16(at + 14, flag | extra, true);
      else {
        const lap = view.getUint16(at + 14, true) & 0x8080;
        view.setUint16(
          at + 14,
          (indices && random.once(8) ? lap ^ random.pick([0x80, 0x8000]) : lap) | flag | extra,
          true,
        );
      }
      return;
    }
    default:
      // `next`, or the id of a packed descriptor.
      view.setUint16(at + (packed ? 12 : 14), random.once(4) ? random.below(0x10000) : random.below(SIZE), true);
  }
}

/** The available ring, or what a packed ring has instead. */
function driverWord(view: DataView, { packed, indices }: Shape, random: Random): void {
  if (packed) view.setUint16(DRIVER_AT + 2 * random.below(2), random.below(0x10000), true);
  else if (indices && random.once(2)) {
    const index = view.getUint16(DRIVER_AT + 2, true);
    view.setUint16(DRIVER_AT + 2, index + random.pick([1, 2, -1, -3, SIZE, SIZE + 1, 0x8000]), true);
  } else {
    const head = random.once(2048) ? random.pick([SIZE, 0xffff]) : random.below(SIZE);
    view.setUint16(DRIVER_AT + 4 + 2 * random.below(SIZE), head, true);
  }
}

/** Everything that may be read is filler, without canaries; every buffer begins with an empty header and a plain frame. */
export function lay(live: Buffer, view: DataView, write: boolean): void {
  live.fill(0, PAGE, PAGE + BUFFERS_AT);
  for (const [from, to] of [
    [BUFFERS_AT, NEAR_END],
    [FAR_AT, REGION_BYTES],
  ] as const)
    live.fill(0x5a, PAGE + from, PAGE + to);
  for (let i = 0; i < BUFFERS; i++) for (const at of [bufferAt(i), farAt(i)]) live.fill(0, PAGE + at, PAGE + at + 12);
  for (let i = 0; i < TABLES * TABLE_ROWS; i++) row(view, TABLES_AT + 16 * i, i, write);
  for (let i = 0; i < SIZE; i++) row(view, DESC_AT + 16 * i, i, write);
}

const row = (view: DataView, at: number, i: number, write: boolean): void => {
  view.setUint32(at, LOW + bufferAt(i), true);
  view.setUint32(at + 4, HIGH, true);
  view.setUint32(at + 8, write ? 1526 : 100, true);
  view.setUint16(at + 12, write ? WRITE : 0, true);
};

/** The guest makes all of its ring available. @param place where the switch stands. */
export function offerAll(view: DataView, { packed, write }: Shape, place: number): void {
  if (!packed) {
    view.setUint16(DRIVER_AT + 2, place + SIZE, true);
    return;
  }
  const wrap = (place & 0x8000) !== 0;
  for (let i = 0, entry = place & 0x7fff; i < SIZE; i++, entry++) {
    const lap = entry < SIZE ? wrap : !wrap;
    const at = DESC_AT + 16 * (entry % SIZE);
    view.setUint32(at + 8, write ? 1526 : 100, true);
    view.setUint16(at + 14, (lap ? 0x80 : 0x8000) | (write ? WRITE : 0), true);
  }
}
