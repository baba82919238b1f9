/**
 * Packed virtqueues (virtio 1.2 section 2.8): layout numbers, the views of a ring, and how its place is written down.
 *
 * A ring is one array of descriptors that both sides write. Driver and device go round it, each with a wrap counter that
 * starts at 1 and turns over at the end. A descriptor is available when its AVAIL bit equals the driver's counter and its
 * USED bit does not; used when both equal the device's. Chains are taken and used in order, and all of a burst at once, so
 * between two bursts one place names both: entry | wrap << 15, in STATE_CURSOR of the ring's state row.
 *
 * **The ring names its place by itself.** A used chain of several entries has its head rewritten only, as far as the
 * section goes; here all of its entries get the USED bit of their lap (the driver steps over them by its own count). The
 * driver never changes a USED bit: available descriptors carry the one of the lap before. So entries in front of the place
 * have the USED bit of this lap and all others the opposite one, and the place is where the bit changes (`findPlace`).
 */
import { DESC_BYTES, type RingPlace, STATE_WORDS } from './vring.ts';

/** Descriptor flags (section 2.8.1), as they stand in the upper half of a descriptor's fourth word. */
export const PACKED_AVAIL = 1 << 7;
export const PACKED_USED = 1 << 15;
/** Event suppression flags (section 2.8.14). */
export const EVENT_ENABLE = 0;
export const EVENT_DISABLE = 1;
export const EVENT_DESC = 2;
/** Bytes of an event suppression structure. */
export const EVENT_BYTES = 4;

export const WRAP_BIT = 1 << 15;
export const ENTRY_MASK = WRAP_BIT - 1;
/** Where a ring begins: entry 0, wrap counter 1. */
export const FIRST_PLACE = WRAP_BIT;

export const packedDescriptorBytes = (size: number): number => DESC_BYTES * size;

/** Views of a packed ring's parts and its state row; made once per attachment. */
export class PackedVring {
  readonly size: number;
  /** Four words per entry: address low, address high, length, id | flags << 16. */
  readonly desc: Uint32Array;
  /** The same for Atomics, which would make an object of every word of 2^31 and above. */
  readonly words: Int32Array;
  /** Driver and device event suppression: entry and wrap of an event | flags << 16. */
  readonly driverEvent: Uint32Array;
  readonly deviceEvent: Uint32Array;
  readonly state: Int32Array;
  readonly kickFd: number;
  readonly callFd: number;

  /** @throws RangeError when a part does not fit its region or is not aligned; the session has checked both. */
  constructor(place: RingPlace, buffers: readonly ArrayBuffer[], state: SharedArrayBuffer) {
    this.size = place.size;
    this.desc = new Uint32Array(buffers[place.descriptorRegion]!, place.descriptorOffset, place.size * 4);
    this.words = new Int32Array(this.desc.buffer, this.desc.byteOffset, this.desc.length);
    this.driverEvent = new Uint32Array(buffers[place.availableRegion]!, place.availableOffset, 1);
    this.deviceEvent = new Uint32Array(buffers[place.usedRegion]!, place.usedOffset, 1);
    this.state = new Int32Array(state, place.index * STATE_WORDS * 4, STATE_WORDS);
    this.kickFd = place.kickFd;
    this.callFd = place.callFd;
  }
}

/**
 * Whether used entries up to `now` (a place), `steps` of them, pass what the driver's event word waits for (section
 * 2.8.10): an event of another lap counts from the ring's end.
 */
export const passesPackedEvent = (word: number, now: number, steps: number, size: number): boolean => {
  let event = word & ENTRY_MASK;
  if ((word & WRAP_BIT) !== (now & WRAP_BIT)) event -= size;
  return (((now & ENTRY_MASK) - event - 1) & 0xffff) < steps;
};
