/**
 * The back end of one connection: what the front end's messages do, by themselves, without the socket.
 *
 * A ring is usable when it has been started (kick), is enabled, has a size, and its three parts lie in the memory table.
 * The messages that lead there come in any order; after each that may matter, `#apply` compares what workers have with what
 * they should have and replaces their attachment. Nothing that workers may be using is changed or closed before that.
 */
import { address, close, eventfdSignal } from '#contract/os.ts';
import { checkFiles, sealed } from '../memory.ts';
import { KIND, type VhostUserAttachment } from './attachment.ts';
import { headerBytes, isPacked, OFFERED_PROTOCOL, offeredFeatures, rxOptions, txOptions } from './features.ts';
import { checkRegions, findUserAddress, GuestMemory, type Region } from './guest-memory.ts';
import type { Settings } from './options.ts';
import { findPlace } from './place-packed.ts';
import {
  availableBytes,
  BROKEN_REASONS,
  descriptorBytes,
  type RingPlace,
  STATE_BROKEN,
  STATE_CURSOR,
  STATE_LOCK,
  STATE_WORDS,
  usedBytes,
} from './vring.ts';
import { ENTRY_MASK, EVENT_BYTES, FIRST_PLACE, packedDescriptorBytes } from './vring-packed.ts';
import * as wire from './wire.ts';

/** What a device needs of its surroundings. */
export interface DeviceHost {
  readonly portNo: number;
  readonly mtu: number;
  readonly settings: Settings;
  /** Replaces the workers' attachment; resolves when all have it. */
  attach(attachment: VhostUserAttachment | undefined): Promise<void>;
}

class Ring {
  readonly index: number;
  size = 0;
  /** Where the front end wants it to begin, as SET_VRING_BASE said it. */
  base: number | undefined;
  addresses: wire.VringAddress | undefined;
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

/** A message that cannot be obeyed. Where it asked for no answer, the connection has no sense any more. */
export class RefusedError extends Error {
  override name = 'RefusedError';
}

type Handler = (device: VhostUserDevice, payload: Uint8Array, fds: number[]) => Promise<Uint8Array | undefined>;

let generations = 0;

export class VhostUserDevice {
  readonly #host: DeviceHost;
  readonly #state: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #rings = new Map<number, Ring>();
  readonly #offered: bigint;
  #features = 0n;
  #protocol = 0n;
  #status = 0n;
  #guestMtu = 0;
  #regions: readonly Region[] = [];
  #memory: GuestMemory | undefined;
  #generation = 0;
  #attached: VhostUserAttachment | undefined;
  #attachedKey = '';
  #sealed = false;
  /** Why there is no memory though a table was sent; empty otherwise. */
  memoryError = '';
  /** Why a started ring is not usable; empty otherwise. */
  ringError = '';

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#offered = offeredFeatures(host.settings.offload, host.settings.packed);
    this.#state = new SharedArrayBuffer(wire.MAX_VRINGS * STATE_WORDS * 4);
    this.#words = new Int32Array(this.#state);
  }

  get hasMemory(): boolean {
    return this.#memory !== undefined;
  }

  get up(): boolean {
    return this.#attached !== undefined;
  }

