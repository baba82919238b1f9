/** A virtqueue as the front end's messages describe it, and where that puts it in guest memory. */
import { findUserAddress, type Place } from './guest-memory.ts';
import type { InflightName } from './inflight.ts';
import { IOTLB_PAGE } from './iotlb-shared.ts';
import type { Journal } from './journal-file.ts';
import type { MemoryTable } from './memory-table.ts';
import { findPlace } from './place-packed.ts';
import { redoPacked, redoSplit, type Started } from './redo.ts';
import { availableBytes, descriptorBytes, type RingPlace, usedBytes } from './vring.ts';
import { EVENT_BYTES, FIRST_PLACE, packedDescriptorBytes } from './vring-packed.ts';
import { IOTLB_READ, IOTLB_WRITE, MAX_RING_SIZE, VRING_LOG, type VringAddress } from './wire.ts';

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

/** A part of a ring as the front end named it: its address, and what is done with it. */
export interface RingPart {
  /** Of what ring, and which part. */
  readonly name: string;
  readonly at: bigint;
  readonly bytes: number;
  readonly align: number;
  /** IOTLB_READ, IOTLB_WRITE or both. */
  readonly permission: number;
}

/** The parts of a ring: descriptors, then what the driver writes, then what the device does. None without addresses. */
export function ringParts({ index, size, addresses }: Ring, packed = false): RingPart[] {
  if (!addresses) return [];
  const part = (name: string, at: bigint, bytes: number, align: number, permission: number): RingPart => ({
    ...{ name: `ring ${index}: ${name}`, at, bytes, align, permission },
  });
  const { descriptors, available, used } = addresses;
  if (packed) {
    return [
      part('descriptor ring', descriptors, packedDescriptorBytes(size), 16, IOTLB_READ | IOTLB_WRITE),
      part('driver event area', available, EVENT_BYTES, 4, IOTLB_READ),
      part('device event area', used, EVENT_BYTES, 4, IOTLB_WRITE),
    ];
  }
  return [
    part('descriptor table', descriptors, descriptorBytes(size), 16, IOTLB_READ),
    part('available ring', available, availableBytes(size), 2, IOTLB_READ),
    part('used ring', used, usedBytes(size), 4, IOTLB_WRITE),
  ];
}

/** Finds a part of a ring in memory; or says why it is not there. */
export type PartFinder = (part: RingPart) => Place | string;

const byUserAddress =
  ({ regions }: MemoryTable): PartFinder =>
  ({ name, at, bytes }) =>
    findUserAddress(regions, at, bytes) ?? `${name} at 0x${at.toString(16)} is not in the memory table`;

/**
 * Where a ring lies, or what is wrong with its size or its addresses.
 * @param find for a device behind an IOMMU, where they are no addresses of the front end; nor is that of the log a physical one.
 */
export function placeRing(ring: Ring, table: MemoryTable, packed: boolean, find?: PartFinder): RingPlace | string {
  const { addresses, size, index } = ring;
  if (!addresses) return `ring ${index} has no addresses`;
  const wrong = wrongSize(size, packed);
  if (wrong) return `ring ${index} has ${size} entries; ${wrong}`;
  const { regions, memory } = table;
  if (!memory) return `ring ${index}: there is no memory`;
  const places: Place[] = [];
  for (const part of ringParts(ring, packed)) {
    const place = (find ?? byUserAddress(table))(part);
    if (typeof place === 'string') return place;
    const here = place.region < 0 ? place.offset : memory.base[place.region]! + place.offset;
    if (here % part.align !== 0 || place.offset % part.align !== 0) {
      return `${part.name} is not aligned to ${part.align} bytes`;
    }
    places.push(place);
  }
  const [desc, avail, used] = places as [Place, Place, Place];
  const placed = {
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
  };
  const logged = (addresses.flags & VRING_LOG) !== 0;
  if (places.some(({ region }) => region < 0)) {
    const { descriptors, available, used: usedAt } = addresses;
    const [descriptorOffset, availableOffset, usedOffset] = [descriptors, available, usedAt].map(
      (at) => Number(at) % IOTLB_PAGE,
    ) as [number, number, number];
    const windows = places.map(({ pieces }) => pieces ?? []);
    const log = { usedAt: Number(usedAt), descriptorsAt: Number(descriptors) };
    return { ...placed, descriptorOffset, availableOffset, usedOffset, windows, ...(logged && { log }) };
  }
  const guest = ({ region, offset }: Place): number => regions[region]!.guestAddress + offset;
  const log = { usedAt: find ? guest(used) : Number(addresses.log), descriptorsAt: guest(desc) };
  return { ...placed, ...(logged && { log }) };
}

/**
 * Where a ring goes on that was just started. The base that the front end gave differs from a split ring's used index only
 * when a back end before us ended between taking and returning buffers; those are sent again, as after any crash, but for
 * what a journal says. A packed ring has no used index: see place-packed.ts.
 */
export function startPlace(
  ring: Ring,
  place: RingPlace,
  buffers: readonly ArrayBuffer[],
  packed: boolean,
  journal: { file: Journal; name: InflightName } | undefined,
): Started {
  const step = journal?.file.decided(journal.name, ring.index);
  const started = packed
    ? startPacked()
    : redoSplit(new Uint16Array(buffers[place.usedRegion]!, place.usedOffset, 2), step);
  // Only now that it is done: being killed before means doing it again.
  if (step) journal!.file.forget(journal!.name, ring.index);
  return started;

  function startPacked(): Started {
    const desc = new Uint32Array(buffers[place.descriptorRegion]!, place.descriptorOffset, 4 * place.size);
    const done = step && redoPacked(desc, place.size, step);
    if (done) return done;
    const before = desc.slice();
    const found = findPlace(desc, place.size, ring.base ?? FIRST_PLACE);
    // Chains were finished: nobody knows any more where they began.
    return { place: found, from: before.every((word, i) => word === desc[i]) ? -1 : found };
  }
}
