/**
 * The back end of one connection: what the front end's messages do, by themselves, without the socket.
 *
 * A ring is usable when it has been started (kick), is enabled, has a size, and its three parts lie in the memory table.
 * The messages that lead there come in any order; after each that may matter, `#apply` compares what workers have with what
 * they should have and replaces their attachment. Nothing that workers may be using is changed or closed before that.
 */
import { eventfdSignal } from '#contract/os.ts';
import { KIND, type VhostUserAttachment } from './attachment.ts';
import type { Reply } from './connection.ts';
import { type Answer, type DeviceHost, RefusedError } from './device-host.ts';
import {
  boundMtu,
  hasIommu,
  headerBytes,
  isLogging,
  isPacked,
  offeredFeatures,
  offeredProtocol,
  offloadNames,
  rxOptions,
  txOptions,
} from './features.ts';
import { Iommu } from './iommu.ts';
import { MemoryMessages } from './memory-messages.ts';
import { checkPayload } from './payload-check.ts';
import { postcopyAvailable } from './postcopy.ts';
import { repairs } from './redo.ts';
import { type PartFinder, placeRing, type Ring, startPlace } from './ring.ts';
import { RingMessages } from './ring-messages.ts';
import { RingWindows } from './ring-windows.ts';
import { Services } from './services.ts';
import { BROKEN_REASONS, type RingPlace, STATE_BROKEN, STATE_CURSOR, STATE_LOCK, STATE_WORDS } from './vring.ts';
import * as wire from './wire.ts';

export { type DeviceHost, RefusedError };

type Handler = (device: VhostUserDevice, payload: Uint8Array, fds: number[]) => Promise<Answer>;

const NO_CONFIG = new Uint8Array(0);

