/**
 * The regions and rings of one connection, and what workers have of them: the same for both roles. In the server role
 * they are the peer's and are checked here; in the client role they are made here.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { close, eventfd, memfd } from '#contract/os.ts';
import { checkFiles, type FilePart, sealed } from '../memory.ts';
import { KIND, type MemifAttachment } from './attachment.ts';
import type { Settings } from './options.ts';
import {
  BROKEN_REASONS,
  COOKIE_AT,
  FLAGS_AT,
  HEAD_AT,
  Regions,
  RING_MASK_INT,
  Ring,
  type RingPlace,
  ringBytes,
  STATE_BROKEN,
  STATE_WORDS,
  stateRow,
  TAIL_AT,
} from './ring.ts';
import { type AddRegion, type AddRing, COOKIE, MAX_LOG2_RING_SIZE, MAX_QUEUES, MAX_REGIONS, RING_S2M } from './wire.ts';

/** What a device needs of its surroundings. */
export interface DeviceHost {
  readonly portNo: number;
  readonly mtu: number;
  readonly settings: Settings;
  /** Replaces the workers' attachment; resolves when all have it. */
  attach(attachment: MemifAttachment | undefined): Promise<void>;
}

const LINE = 64;
const PAGE = 4096;
/** Sums of addresses and sizes stay exact. */
const MAX_REGION_BYTES = 2 ** 48;

let generations = 0;

const up = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;
const nameOf = ({ s2m, index }: { s2m: boolean; index: number }): string => `${s2m ? 'S2M' : 'M2S'} ring ${index}`;

