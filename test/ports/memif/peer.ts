/**
 * The other side of a memif connection, written naively on its own mapping of the memory: a client that owns regions and
 * rings, or a server that works on those of the port. And the port beside it: device, attachment and a worker's view.
 */
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, PORT_ROW } from '#contract/catalogue.ts';
import { address, dup, eventfd, map, memfd } from '#contract/os.ts';
import { PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import { attachMemif, type MemifAttachment } from '#ports/memif/attachment.ts';
import { MemifDevice } from '#ports/memif/device.ts';
import type { Settings } from '#ports/memif/options.ts';
import type { WorkerPort } from '#ports/port.ts';

export const HEAD = 6;
export const TAIL = 64;
export const DESC = 128;

export interface PeerOptions {
  /** The port's role. */
  role?: 'server' | 'client';
  log2RingSize?: number;
  bufferSize?: number;
  queues?: number;
  /** Regions that a client peer's buffers lie in, beside or together with the rings (1). */
  regions?: number;
  sealed?: boolean;
  mtu?: number;
}

/** One ring as the peer sees it. */
export interface PeerRing {
  at: number;
  /** Place where the peer goes on. */
  cursor: number;
  /** Client peer: where the buffer of each entry lies. */
  buffers: { region: number; offset: number }[];
}

/** Addresses that copies may go to and come from are checked when `allowed` is set. */
export class CheckedBatch extends PacketBatch {
  allowed: [start: number, bytes: number][] | undefined;
  outside = 0;

  override copy(): void {
    for (let i = 0; this.allowed && i < this.rowCount; i++) {
      const [to, from, bytes] = this.rows.subarray(3 * i, 3 * i + 3);
      if (!this.within(to!, bytes!) || !this.within(from!, bytes!)) this.outside++;
    }
    if (this.outside > 0) this.rowCount = 0;
    super.copy();
  }

  within(at: number, bytes: number): boolean {
    return bytes > 0 && this.allowed!.some(([start, size]) => at >= start && at + bytes <= start + size);
  }
}

export const batch = new CheckedBatch();
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);

export const settingsOf = (options: PeerOptions): Settings => ({
  mode: options.role ?? 'server',
  packets: true,
  path: '',
  socketMode: undefined,
  socketOwner: undefined,
  id: 0,
  secret: '',
  queues: options.queues ?? 1,
  log2RingSize: options.log2RingSize ?? 8,
  bufferSize: options.bufferSize ?? 2048,
});

export class Peer {
  readonly portNo: number;
  readonly options: Required<PeerOptions>;
  readonly device: MemifDevice;
  readonly counters = new Float64Array(PORT_ROW);
  /** Peer's own views, one per region. */
  readonly memory: DataView[] = [];
  readonly fds: number[] = [];
  readonly s2m: PeerRing[] = [];
  readonly m2s: PeerRing[] = [];
  attachment!: MemifAttachment;
  port!: WorkerPort;

  private constructor(portNo: number, options: PeerOptions) {
    this.portNo = portNo;
    this.options = {
      role: 'server',
      log2RingSize: 8,
      bufferSize: 2048,
      queues: 1,
      regions: 1,
      sealed: true,
      mtu: 65_535,
      ...options,
    };
    this.device = new MemifDevice({
      portNo,
      mtu: this.options.mtu,
      settings: settingsOf(this.options),
      attach: async (attachment) => {
        if (attachment) this.attachment = attachment;
      },
    });
  }

  static async make(portNo: number, options: PeerOptions = {}): Promise<Peer> {
    const peer = new Peer(portNo, options);
    if (peer.options.role === 'server') peer.#own();
    else peer.#use();
    await peer.device.connect();
    if (peer.options.role === 'server') peer.#offerAll();
    peer.port = peer.attach(0, 1);
    return peer;
  }

  get size(): number {
    return 1 << this.options.log2RingSize;
  }

  attach(worker: number, workers: number, previous?: WorkerPort): WorkerPort {
    const context = { worker, workers, counters: { slots: this.counters, base: 0 }, batch };
    return attachMemif(this.attachment, context, previous);
  }

