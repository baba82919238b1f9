/** A virtqueue as the front end's messages describe it, and where that puts it in guest memory. */
import { address } from '#contract/os.ts';
import { findUserAddress, type Place } from './guest-memory.ts';
import type { InflightName, Journal } from './inflight.ts';
import type { MemoryTable } from './memory-table.ts';
import { findPlace } from './place-packed.ts';
import { availableBytes, descriptorBytes, type RingPlace, usedBytes } from './vring.ts';
import { EVENT_BYTES, FIRST_PLACE, packedDescriptorBytes } from './vring-packed.ts';
import { MAX_RING_SIZE, VRING_LOG, type VringAddress } from './wire.ts';

export class Ring {
  readonly index: number;
  size = 0;
  /** Where the front end wants it to begin, as SET_VRING_BASE said it. */
  base: number | undefined;
  addresses: VringAddress | undefined;
  kickFd = -1;
  callFd = -1;
  errFd = -1;
  started = false;
  enabled = false;
  /** The place in the ring has been compared with the used index since the ring was started. */
  synced = false;

  constructor(index: number) {
    this.index = index;
  }
}

/** Why a ring of `size` entries cannot be; empty where it can. Packed rings have any size. */
export function wrongSize(size: number, packed: boolean): string {
  if (size === 0 || size > MAX_RING_SIZE) return `1 to ${MAX_RING_SIZE} are possible`;
  if (packed || (size & (size - 1)) === 0) return '';
  return `a split ring has a power of two up to ${MAX_RING_SIZE}`;
}

/** Where a ring lies, or what is wrong with its size or its addresses. */
export function placeRing(ring: Ring, table: MemoryTable, packed: boolean): RingPlace | string {
  const { addresses, size, index } = ring;
  if (!addresses) return `ring ${index} has no addresses`;
  const wrong = wrongSize(size, packed);
  if (wrong) return `ring ${index} has ${size} entries; ${wrong}`;
  const { regions, memory } = table;
  if (!memory) return `ring ${index}: there is no memory`;
  const find = (name: string, at: bigint, bytes: number, align: number) => {
    const place = findUserAddress(regions, at, bytes);
    if (!place) return `ring ${index}: ${name} at 0x${at.toString(16)} is not in the memory table`;
    const here = address(memory.buffers[place.region]!) + place.offset;
    return here % align === 0 && place.offset % align === 0
      ? place
      : `ring ${index}: ${name} is not aligned to ${align} bytes`;
  };
  const [descriptors, driver, device] = packed
    ? ['descriptor ring', 'driver event area', 'device event area']
    : ['descriptor table', 'available ring', 'used ring'];
  const descBytes = packed ? packedDescriptorBytes(size) : descriptorBytes(size);
  const desc = find(descriptors!, addresses.descriptors, descBytes, 16);
  const avail = find(driver!, addresses.available, packed ? EVENT_BYTES : availableBytes(size), packed ? 4 : 2);
  const used = find(device!, addresses.used, packed ? EVENT_BYTES : usedBytes(size), 4);
  for (const place of [desc, avail, used]) if (typeof place === 'string') return place;
  if (typeof desc === 'string' || typeof avail === 'string' || typeof used === 'string') return '';
  const guest = ({ region, offset }: Place): number => regions[region]!.guestAddress + offset;
  return {
    index,
    size,
    descriptorRegion: desc.region,
    descriptorOffset: desc.offset,
    availableRegion: avail.region,
    availableOffset: avail.offset,
    usedRegion: used.region,
    usedOffset: used.offset,
    kickFd: ring.kickFd,
    callFd: ring.callFd,
    ...((addresses.flags & VRING_LOG) !== 0 && { log: { usedAt: Number(addresses.log), descriptorsAt: guest(desc) } }),
  };
}

/**
 * Where a ring goes on that was just started. The base that the front end gave differs from a split ring's used index only
 * when a back end before us ended between taking and returning buffers; those are sent again, as after any crash, but for
 * what a journal says. A packed ring has no used index: see place-packed.ts.
 */
export function startPlace(
  ring: Ring,
  place: RingPlace,
  table: MemoryTable,
  packed: boolean,
  journal: { file: Journal; name: InflightName } | undefined,
): number {
  const { buffers } = table.memory!;
  if (packed) {
    const desc = new Uint32Array(buffers[place.descriptorRegion]!, place.descriptorOffset, 4 * place.size);
    return findPlace(desc, place.size, ring.base ?? FIRST_PLACE);
  }
  const used = new Uint16Array(buffers[place.usedRegion]!, place.usedOffset, 2);
  const now = used[1]!;
  const step = journal?.file.decided(journal.name, ring.index);
  if (step?.before === now) Atomics.store(used, 1, step.next);
  if (step) journal!.file.forget(journal!.name, ring.index);
  return step?.before === now ? step.next : now;
}