export class MemifDevice {
  readonly #host: DeviceHost;
  readonly #server: boolean;
  readonly #state = new SharedArrayBuffer(2 * MAX_QUEUES * STATE_WORDS * 4);
  readonly #generation = ++generations;
  #regions: FilePart[] = [];
  #rings: RingPlace[] = [];
  #attached = false;

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#server = host.settings.mode === 'server';
  }

  get up(): boolean {
    return this.#attached;
  }

  get regions(): readonly FilePart[] {
    return this.#regions;
  }

  get rings(): readonly RingPlace[] {
    return this.#rings;
  }

  /** Facts for the port's status. */
  facts(): Record<string, string> {
    const facts: Record<string, string> = {};
    if (this.#regions.length > 0) {
      facts['memory'] = sealed(this.#regions) ? 'sealed' : 'unsealed';
      facts['memory_regions'] = String(this.#regions.length);
      facts['memory_bytes'] = String(this.#regions.reduce((sum, { size }) => sum + size, 0));
    }
    for (const { index, s2m, size } of this.#rings) {
      facts[`${s2m === this.#server ? 'rx' : 'tx'}_ring_${index}_size`] = String(size);
    }
    return facts;
  }

  /** What a worker found wrong with a ring, if anything. */
  broken(): string | undefined {
    const words = new Int32Array(this.#state);
    for (const ring of this.#attached ? this.#rings : []) {
      const reason = Atomics.load(words, stateRow(ring) + STATE_BROKEN);
      if (reason !== 0) return `${nameOf(ring)}: ${BROKEN_REASONS[reason] ?? 'broken'}`;
    }
    return undefined;
  }

  /** Takes a region of the peer over, with its descriptor. @throws Error that says what is wrong with it. */
  addRegion({ index, size }: AddRegion, fd: number): void {
    if (index !== this.#regions.length) {
      throw new Error(`region ${index} came where region ${this.#regions.length} was due`);
    }
    if (index >= MAX_REGIONS) throw new Error(`region ${index} came; at most ${MAX_REGIONS} are taken`);
    if (size === 0n || size > BigInt(MAX_REGION_BYTES))
      throw new Error(`region ${index} of ${size} bytes is impossible`);
    const region = { fd, mmapOffset: 0, size: Number(size) };
    try {
      checkFiles([region]);
    } catch (error) {
      throw new Error(`region ${index}: ${(error as Error).message}`);
    }
    this.#regions.push(region);
  }

  /** Takes a ring of the peer over, with its descriptor. @throws Error that says what is wrong with it. */
  addRing({ flags, index, region, offset, log2RingSize, privateHeader }: AddRing, fd: number): void {
    const s2m = (flags & RING_S2M) !== 0;
    const name = nameOf({ s2m, index });
    const { queues } = this.#host.settings;
    if (index >= queues) throw new Error(`${name} came; this port has ${queues} (option n_rxq)`);
    if (this.#rings.some((ring) => ring.s2m === s2m && ring.index === index)) throw new Error(`${name} came twice`);
    if (log2RingSize < 1 || log2RingSize > MAX_LOG2_RING_SIZE) {
      throw new Error(`${name} of 2^${log2RingSize} descriptors; 2^1 to 2^${MAX_LOG2_RING_SIZE} are possible`);
    }
    if (privateHeader !== 0) throw new Error(`${name} wants a private header of ${privateHeader} bytes; there is none`);
    const size = 1 << log2RingSize;
    const place = this.#regions[region];
    if (!place) throw new Error(`${name} lies in region ${region}, which was not added`);
    if (offset % 4 !== 0 || offset + ringBytes(size) > place.size) {
      throw new Error(
        `${name} at byte ${offset} does not fit region ${region} of ${place.size} bytes, or is not aligned`,
      );
    }
    checkEventFd(fd, name);
    this.#rings.push({ index, s2m, size, region, offset, eventFd: fd, buffers: 0, stride: 0, capacity: 0 });
  }

  /** Makes region 0 with `queues` rings in each direction, and their buffers. @throws OsError when there is no memory. */
  make(queues: number, log2RingSize: number, bufferSize: number): void {
    const size = 1 << log2RingSize;
    const stride = up(bufferSize, LINE);
    const apart = up(ringBytes(size), LINE);
    const first = up(2 * queues * apart, PAGE);
    const bytes = up(first + 2 * queues * size * stride, PAGE);
    this.#regions = [{ fd: memfd('memif', bytes, { seal: true }), mmapOffset: 0, size: bytes }];
    for (const s2m of [true, false]) {
      for (let index = 0; index < queues; index++) {
        const n = (s2m ? 0 : queues) + index;
        const offset = n * apart;
        const buffers = first + n * size * stride;
        this.#rings.push({
          index,
          s2m,
          size,
          region: 0,
          offset,
          eventFd: eventfd(),
          buffers,
          stride,
          capacity: bufferSize,
        });
      }
    }
    this.#each((ring, place, u8) => {
      new DataView(u8).setUint32(place.offset + COOKIE_AT, COOKIE, true);
      for (let i = 0; i < size; i++) {
        ring.desc[4 * i + 1] = place.capacity;
        ring.desc[4 * i + 2] = place.buffers + i * stride;
      }
    });
  }

  /**
   * Starts the rings at 0 and gives them to the workers. A server does that before it answers CONNECT, a client when it
   * has the answer: peers put both indices to 0 at the same moments. @throws Error when a ring is not what it should be.
   */
  async connect(): Promise<void> {
    const { portNo, mtu } = this.#host;
    if (this.#rings.length === 0) throw new Error('CONNECT came before any ring');
    this.#each((ring, place, memory) => {
      const cookie = new DataView(memory).getUint32(place.offset + COOKIE_AT, true);
      if (cookie !== COOKIE) throw new Error(`${nameOf(place)} has the cookie 0x${cookie.toString(16)}, not 0x3e31f20`);
      const receives = place.s2m === this.#server;
      Atomics.store(ring.u16, TAIL_AT, 0);
      if (!this.#server) Atomics.store(ring.u16, HEAD_AT, receives ? place.size : 0);
      // A worker takes the mask off before it sleeps.
      if (receives) ring.u16[FLAGS_AT] = RING_MASK_INT;
    });
    this.#attached = true;
    await this.#host.attach({
      kind: KIND,
      portNo,
      rxQueues: this.#rings.filter(({ s2m }) => s2m === this.#server).map(({ index }) => index),
      generation: this.#generation,
      server: this.#server,
      regions: this.#regions,
      rings: this.#rings,
      state: this.#state,
      mtu,
    });
  }

  /** Workers let go first, then everything is closed. */
  async close(): Promise<void> {
    try {
      if (this.#attached) {
        this.#attached = false;
        await this.#host.attach(undefined);
      }
    } finally {
      for (const { fd } of this.#regions) close(fd);
      for (const { eventFd } of this.#rings) close(eventFd);
      this.#regions = [];
      this.#rings = [];
    }
  }

  /** Looks at every ring, mapped for the moment. */
  #each(look: (ring: Ring, place: RingPlace, memory: ArrayBuffer) => void): void {
    const regions = new Regions(this.#regions, this.#host.portNo);
    try {
      for (const place of this.#rings) {
        look(new Ring(place, this.#server, regions, this.#state), place, regions.buffers[place.region]!);
      }
    } finally {
      regions.close();
    }
  }
}

/**
 * A worker reads and writes these descriptors: nothing else than an eventfd, and none that could make it wait.
 * @throws Error that says what is wrong.
 */
function checkEventFd(fd: number, name: string): void {
  const kind = readlinkSync(`/proc/self/fd/${fd}`);
  const flags = Number.parseInt(
    /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0',
    8,
  );
  if (!kind.includes('[eventfd]') || (flags & 0o4000) === 0) {
    throw new Error(`the descriptor of ${name} is not a non-blocking eventfd (EFD_NONBLOCK)`);
  }
}
