/**
 * A guest that may do anything: it speaks the handshake, then writes rings, descriptors and messages as the test says.
 *
 * One queue pair; ring 0 receives, ring 1 transmits. Nothing is kept consistent: an index can jump, a chain can loop, an
 * address can lie anywhere, and the file behind the memory can shrink under the switch.
 */
import { close, eventfd, eventfdSignal, sendWithFds, truncate, unixConnect } from '#contract/os.ts';
import { Connection } from '#guest/connection.ts';
import { DEFAULT_FEATURES, DEFAULT_PROTOCOL, type Feature, type ProtocolFeature } from '#guest/features.ts';
import { type Negotiated, negotiate, type RingPlan, startRings } from '#guest/handshake.ts';
import { type RingLayout, ringLayout } from '#guest/layout.ts';
import { type Block, GuestMemory, type MemoryRegion } from '#guest/memory.ts';
import { checkOptions, type MemoryOptions, type Settings } from '#guest/options.ts';

export interface HostileOptions {
  path: string;
  ringSize?: number;
  features?: readonly Feature[];
  protocol?: readonly ProtocolFeature[];
  memory?: MemoryOptions;
  /** Buffers per ring, of `bufferBytes` each. */
  buffers?: number;
  bufferBytes?: number;
  order?: 'virtio-user' | 'qemu';
}

/** A descriptor as the switch will read it. */
export interface RawDescriptor {
  address: bigint | number;
  length: number;
  flags?: number;
  next?: number;
}

export const RX = 0;
export const TX = 1;

export class HostileGuest {
  readonly memory: GuestMemory;
  readonly connection: Connection;
  readonly settings: Settings;
  readonly layout: RingLayout;
  readonly #kickFds = [eventfd(), eventfd()];
  readonly #callFds = [eventfd(), eventfd()];
  readonly #errorFd = eventfd();
  #agreed: Negotiated | undefined;
  /** Why the connection ended; empty while it stands. */
  closedBecause = '';

  private constructor(options: HostileOptions) {
    const { buffers = 64, bufferBytes = 2048, ringSize = 64, features = DEFAULT_FEATURES } = options;
    const { protocol = DEFAULT_PROTOCOL } = options;
    this.settings = checkOptions({
      path: options.path,
      ringSize,
      features,
      protocol,
      order: options.order ?? 'virtio-user',
      memory: { sealed: false, ...options.memory },
    });
    this.layout = ringLayout(ringSize, buffers, bufferBytes - 16, true);
    const size = { ringBytes: this.layout.bytes, bufferBytes: buffers * this.layout.stride };
    this.memory = new GuestMemory('hostile', [size, size], this.settings.memory);
    this.connection = new Connection(unixConnect(options.path), this.settings.replyMs);
    this.connection.onClose = (reason) => {
      this.closedBecause = reason;
    };
  }

  /** Connects and negotiates, and starts the rings as an honest guest would, unless the test wants to do that itself. */
  static async open(options: HostileOptions, start = true): Promise<HostileGuest> {
    const guest = new HostileGuest(options);
    guest.#agreed = await negotiate(guest.connection, guest.settings);
    if (start) await guest.start();
    return guest;
  }

  /** Starts the rings; regions and plans may be changed on the way. */
  async start(
    regions: readonly MemoryRegion[] = this.memory.regions,
    plans: readonly RingPlan[] = [this.plan(RX), this.plan(TX)],
  ): Promise<void> {
    await startRings(this.connection, this.settings, this.#agreed!, regions, plans, 1);
  }

  plan(ring: number): RingPlan {
    const block = this.block(ring);
    const at = block.file.userAddress + block.ringAt;
    const { descAt, availAt, usedAt, size } = this.layout;
    return {
      index: ring,
      size,
      base: 0,
      address: { descriptors: at + descAt, available: at + availAt, used: at + usedAt },
      kickFd: this.#kickFds[ring]!,
      callFd: this.#callFds[ring]!,
      errorFd: this.#errorFd,
    };
  }

  block(ring: number): Block {
    return this.memory.blocks[ring]!;
  }

  view(ring: number): DataView {
    return new DataView(this.block(ring).file.buffer);
  }

  /** Guest physical address of buffer i of a ring. */
  bufferAddress(ring: number, i: number): number {
    const block = this.block(ring);
    return block.file.guestAddress + block.buffersAt + i * this.layout.stride;
  }

  /** Puts bytes into buffer i: a virtio-net header of zeros, then `frame`. @returns bytes with the header. */
  writeFrame(i: number, frame: Uint8Array, headerBytes = 12): number {
    const block = this.block(TX);
    const at = block.buffersAt + i * this.layout.stride;
    block.file.u8.fill(0, at, at + headerBytes);
    block.file.u8.set(frame, at + headerBytes);
    return headerBytes + frame.length;
  }

  /** Writes a descriptor of a ring, or of the indirect table that begins at `tableAt` (offset in the file). */
  descriptor(
    ring: number,
    index: number,
    { address, length, flags = 0, next = 0 }: RawDescriptor,
    tableAt?: number,
  ): void {
    const view = this.view(ring);
    const at = (tableAt ?? this.block(ring).ringAt + this.layout.descAt) + 16 * index;
    view.setBigUint64(at, BigInt(address), true);
    view.setUint32(at + 8, length, true);
    view.setUint16(at + 12, flags, true);
    view.setUint16(at + 14, next, true);
  }

  /** Offset in its file, and guest physical address, of the indirect table of buffer i. */
  table(ring: number, i: number): { at: number; address: number } {
    const block = this.block(ring);
    const at = block.ringAt + this.layout.tablesAt + i * 1024;
    return { at, address: block.file.guestAddress + at };
  }

  /** Writes heads into the available ring from `from` on, without showing them. */
  avail(ring: number, heads: readonly number[], from = 0): void {
    const view = this.view(ring);
    const at = this.block(ring).ringAt + this.layout.availAt + 4;
    for (const [i, head] of heads.entries()) view.setUint16(at + 2 * ((from + i) % this.layout.size), head, true);
  }

  /** avail.idx as given, whatever it was; kicks. */
  publish(ring: number, index: number): void {
    this.view(ring).setUint16(this.block(ring).ringAt + this.layout.availAt + 2, index, true);
    eventfdSignal(this.#kickFds[ring]!);
  }

  /** used.idx as the switch left it. */
  usedIndex(ring: number): number {
    return this.view(ring).getUint16(this.block(ring).ringAt + this.layout.usedAt + 2, true);
  }

  /** Sets the size of the files behind the memory, under the switch. */
  truncate(size: number): void {
    for (const { fd } of this.memory.files) truncate(fd, size);
  }

  /** Sends bytes as they are, whole message or not, with descriptors. */
  raw(bytes: Uint8Array, fds: readonly number[] = []): number {
    return sendWithFds(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);
  }

  get fd(): number {
    return this.connection.fd;
  }

  close(): void {
    this.connection.close();
    for (const fd of [...this.#kickFds, ...this.#callFds, this.#errorFd]) close(fd);
    this.memory.close();
  }
}