export class VhostUserDevice {
  readonly #host: DeviceHost;
  readonly #state: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #rings: RingMessages;
  readonly #offered: bigint;
  #features = 0n;
  #protocol = 0n;
  #status = 0n;
  #guestMtu = 0;
  #mtu: number;
  readonly #offeredProtocol: bigint;
  readonly #memory: MemoryMessages;
  readonly #services: Services;
  #iommu: Iommu | undefined;
  #attached: VhostUserAttachment | undefined;
  #attachedKey = '';
  /** Why a started ring is not usable; empty otherwise. */
  ringError = '';

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#mtu = host.mtu;
    this.#offered = offeredFeatures(host.settings.offloads, host.settings.packed, host.iommu);
    this.#state = new SharedArrayBuffer(wire.MAX_VRINGS * STATE_WORDS * 4);
    this.#words = new Int32Array(this.#state);
    this.#offeredProtocol = offeredProtocol(postcopyAvailable());
    this.#memory = new MemoryMessages(host.portNo, {
      detach: () => this.#detach(),
      apply: () => this.#apply(),
      forget: async () => this.#iommu?.clear(this.#rings.all),
    });
    this.#rings = new RingMessages(host.settings.queuePairs * 2, this.#words, {
      packed: () => isPacked(this.#features),
      enabledByKick: () => !wire.hasBit(this.#features, wire.VIRTIO_FEATURES.PROTOCOL_FEATURES),
      misplaced: (ring) => this.#misplaced(ring),
      apply: () => this.#apply(),
    });
    this.#services = new Services(host.portNo, host.rundir, host.settings.queuePairs, host.mtu, this.#words);
  }

  /** Why there is no memory though a table was sent; empty otherwise. */
  get memoryError(): string {
    return this.#memory.table.error;
  }

  get hasMemory(): boolean {
    return this.#memory.table.memory !== undefined;
  }

  get up(): boolean {
    return this.#attached !== undefined;
  }

  /** Facts for the port's status. */
  facts(): Record<string, string> {
    const facts: Record<string, string> = {
      features: `0x${this.#features.toString(16).padStart(16, '0')}`,
      protocol_features: `0x${this.#protocol.toString(16)}`,
      num_of_vrings: String(this.#rings.all.length),
      header_bytes: String(headerBytes(this.#features)),
      offloads: offloadNames(this.#features),
    };
    if (this.#guestMtu > 0) facts['guest_mtu'] = String(this.#guestMtu);
    Object.assign(facts, this.#memory.table.facts(), this.#memory.postcopy.facts());
    Object.assign(facts, this.#services.facts(), this.#iommu?.facts());
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

  /** Housekeeping, now and then: an announcement that was made needs its queue no more. */
  async tidy(): Promise<void> {
    this.#iommu?.tidy();
    this.#memory.postcopy.tidy(async () => this.#host.barrier?.());
    if (this.#services.announced()) await this.#apply();
  }

  /**
   * Obeys one message. Descriptors taken over are replaced by -1 in `fds`; the caller closes the others.
   * @returns the answer, or undefined when there is none to send.
   * @throws RefusedError when it cannot be obeyed and the front end asked for no answer.
   */
  async handle(message: wire.Message, fds: number[]): Promise<Reply | undefined> {
    const row = wire.MESSAGES.get(message.code);
    // Asked when the message is obeyed: the one that agrees on REPLY_ACK may want an answer itself (Linux's virtio_uml).
    const needsReply = () => (message.flags & wire.FLAG_NEED_REPLY) !== 0 && this.#acknowledges;
    const reply = (payload: Uint8Array, fd = -1): Reply => ({ bytes: wire.encodeReply(message.code, payload), fd });
    const acknowledge = (code: bigint) => reply(wire.encodeU64(code));
    const known = row && (!row.needs || wire.hasBit(this.#protocol, wire.PROTOCOL_FEATURES[row.needs]));
    if (known && this.#memory.isConfirmation(message)) return this.#memory.confirmed(message.payload);
    if (!known) return needsReply() ? acknowledge(1n) : undefined;
    try {
      const wrong = checkPayload(row, message.payload, fds.length);
      if (wrong !== undefined) throw new RefusedError(wrong);
      const answer = await HANDLERS.get(message.code)!(this, message.payload, fds);
      if (answer) return answer instanceof Uint8Array ? reply(answer) : reply(answer.payload, answer.fd);
      return needsReply() ? acknowledge(0n) : undefined;
    } catch (error) {
      // A message with an answer of its own has no way to say no.
      if (needsReply() && !row.reply) return acknowledge(1n);
      // Without memory the port stays down and says why; the connection may still be of use.
      const quiet = message.code === wire.SET_MEM_TABLE || (message.code === wire.ADD_MEM_REG && !this.hasMemory);
      if (quiet && !this.#memory.postcopy.listening) return undefined;
      // An empty answer is the way to say that there is no such configuration.
      if (message.code === wire.GET_CONFIG) return reply(NO_CONFIG);
      throw error instanceof RefusedError ? error : new RefusedError(`${row.name}: ${(error as Error).message}`);
    }
  }

  /** The connection is gone: nobody waits for it any more. */
  abandon(): void {
    this.#memory.abandon();
  }

  /** The connection is gone: workers let go first, then everything is closed. */
  async close(): Promise<void> {
    for (const ring of this.#rings.all) ring.started = false;
    try {
      await this.#apply();
    } finally {
      this.#rings.clear();
      this.#iommu?.close();
      this.#services.close();
      this.#memory.clear();
    }
  }

  /** Bits that were offered may be accepted, all others may not. */
  static readonly handlers: ReadonlyArray<readonly [number, Handler]> = [
    [wire.GET_FEATURES, async (d) => wire.encodeU64(d.#offered)],
    [wire.SET_FEATURES, (d, payload) => d.#setFeatures(wire.decodeU64(payload))],
    [wire.SET_OWNER, async () => undefined],
    [wire.RESET_OWNER, (d) => d.#reset()],
    [wire.RESET_DEVICE, (d) => d.#reset()],
    [wire.SET_MEM_TABLE, (d, payload, fds) => d.#memory.set(payload, fds)],
    [wire.GET_MAX_MEM_SLOTS, async () => wire.encodeU64(BigInt(wire.MAX_REGIONS))],
    [wire.ADD_MEM_REG, (d, payload, fds) => d.#memory.add(payload, fds)],
    [wire.REM_MEM_REG, (d, payload) => d.#memory.remove(payload)],
    [wire.SET_LOG_BASE, (d, payload, fds) => d.#change(d.#services.setLog(payload, fds), wire.encodeU64(0n))],
    // Nobody waits for single bits of the log: the front end looks when it wants to.
    [wire.SET_LOG_FD, async () => undefined],
    [wire.SEND_RARP, (d, payload) => d.#change(d.#services.announce(payload))],
    [wire.SET_BACKEND_REQ_FD, async (d, _, fds) => d.#services.setChannel(fds, d.#acknowledges) as undefined],
    [wire.IOTLB_MSG, (d, payload) => d.#iotlb(payload)],
    [wire.GET_CONFIG, async (d, payload) => d.#services.getConfig(payload)],
    [wire.SET_CONFIG, async (d, payload) => d.#services.setConfig(payload) as undefined],
    [wire.POSTCOPY_ADVISE, (d) => d.#memory.advise()],
    [wire.POSTCOPY_LISTEN, (d) => d.#memory.listen()],
    [wire.POSTCOPY_END, (d) => d.#memory.end()],
    [wire.GET_INFLIGHT_FD, async (d, payload) => d.#services.getInflight(payload)],
    [wire.SET_INFLIGHT_FD, (d, payload, fds) => d.#change(d.#services.setInflight(payload, fds))],
    [wire.SET_VRING_NUM, (d, payload) => d.#rings.setSize(wire.VRING_STATE.decode(payload))],
    [wire.SET_VRING_ADDR, (d, payload) => d.#rings.setAddresses(wire.VRING_ADDRESS.decode(payload))],
    [wire.SET_VRING_BASE, (d, payload) => d.#rings.setBase(wire.VRING_STATE.decode(payload))],
    [wire.GET_VRING_BASE, (d, payload) => d.#rings.getBase(wire.VRING_STATE.decode(payload))],
    [wire.SET_VRING_KICK, (d, payload, fds) => d.#rings.setFd('kickFd', wire.decodeU64(payload), fds)],
    [wire.SET_VRING_CALL, (d, payload, fds) => d.#rings.setFd('callFd', wire.decodeU64(payload), fds)],
    [wire.SET_VRING_ERR, (d, payload, fds) => d.#rings.setFd('errFd', wire.decodeU64(payload), fds)],
    [wire.GET_PROTOCOL_FEATURES, async (d) => wire.encodeU64(d.#offeredProtocol)],
    [wire.SET_PROTOCOL_FEATURES, (d, payload) => d.#setProtocol(wire.decodeU64(payload))],
    [wire.GET_QUEUE_NUM, async (d) => wire.encodeU64(BigInt(d.#host.settings.queuePairs))],
    [wire.SET_VRING_ENABLE, (d, payload) => d.#rings.setEnable(wire.VRING_STATE.decode(payload))],
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
      for (const ring of this.#rings.all) ring.synced = false;
    }
    await this.#useIommu(features);
    this.#features = features;
    await this.#apply();
  }

  /** What addresses mean changes with it. */
  async #useIommu(features: bigint): Promise<void> {
    if (hasIommu(features) === hasIommu(this.#features) && isPacked(features) === isPacked(this.#features)) return;
    await this.#detach();
    this.#iommu?.close();
    this.#iommu = hasIommu(features)
      ? new Iommu((payload, done) => this.#services.sayIotlb(payload, done), isPacked(features))
      : undefined;
  }

  async #iotlb(payload: Uint8Array): Promise<Uint8Array> {
    const iommu = this.#iommu;
    if (!iommu) throw new RefusedError('IOTLB_MSG without VIRTIO_F_ACCESS_PLATFORM');
    const done = await iommu.obey(wire.decodeIotlb(payload), this.#memory.table.regions, this.#rings.all);
    if (iommu.waiting) await this.#apply();
    return wire.encodeU64(done ? 0n : 1n);
  }

  async #setProtocol(features: bigint): Promise<undefined> {
    const extra = features & ~this.#offeredProtocol;
    if (extra !== 0n)
      throw new RefusedError(`SET_PROTOCOL_FEATURES accepts 0x${extra.toString(16)}, which was not offered`);
    this.#protocol = features;
  }

  async #setMtu(mtu: bigint): Promise<undefined> {
    if (mtu < 68n || mtu > 65_535n) throw new RefusedError(`NET_SET_MTU of ${mtu} bytes; 68 to 65535 are possible`);
    this.#guestMtu = Number(mtu);
    await this.#apply();
  }

  async #setStatus(status: bigint): Promise<undefined> {
    if (status > 0xffn) throw new RefusedError(`SET_STATUS of 0x${status.toString(16)}; a status has 8 bits`);
    this.#status = status;
    // Status 0 is a reset (virtio 1.2 section 2.1.2): the driver owns its memory again.
    if (status === 0n) await this.#stopRings();
  }

  async #reset(): Promise<undefined> {
    await this.#stopRings();
    for (const ring of this.#rings.all) ring.enabled = false;
    await this.#useIommu(0n);
    this.#features = 0n;
    this.#status = 0n;
    await this.#change(this.#services.reset());
  }

  async #stopRings(): Promise<void> {
    for (const ring of this.#rings.all) ring.started = false;
    await this.#apply();
  }

  /** Gives workers what has changed. @param release if a function, is called when they have let go of what was before. */
  async #change<T extends Uint8Array | undefined>(release: unknown, answer?: T): Promise<T | undefined> {
    try {
      await this.#apply();
    } finally {
      if (typeof release === 'function') release();
    }
    return answer;
  }

  get #acknowledges(): boolean {
    return wire.hasBit(this.#protocol, wire.PROTOCOL_FEATURES.REPLY_ACK);
  }

  /** Frames for the guest may have this Ethernet payload from now on. */
  async setMtu(mtu: number): Promise<void> {
    this.#mtu = mtu;
    this.#services.setMtu(mtu);
    await this.#apply();
  }

  #misplaced(ring: Ring): string | undefined {
    if (!this.hasMemory || this.#iommu) return undefined;
    const place = placeRing(ring, this.#memory.table, isPacked(this.#features));
    return typeof place === 'string' ? place : undefined;
  }

  #finder(): PartFinder | undefined {
    const iommu = this.#iommu;
    return iommu && ((part) => iommu.find(part, this.#memory.table.regions));
  }

  #sync(ring: Ring, place: RingPlace): void {
    if (ring.synced) return;
    ring.synced = true;
    const row = ring.index * STATE_WORDS;
    const packed = isPacked(this.#features);
    const windows = new RingWindows(this.#memory.table.memory!.buffers, this.#host.portNo);
    try {
      const here = windows.resolve(place);
      const started = startPlace(ring, here, windows.buffers, packed, this.#services.inflight);
      this.#words[row + STATE_CURSOR] = started.place;
      this.#services.wrote(repairs(place, packed, started));
    } finally {
      windows.close();
    }
    this.#words[row + STATE_BROKEN] = 0;
    this.#words[row + STATE_LOCK] = 0;
    // A back end that died may have shown used buffers and not told of them.
    if (ring.callFd >= 0) eventfdSignal(ring.callFd);
  }

  /** @param keep rings that wait for a translation stay where they are, paused. */
  #wanted(keep: boolean): VhostUserAttachment | undefined {
    this.ringError = '';
    if (!this.#memory.ready) return undefined;
    const rings: RingPlace[] = [];
    for (const ring of this.#rings.all) {
      if (!ring.started || !ring.enabled || ring.size === 0) continue;
      const iommu = this.#iommu;
      const now = placeRing(ring, this.#memory.table, isPacked(this.#features), this.#finder());
      const place = iommu?.place(ring, now, keep) ?? now;
      if (typeof place === 'string') {
        this.ringError = place;
        continue;
      }
      try {
        this.#sync(ring, place);
        rings.push(place);
      } catch (error) {
        // Its pages cannot be mapped one by one: they are parts of huge ones.
        ring.synced = false;
        this.ringError = `ring ${ring.index}: ${(error as Error).message}`;
      }
    }
    if (rings.length === 0) return undefined;
    rings.sort((a, b) => a.index - b.index);
    return {
      kind: KIND,
      portNo: this.#host.portNo,
      rxQueues: rings.filter(({ index }) => index % 2 === 1).map(({ index }) => index >> 1),
      generation: this.#memory.table.generation,
      regions: this.#memory.regions,
      rings,
      packed: isPacked(this.#features),
      state: this.#state,
      rx: rxOptions(this.#features),
      tx: txOptions(this.#features, boundMtu(this.#features, this.#mtu, this.#guestMtu), this.#host.settings.retries),
      logAll: isLogging(this.#features),
      ...this.#services.parts(),
      ...this.#iommu?.parts(),
    };
  }

  async #apply(): Promise<void> {
    await this.#memory.bring(this.#rings.all, isPacked(this.#features), this.#finder());
    const keyOf = (a: VhostUserAttachment | undefined): string => (a ? JSON.stringify(a) : '');
    let next = this.#wanted(true);
    // Queues write to their rings when they are made: not to one without a translation.
    if (this.#iommu?.waiting && keyOf(next) !== this.#attachedKey) next = this.#wanted(false);
    const key = keyOf(next);
    if (key !== this.#attachedKey) {
      this.#attached = next;
      this.#attachedKey = key;
      await this.#host.attach(next);
    }
    this.#iommu?.resume();
  }

  async #detach(): Promise<void> {
    if (!this.#attached) return;
    this.#attached = undefined;
    this.#attachedKey = '';
    await this.#host.attach(undefined);
  }
}

const HANDLERS: ReadonlyMap<number, Handler> = new Map(VhostUserDevice.handlers);
