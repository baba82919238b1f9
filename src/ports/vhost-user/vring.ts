/**
 * Split virtqueues (virtio 1.2 section 2.7): layout numbers, and the state that outlives an attachment.
 *
 * State lies in one SharedArrayBuffer per port, a row of STATE_WORDS 32-bit words per ring:
 * | word | writer | reader |
 * |---|---|---|
 * | STATE_CURSOR (of a packed ring: its place) | the worker that holds the ring, once per burst; the main thread while no worker has it | both |
 * | STATE_LOCK | whoever sends on a shared ring: 1 while held | senders |
 * | STATE_BROKEN | the worker that found the ring senseless: a BROKEN_ reason | main thread, every 100 ms |
 *
 * Used elements are returned in the order in which chains were taken, and all of a burst at once: so one free-running
 * 16-bit cursor is both the next available entry to take and the used index, and GET_VRING_BASE can name it at any time
 * between two bursts.
 */
import type { Piece } from './ring-windows.ts';

export const DESC_BYTES = 16;
/** Descriptor flags (section 2.7.5). */
export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;
/** avail.flags and used.flags (sections 2.7.6, 2.7.8), without EVENT_IDX. */
export const AVAIL_NO_INTERRUPT = 1;
export const USED_NO_NOTIFY = 1;

export const STATE_WORDS = 16;
export const STATE_CURSOR = 0;
export const STATE_LOCK = 1;
export const STATE_BROKEN = 2;

export const BROKEN_INDEX = 1;
export const BROKEN_HEAD = 2;
export const BROKEN_LOOP = 3;

/** What the guest did, by BROKEN_ reason. */
export const BROKEN_REASONS: readonly string[] = [
  '',
  'available index ahead of the ring by more than its size',
  'descriptor number outside the ring',
  'descriptor chain loops',
];

/** Bytes of the three parts of a ring of `size` entries, event words included (sections 2.7.5, 2.7.6, 2.7.8). */
export const descriptorBytes = (size: number): number => DESC_BYTES * size;
export const availableBytes = (size: number): number => 6 + 2 * size;
export const usedBytes = (size: number): number => 6 + 8 * size;

/**
 * Where a ring lies, as a worker gets it: byte offsets in the regions of the memory table. Of a packed ring the parts named
 * `available` and `used` are the driver's and the device's event suppression.
 */
export interface RingPlace {
  /** Virtqueue number: 2k is the guest's receive queue k (the switch sends), 2k+1 its transmit queue. */
  readonly index: number;
  /** Entries; of a split ring a power of two. */
  readonly size: number;
  readonly descriptorRegion: number;
  readonly descriptorOffset: number;
  readonly availableRegion: number;
  readonly availableOffset: number;
  readonly usedRegion: number;
  readonly usedOffset: number;
  /** eventfds, or -1. */
  readonly kickFd: number;
  readonly callFd: number;
  /** Where a part is not in one piece of a region: what it is made of; its region then has no meaning. Descriptors first. */
  readonly windows?: readonly (readonly Piece[])[];
  /** Writes to the ring are to be logged, as if it were at these guest physical addresses; with windows, IOVAs. */
  readonly log?: { readonly usedAt: number; readonly descriptorsAt: number };
}

/** Views of a ring's parts and its state row; made once per attachment. */
export class Vring {
  readonly size: number;
  readonly desc: Uint32Array;
  /** [flags, idx, ring..., used_event]. */
  readonly avail: Uint16Array;
  /** [flags | idx << 16, {id, len}...]. */
  readonly used: Uint32Array;
  /** [flags, idx, ..., avail_event at 2 + 4 * size]. */
  readonly used16: Uint16Array;
  /** This ring's row of the shared state. */
  readonly state: Int32Array;
  readonly kickFd: number;
  readonly callFd: number;

  /** @throws RangeError when a part does not fit its region or is not aligned; the session has checked both. */
  constructor(place: RingPlace, buffers: readonly ArrayBuffer[], state: SharedArrayBuffer) {
    const { size } = place;
    this.size = size;
    this.desc = new Uint32Array(buffers[place.descriptorRegion]!, place.descriptorOffset, size * 4);
    this.avail = new Uint16Array(buffers[place.availableRegion]!, place.availableOffset, 3 + size);
    this.used = new Uint32Array(buffers[place.usedRegion]!, place.usedOffset, 1 + 2 * size);
    this.used16 = new Uint16Array(buffers[place.usedRegion]!, place.usedOffset, 3 + 4 * size);
    this.state = new Int32Array(state, place.index * STATE_WORDS * 4, STATE_WORDS);
    this.kickFd = place.kickFd;
    this.callFd = place.callFd;
  }
}

/**
 * Whether a step of an index from `before` to `now` passes the `event` that the other side waits for (section 2.7.10.1).
 * All are free-running 16-bit numbers.
 */
export const passesEvent = (event: number, now: number, before: number): boolean =>
  ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