  /** A client makes the memory. Buffers lie at odd places, the regions' last byte belongs to one. */
  #own(): void {
    const { queues, regions, bufferSize, sealed, log2RingSize } = this.options;
    const { size } = this;
    const ringBytes = DESC + 16 * size;
    const perRegion = Math.ceil((2 * queues * size) / regions);
    const first = 2 * queues * ringBytes + 5;
    for (let r = 0; r < regions; r++) {
      const bytes = (r === 0 ? first : 0) + perRegion * bufferSize;
      const fd = memfd('peer', bytes, { seal: sealed });
      this.fds.push(fd);
      this.memory.push(new DataView(map(fd, 0, bytes, { write: true, owner: 0 })));
      this.device.addRegion({ index: r, size: BigInt(bytes) }, dup(fd));
    }
    let next = 0;
    for (const [flags, rings] of [
      [1, this.s2m],
      [0, this.m2s],
    ] as const) {
      for (let index = 0; index < queues; index++) {
        const at = (flags === 1 ? index : queues + index) * ringBytes;
        const ring: PeerRing = { at, cursor: 0, buffers: [] };
        const view = this.memory[0]!;
        view.setUint32(at, 0x3e31f20, true);
        for (let i = 0; i < size; i++, next++) {
          const region = next % regions;
          const offset = (region === 0 ? first : 0) + Math.floor(next / regions) * bufferSize;
          ring.buffers.push({ region, offset });
          this.#describe(ring, i, 0, bufferSize);
        }
        rings.push(ring);
        this.device.addRing({ flags, index, region: 0, offset: at, log2RingSize, privateHeader: 0 }, eventfd());
      }
    }
  }

  /** A server maps what the port made. */
  #use(): void {
    const { queues, log2RingSize, bufferSize } = this.options;
    this.device.make(queues, log2RingSize, bufferSize);
    for (const { fd, size } of this.device.regions) {
      this.memory.push(new DataView(map(fd, 0, size, { write: true, owner: 0 })));
    }
    for (const { s2m, offset } of this.device.rings) {
      (s2m ? this.s2m : this.m2s).push({ at: offset, cursor: 0, buffers: [] });
    }
  }

  #offerAll(): void {
    for (const ring of this.m2s) this.memory[0]!.setUint16(ring.at + HEAD, this.size, true);
  }

  /** Moves all cursors and indices of a fresh connection on, as if so many packets had passed. */
  startAt(place: number): void {
    const owns = this.options.role === 'server';
    const words = new Int32Array(this.attachment.state);
    for (const [s2m, rings] of [
      [1, this.s2m],
      [0, this.m2s],
    ] as const) {
      rings.forEach((ring, index) => {
        ring.cursor = place;
        words[(2 * index + s2m) * 16] = place;
        this.memory[0]!.setUint16(ring.at + TAIL, place, true);
        this.memory[0]!.setUint16(ring.at + HEAD, (s2m ? place : place + this.size) & 0xffff, true);
        for (let i = 0; owns && !s2m && i < this.size; i++) this.#describe(ring, i, 0, this.options.bufferSize);
      });
    }
    this.port.close();
    this.port = this.attach(0, 1);
  }

  #describe(ring: PeerRing, entry: number, flags: number, length: number): void {
    const view = this.memory[0]!;
    const d = ring.at + DESC + 16 * entry;
    const { region, offset } = ring.buffers[entry]!;
    view.setUint16(d, flags, true);
    view.setUint16(d + 2, region, true);
    view.setUint32(d + 4, length, true);
    view.setUint32(d + 8, offset, true);
  }

  index(ring: PeerRing, which: number): number {
    return this.memory[0]!.getUint16(ring.at + which, true);
  }

  /** Sends one frame, in pieces of `cuts` bytes as far as they go. @returns false when the ring has no room. */
  send(frame: Uint8Array, cuts: readonly number[] = [], queue = 0): boolean {
    return this.options.role === 'server' ? this.#sendOwn(frame, cuts, queue) : this.#sendOffered(frame, queue);
  }

  #sendOwn(frame: Uint8Array, cuts: readonly number[], queue: number): boolean {
    const ring = this.s2m[queue]!;
    const pieces: Uint8Array[] = [];
    for (let at = 0, i = 0; at < frame.length; i++) {
      const bytes = Math.min(cuts[i] ?? this.options.bufferSize, this.options.bufferSize, frame.length - at);
      pieces.push(frame.subarray(at, at + bytes));
      at += bytes;
    }
    const used = (ring.cursor - this.index(ring, TAIL)) & 0xffff;
    if (used + pieces.length > this.size) return false;
    pieces.forEach((piece, i) => {
      const entry = (ring.cursor + i) & (this.size - 1);
      const { region, offset } = ring.buffers[entry]!;
      new Uint8Array(this.memory[region]!.buffer).set(piece, offset);
      this.#describe(ring, entry, i + 1 < pieces.length ? 1 : 0, piece.length);
    });
    ring.cursor = (ring.cursor + pieces.length) & 0xffff;
    this.memory[0]!.setUint16(ring.at + HEAD, ring.cursor, true);
    return true;
  }

  #sendOffered(frame: Uint8Array, queue: number): boolean {
    const ring = this.m2s[queue]!;
    const view = this.memory[0]!;
    const offered = (this.index(ring, HEAD) - ring.cursor) & 0xffff;
    let at = 0;
    let k = 0;
    for (; at < frame.length; k++) {
      if (k === offered) return false;
      const d = ring.at + DESC + 16 * ((ring.cursor + k) & (this.size - 1));
      const bytes = Math.min(view.getUint32(d + 4, true), frame.length - at);
      new Uint8Array(view.buffer).set(frame.subarray(at, at + bytes), view.getUint32(d + 8, true));
      at += bytes;
      view.setUint32(d + 4, bytes, true);
      view.setUint16(d, at < frame.length ? 1 : 0, true);
    }
    ring.cursor = (ring.cursor + k) & 0xffff;
    view.setUint16(ring.at + TAIL, ring.cursor, true);
    return true;
  }

  /** Frames that came, their buffers given back. */
  receive(queue = 0): Buffer[] {
    const owns = this.options.role === 'server';
    const ring = (owns ? this.m2s : this.s2m)[queue]!;
    const view = this.memory[0]!;
    const frames: Buffer[] = [];
    let pieces: Uint8Array[] = [];
    const end = this.index(ring, owns ? TAIL : HEAD);
    for (; ring.cursor !== end; ring.cursor = (ring.cursor + 1) & 0xffff) {
      const entry = ring.cursor & (this.size - 1);
      const d = ring.at + DESC + 16 * entry;
      const offset = view.getUint32(d + 8, true);
      const from = new Uint8Array(this.memory[view.getUint16(d + 2, true)]!.buffer);
      pieces.push(from.slice(offset, offset + view.getUint32(d + 4, true)));
      if ((view.getUint16(d, true) & 1) === 0) {
        frames.push(Buffer.concat(pieces));
        pieces = [];
      }
      if (owns) this.#describe(ring, entry, 0, this.options.bufferSize);
    }
    if (pieces.length > 0) throw new Error('a chain ended in the middle');
    view.setUint16(ring.at + (owns ? HEAD : TAIL), owns ? (end + this.size) & 0xffff : end, true);
    return frames;
  }

  /** Counters that are not 0, by name. */
  counts(): Record<string, number> {
    const names = [
      ...PORT_COUNTERS.map((c, i) => [c.name, i] as const),
      ...DROP_REASONS.map((c, i) => [c.name, DROP_BASE + i] as const),
    ];
    return Object.fromEntries(
      names.filter(([, i]) => this.counters[i] !== 0).map(([name, i]) => [name, this.counters[i]!]),
    );
  }

  /** Where a worker's view may read and write; its regions are mapped once more, so they are asked of the view. */
  ranges(): [number, number][] {
    const { regions } = this.port as unknown as { regions: { base: Float64Array; bytes: Float64Array } };
    return Array.from(regions.base, (base, i) => [base, regions.bytes[i]!] as [number, number]);
  }

  async close(): Promise<void> {
    this.port.close();
    await this.device.close();
  }
}

export const scratchRange = (): [number, number] => [batch.scratchAddress, batch.u8.length];
export const addressOf = (view: DataView): number => address(view.buffer as ArrayBuffer);

/** One burst from one port to others. @returns packets received. */
export function forward(from: Pick<Peer, 'port'>, to: readonly Pick<Peer, 'port'>[], whole = false, queue = 0): number {
  const rx = from.port.rx[queue]!;
  const n = rx.poll(batch, whole);
  if (n > 0) {
    for (const { port } of to) port.tx!.push(batch, list, n);
    batch.copy();
    for (const { port } of to) port.tx!.publish();
    rx.complete();
  }
  batch.clear();
  return n;
}