  /** Facts for the port's status. */
  facts(): Record<string, string> {
    const facts: Record<string, string> = {
      features: `0x${this.#features.toString(16).padStart(16, '0')}`,
      protocol_features: `0x${this.#protocol.toString(16)}`,
      num_of_vrings: String(this.#rings.size),
      header_bytes: String(headerBytes(this.#features)),
    };
    if (this.#guestMtu > 0) facts['guest_mtu'] = String(this.#guestMtu);
    if (this.#memory) {
      facts['memory'] = this.#sealed ? 'sealed' : 'unsealed';
      facts['memory_regions'] = String(this.#regions.length);
      facts['memory_bytes'] = String(this.#regions.reduce((sum, r) => sum + r.size, 0));
    }
    for (const ring of this.#attached?.rings ?? []) facts[`vring_${ring.index}_size`] = String(ring.size);
    return facts;
  }

  /** What a worker found wrong with a ring, if anything. */
  broken(): string | undefined {
    for (const { index } of this.#attached?.rings ?? []) {
      const reason = Atomics.load(this.#words, index * STATE_WORDS + STATE_BROKEN);
      if (reason !== 0) return `ring ${index}: ${BROKEN_REASONS[reason] ?? 'broken'}`;
    }
    return undefined;
  }

  /**
   * Obeys one message. Descriptors taken over are replaced by -1 in `fds`; the caller closes the others.
   * @returns the answer's bytes, header included, or undefined when there is none to send.
   * @throws RefusedError when it cannot be obeyed and the front end asked for no answer.
   */
  async handle(message: wire.Message, fds: number[]): Promise<Uint8Array | undefined> {
    const row = wire.MESSAGES.get(message.code);
    const needReply =
      (message.flags & wire.FLAG_NEED_REPLY) !== 0 && wire.hasBit(this.#protocol, wire.PROTOCOL_FEATURES.REPLY_ACK);
    const acknowledge = (code: bigint) => wire.encodeReply(message.code, wire.encodeU64(code));
    const known = row && (!row.needs || wire.hasBit(this.#protocol, wire.PROTOCOL_FEATURES[row.needs]));
    if (!known) return needReply ? acknowledge(1n) : undefined;
    try {
      const wrong = wire.checkPayload(row, message.payload, fds.length);
      if (wrong !== undefined) throw new RefusedError(wrong);
      const answer = await HANDLERS.get(message.code)!(this, message.payload, fds);
      if (answer) return wire.encodeReply(message.code, answer);
      return needReply ? acknowledge(0n) : undefined;
    } catch (error) {
      // A message with an answer of its own has no way to say no.
      if (needReply && !row.reply) return acknowledge(1n);
      // Without memory the port stays down and says why; the connection may still be of use.
      if (message.code === wire.SET_MEM_TABLE) return undefined;
      throw error instanceof RefusedError ? error : new RefusedError(`${row.name}: ${(error as Error).message}`);
    }
  }

  /** The connection is gone: workers let go first, then everything is closed. */
  async close(): Promise<void> {
    for (const ring of this.#rings.values()) ring.started = false;
    try {
      await this.#apply();
    } finally {
      for (const ring of this.#rings.values()) for (const fd of [ring.kickFd, ring.callFd, ring.errFd]) closeFd(fd);
      this.#rings.clear();
      this.#dropMemory();
    }
  }

  /** Bits that were offered may be accepted, all others may not. */
  static readonly handlers: ReadonlyArray<readonly [number, Handler]> = [
    [wire.GET_FEATURES, async (d) => wire.encodeU64(d.#offered)],
    [wire.SET_FEATURES, (d, payload) => d.#setFeatures(wire.decodeU64(payload))],
    [wire.SET_OWNER, async () => undefined],
    [wire.RESET_OWNER, (d) => d.#reset()],
    [wire.RESET_DEVICE, (d) => d.#reset()],
    [wire.SET_MEM_TABLE, (d, payload, fds) => d.#setMemory(payload, fds)],
    [wire.SET_VRING_NUM, (d, payload) => d.#setSize(wire.VRING_STATE.decode(payload))],
    [wire.SET_VRING_ADDR, (d, payload) => d.#setAddresses(wire.VRING_ADDRESS.decode(payload))],
    [wire.SET_VRING_BASE, (d, payload) => d.#setBase(wire.VRING_STATE.decode(payload))],
    [wire.GET_VRING_BASE, (d, payload) => d.#getBase(wire.VRING_STATE.decode(payload))],
    [wire.SET_VRING_KICK, (d, payload, fds) => d.#setFd('kickFd', wire.decodeU64(payload), fds)],
    [wire.SET_VRING_CALL, (d, payload, fds) => d.#setFd('callFd', wire.decodeU64(payload), fds)],
    [wire.SET_VRING_ERR, (d, payload, fds) => d.#setFd('errFd', wire.decodeU64(payload), fds)],
    [wire.GET_PROTOCOL_FEATURES, async () => wire.encodeU64(OFFERED_PROTOCOL)],
    [wire.SET_PROTOCOL_FEATURES, (d, payload) => d.#setProtocol(wire.decodeU64(payload))],
    [wire.GET_QUEUE_NUM, async (d) => wire.encodeU64(BigInt(d.#host.settings.queuePairs))],
    [wire.SET_VRING_ENABLE, (d, payload) => d.#setEnable(wire.VRING_STATE.decode(payload))],
    [wire.NET_SET_MTU, (d, payload) => d.#setMtu(wire.decodeU64(payload))],
    [wire.SET_STATUS, (d, payload) => d.#setStatus(wire.decodeU64(payload))],
    [wire.GET_STATUS, async (d) => wire.encodeU64(d.#status)],
  ];

  async #setFeatures(features: bigint): Promise<undefined> {
    const extra = features & ~this.#offered;
    if (extra !== 0n) throw new RefusedError(`SET_FEATURES accepts 0x${extra.toString(16)}, which was not offered`);
    if (isPacked(features) !== isPacked(this.#features)) {
      // A place in the one kind of ring means nothing in the other.
      await this.#detach();
      for (const ring of this.#rings.values()) ring.synced = false;
    }
    this.#features = features;
    await this.#apply();
  }

  async #setProtocol(features: bigint): Promise<undefined> {
    const extra = features & ~OFFERED_PROTOCOL;
    if (extra !== 0n)
      throw new RefusedError(`SET_PROTOCOL_FEATURES accepts 0x${extra.toString(16)}, which was not offered`);
    this.#protocol = features;
  }

  async #setMtu(mtu: bigint): Promise<undefined> {
    if (mtu < 68n || mtu > 65_535n) throw new RefusedError(`NET_SET_MTU of ${mtu} bytes; 68 to 65535 are possible`);
    this.#guestMtu = Number(mtu);
  }

  async #setStatus(status: bigint): Promise<undefined> {
    if (status > 0xffn) throw new RefusedError(`SET_STATUS of 0x${status.toString(16)}; a status has 8 bits`);
    this.#status = status;
    // Status 0 is a reset (virtio 1.2 section 2.1.2): the driver owns its memory again.
    if (status === 0n) await this.#stopRings();
  }

  async #reset(): Promise<undefined> {
    await this.#stopRings();
    for (const ring of this.#rings.values()) ring.enabled = false;
    this.#features = 0n;
    this.#status = 0n;
  }

  async #stopRings(): Promise<void> {
    for (const ring of this.#rings.values()) ring.started = false;
    await this.#apply();
  }

  async #setMemory(payload: Uint8Array, fds: number[]): Promise<undefined> {
    // Workers let go of the old table before it goes; rings start again on the new one.
    const rows = wire.decodeMemoryTable(payload);
    await this.#detach();
    this.#dropMemory();
    try {
      const regions = checkRegions(rows, fds);
      checkFiles(regions);
      this.#memory = new GuestMemory(regions, this.#host.portNo);
      this.#regions = regions;
      this.#generation = ++generations;
      this.#sealed = sealed(regions);
      this.memoryError = '';
      fds.fill(-1);
    } catch (error) {
      this.memoryError = `the memory table was refused: ${(error as Error).message}; is the guest's memory shared (share=on)?`;
      throw error;
    }
    await this.#apply();
  }

  #dropMemory(): void {
    this.#memory?.close();
    this.#memory = undefined;
    for (const { fd } of this.#regions) closeFd(fd);
    this.#regions = [];
  }

  #ring(index: number): Ring {
    if (index >= this.#host.settings.queuePairs * 2) {
      throw new RefusedError(`ring ${index} does not exist; ${this.#host.settings.queuePairs * 2} rings are offered`);
    }
    let ring = this.#rings.get(index);
    if (!ring) {
      ring = new Ring(index);
      this.#rings.set(index, ring);
    }
    return ring;
  }

  async #setSize({ index, num }: wire.VringState): Promise<undefined> {
    const ring = this.#ring(index);
    const wrong = this.#wrongSize(num);
    if (wrong) throw new RefusedError(`ring ${index} of ${num} entries; ${wrong}`);
    await this.#without(ring, async () => {
      ring.size = num;
      ring.synced = false;
    });
  }

  /** Why a ring of `size` entries cannot be; empty where it can. Packed rings have any size. */
  #wrongSize(size: number): string {
    if (size === 0 || size > wire.MAX_RING_SIZE) return `1 to ${wire.MAX_RING_SIZE} are possible`;
    if (isPacked(this.#features) || (size & (size - 1)) === 0) return '';
    return `a split ring has a power of two up to ${wire.MAX_RING_SIZE}`;
  }

  async #setAddresses(addresses: wire.VringAddress): Promise<undefined> {
    const ring = this.#ring(addresses.index);
    ring.addresses = addresses;
    if (this.#memory && ring.size > 0 && typeof this.#place(ring) === 'string') {
      throw new RefusedError(this.#place(ring) as string);
    }
    await this.#apply();
  }

  async #setBase({ index, num }: wire.VringState): Promise<undefined> {
    const ring = this.#ring(index);
    const packed = isPacked(this.#features);
    if (num > 0xffff && !packed) throw new RefusedError(`ring ${index} at entry ${num}; an index has 16 bits`);
    if (packed && ring.size > 0 && (num & ENTRY_MASK) >= ring.size) {
      throw new RefusedError(`ring ${index} at entry ${num & ENTRY_MASK}; it has ${ring.size}`);
    }
    await this.#without(ring, async () => {
      ring.base = num & 0xffff;
      this.#words[index * STATE_WORDS + STATE_CURSOR] = ring.base;
      ring.synced = false;
    });
  }

  async #getBase({ index }: wire.VringState): Promise<Uint8Array> {
    const ring = this.#ring(index);
    ring.started = false;
    await this.#apply();
    closeFd(ring.kickFd);
    ring.kickFd = -1;
    const place = this.#words[index * STATE_WORDS + STATE_CURSOR]! & 0xffff;
    return wire.VRING_STATE.encode({ index, num: isPacked(this.#features) ? wire.packedBase(place) : place });
  }

  async #setFd(which: 'kickFd' | 'callFd' | 'errFd', value: bigint, fds: number[]): Promise<undefined> {
    const ring = this.#ring(Number(value & wire.VRING_INDEX_MASK));
    const none = (value & wire.VRING_NO_FD) !== 0n;
    if (!none && fds.length !== 1) throw new RefusedError(`ring ${ring.index}: a descriptor is missing`);
    const old = ring[which];
    ring[which] = none ? -1 : fds[0]!;
    if (!none) fds[0] = -1;
    if (which === 'kickFd' && !ring.started) {
      ring.started = true;
      ring.synced = false;
      // Without the protocol features a ring is enabled by its kick (vhost-user.rst, "Ring states").
      if (!wire.hasBit(this.#features, wire.VIRTIO_FEATURES.PROTOCOL_FEATURES)) ring.enabled = true;
    }
    await this.#apply();
    closeFd(old);
    // What was signalled to the old descriptor may not have been seen.
    if (which === 'callFd' && ring.callFd >= 0 && ring.started) eventfdSignal(ring.callFd);
  }

  async #setEnable({ index, num }: wire.VringState): Promise<undefined> {
    if (num > 1) throw new RefusedError(`SET_VRING_ENABLE of ring ${index} to ${num}; 0 or 1 is possible`);
    this.#ring(index).enabled = num === 1;
    await this.#apply();
  }

  /** Runs `change` while no worker has the ring. */
  async #without(ring: Ring, change: () => Promise<void>): Promise<void> {
    const { started } = ring;
    ring.started = false;
    await this.#apply();
    await change();
    ring.started = started;
    await this.#apply();
  }

  /** Where a ring lies, or what is wrong with its addresses. */
  #place(ring: Ring): RingPlace | string {
    const { addresses, size, index } = ring;
    if (!addresses) return `ring ${index} has no addresses`;
    const packed = isPacked(this.#features);
    const wrong = this.#wrongSize(size);
    if (wrong) return `ring ${index} has ${size} entries; ${wrong}`;
    const find = (name: string, at: bigint, bytes: number, align: number) => {
      const place = findUserAddress(this.#regions, at, bytes);
      if (!place) return `ring ${index}: ${name} at 0x${at.toString(16)} is not in the memory table`;
      const here = address(this.#memory!.buffers[place.region]!) + place.offset;
      return here % align === 0 && place.offset % align === 0
        ? place
        : `ring ${index}: ${name} is not aligned to ${align} bytes`;
    };
    const [table, driver, device] = packed
      ? ['descriptor ring', 'driver event area', 'device event area']
      : ['descriptor table', 'available ring', 'used ring'];
    const desc = find(table!, addresses.descriptors, packed ? packedDescriptorBytes(size) : descriptorBytes(size), 16);
    const avail = find(driver!, addresses.available, packed ? EVENT_BYTES : availableBytes(size), packed ? 4 : 2);
    const used = find(device!, addresses.used, packed ? EVENT_BYTES : usedBytes(size), 4);
    for (const place of [desc, avail, used]) if (typeof place === 'string') return place;
    if (typeof desc === 'string' || typeof avail === 'string' || typeof used === 'string') return '';
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
    };
  }

  /**
   * A ring goes on where its used index stands. The base that the front end gave differs from it only when a back end
   * before us ended between taking and returning buffers; those are lost or sent again, as after any crash. A packed ring
   * has no used index: see place-packed.ts.
   */
  #sync(ring: Ring, place: RingPlace): void {
    if (ring.synced) return;
    ring.synced = true;
    const row = ring.index * STATE_WORDS;
    const { buffers } = this.#memory!;
    if (isPacked(this.#features)) {
      const desc = new Uint32Array(buffers[place.descriptorRegion]!, place.descriptorOffset, 4 * place.size);
      this.#words[row + STATE_CURSOR] = findPlace(desc, place.size, ring.base ?? FIRST_PLACE);
    } else {
      this.#words[row + STATE_CURSOR] = new Uint16Array(buffers[place.usedRegion]!, place.usedOffset, 2)[1]!;
    }
    this.#words[row + STATE_BROKEN] = 0;
    this.#words[row + STATE_LOCK] = 0;
  }

  #wanted(): VhostUserAttachment | undefined {
    this.ringError = '';
    if (!this.#memory) return undefined;
    const rings: RingPlace[] = [];
    for (const ring of this.#rings.values()) {
      if (!ring.started || !ring.enabled || ring.size === 0) continue;
      const place = this.#place(ring);
      if (typeof place === 'string') {
        this.ringError = place;
        continue;
      }
      this.#sync(ring, place);
      rings.push(place);
    }
    if (rings.length === 0) return undefined;
    rings.sort((a, b) => a.index - b.index);
    return {
      kind: KIND,
      portNo: this.#host.portNo,
      rxQueues: rings.filter(({ index }) => index % 2 === 1).map(({ index }) => index >> 1),
      generation: this.#generation,
      regions: this.#regions,
      rings,
      packed: isPacked(this.#features),
      state: this.#state,
      rx: rxOptions(this.#features),
      tx: txOptions(this.#features, this.#host.mtu, this.#host.settings.retries),
    };
  }

  async #apply(): Promise<void> {
    const next = this.#wanted();
    const key = next ? JSON.stringify(next) : '';
    if (key === this.#attachedKey) return;
    this.#attached = next;
    this.#attachedKey = key;
    await this.#host.attach(next);
  }

  async #detach(): Promise<void> {
    if (!this.#attached) return;
    this.#attached = undefined;
    this.#attachedKey = '';
    await this.#host.attach(undefined);
  }
}

const HANDLERS: ReadonlyMap<number, Handler> = new Map(VhostUserDevice.handlers);

const closeFd = (fd: number): void => {
  if (fd >= 0) close(fd);
};
