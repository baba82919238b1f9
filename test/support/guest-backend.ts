/**
 * A naive vhost-user back end for tests of the guest: one device, split rings, nothing fast.
 *
 * It reads rings as virtio 1.2 describes them, word by word through DataViews and bigints, sharing only the message codec
 * with the product. Whatever a driver may not do (write-only buffers on transmit, loops, addresses outside the table, a
 * header that legacy framing wants alone) throws.
 */
import {
  accept,
  close,
  EAGAIN,
  eventfdDrain,
  eventfdSignal,
  map,
  READABLE,
  recvWithFds,
  release,
  sendWithFds,
  unixConnect,
  unixListen,
  Watcher,
} from '#contract/os.ts';
import {
  decodeMemoryTable,
  decodeU64,
  encodeReply,
  encodeU64,
  FLAG_NEED_REPLY,
  GET_FEATURES,
  GET_PROTOCOL_FEATURES,
  GET_QUEUE_NUM,
  GET_STATUS,
  GET_VRING_BASE,
  MESSAGES,
  type Message,
  MessageReader,
  SET_FEATURES,
  SET_MEM_TABLE,
  SET_PROTOCOL_FEATURES,
  SET_STATUS,
  SET_VRING_ADDR,
  SET_VRING_BASE,
  SET_VRING_CALL,
  SET_VRING_ENABLE,
  SET_VRING_ERR,
  SET_VRING_KICK,
  SET_VRING_NUM,
  VRING_ADDRESS,
  VRING_STATE,
} from '#ports/vhost-user/wire.ts';

interface Region {
  guest: bigint;
  user: bigint;
  size: bigint;
  buffer: ArrayBuffer;
  view: DataView;
}

interface Ring {
  size: number;
  desc: bigint;
  avail: bigint;
  used: bigint;
  lastAvail: number;
  usedIndex: number;
  kickFd: number;
  callFd: number;
  enabled: boolean;
}

export interface BackendOptions {
  path: string;
  role?: 'server' | 'client';
  /** Virtio and protocol features to offer. */
  features: bigint;
  protocol?: bigint;
  queuePairs?: number;
}

/** A frame as it stood in the ring: the virtio-net header, the bytes, and the lengths of the chain's descriptors. */
export interface RingFrame {
  header: Uint8Array;
  frame: Uint8Array;
  pieces: number[];
  indirect: boolean;
}

const bit = (mask: bigint, n: number): boolean => ((mask >> BigInt(n)) & 1n) === 1n;

export class GuestBackend {
  readonly options: BackendOptions;
  /** Names of the messages received, in order. */
  readonly messages: string[] = [];
  features = 0n;
  protocol = 0n;
  status = 0;
  /** What ended the last connection, if it was a mistake of the guest. */
  error = '';
  connections = 0;
  readonly #rings: Ring[] = [];
  readonly #fds = new Int32Array(34);
  readonly #input = new Uint8Array(4096);
  readonly #watcher: Watcher;
  #regions: Region[] = [];
  #listener = -1;
  #fd = -1;
  #reader = new MessageReader();

  constructor(options: BackendOptions) {
    this.options = options;
    this.#watcher = new Watcher((fd) => {
      if (fd === this.#listener) this.#accept();
      else this.#receive();
    });
    if (options.role !== 'client') {
      this.#listener = unixListen(options.path);
      this.#watcher.add(this.#listener);
    }
  }

  /** Role `client`: connects to the guest's socket. */
  connect(): void {
    this.#begin(unixConnect(this.options.path));
  }

  ring(index: number): Ring {
    while (this.#rings.length <= index) {
      this.#rings.push({
        size: 0,
        desc: 0n,
        avail: 0n,
        used: 0n,
        lastAvail: 0,
        usedIndex: 0,
        kickFd: -1,
        callFd: -1,
        enabled: false,
      });
    }
    return this.#rings[index]!;
  }

  get regions(): readonly { guest: bigint; size: bigint }[] {
    return this.#regions;
  }

  /** Frames that the guest has sent on a queue pair; their buffers are given back. */
  take(pair = 0, max = 1 << 16): RingFrame[] {
    const ring = this.ring(2 * pair + 1);
    const frames: RingFrame[] = [];
    const first = ring.usedIndex;
    while (frames.length < max && this.#u16(ring.avail + 2n) !== ring.lastAvail) {
      const head = this.#nextHead(ring);
      const { parts, indirect } = this.#chain(ring, head);
      if (parts.some((part) => part.write)) throw new Error('a transmitted chain has a write-only descriptor');
      const bytes = Buffer.concat(parts.map((part) => Buffer.concat(this.#pieces(part.at, part.length))));
      const size = this.headerBytes;
      if (!bit(this.features, 32) && !bit(this.features, 27) && parts[0]!.length !== size) {
        throw new Error(`legacy framing: the first descriptor has ${parts[0]!.length} bytes, not ${size}`);
      }
      frames.push({
        header: new Uint8Array(bytes.subarray(0, size)),
        frame: new Uint8Array(bytes.subarray(size)),
        pieces: parts.map((part) => part.length),
        indirect,
      });
      this.#use(ring, head, 0);
    }
    this.#publish(ring, first);
    return frames;
  }

  /**
   * Gives frames to the guest on a queue pair, with their header fields (the first 10 bytes of `header`).
   * @returns frames for which there were buffers.
   */
  deliver(frames: readonly { frame: Uint8Array; header?: Uint8Array }[], pair = 0): number {
    const ring = this.ring(2 * pair);
    const first = ring.usedIndex;
    let done = 0;
    for (const { frame, header } of frames) {
      if (!this.#place(ring, frame, header ?? new Uint8Array(10))) break;
      done++;
    }
    this.#publish(ring, first);
    return done;
  }

  get headerBytes(): number {
    return bit(this.features, 32) || bit(this.features, 15) ? 12 : 10;
  }

  /** Kicks of a ring since the last look. */
  kicks(index: number): number {
    const fd = this.ring(index).kickFd;
    return fd < 0 ? 0 : Math.max(0, eventfdDrain(fd));
  }

  /** Drops the connection; a listening back end takes the next one. */
  drop(): void {
    if (this.#fd < 0) return;
    this.#watcher.remove(this.#fd);
    close(this.#fd);
    this.#fd = -1;
    for (const ring of this.#rings) {
      for (const fd of [ring.kickFd, ring.callFd]) if (fd >= 0) close(fd);
    }
    this.#rings.length = 0;
    for (const region of this.#regions) release(region.buffer);
    this.#regions = [];
  }

  close(): void {
    this.drop();
    this.#watcher.close();
    if (this.#listener >= 0) close(this.#listener);
    this.#listener = -1;
  }

  #accept(): void {
    const fd = accept(this.#listener);
    if (fd < 0) return;
    if (this.#fd >= 0) close(fd);
    else this.#begin(fd);
  }

  #begin(fd: number): void {
    this.#fd = fd;
    this.#reader = new MessageReader();
    this.connections++;
    this.#watcher.add(fd, READABLE);
  }

  #receive(): void {
    try {
      for (;;) {
        const got = recvWithFds(this.#fd, this.#input, 0, this.#reader.want, this.#fds);
        if (got === -EAGAIN) return;
        if (got <= 0) return this.drop();
        const fds = Array.from(this.#fds.subarray(1, 1 + this.#fds[0]!));
        this.#pending.push(...fds);
        const message = this.#reader.push(this.#input.subarray(0, got));
        if (message) this.#handle(message, this.#pending.splice(0));
      }
    } catch (error) {
      this.error = (error as Error).message;
      this.drop();
    }
  }

  readonly #pending: number[] = [];

  #reply(code: number, payload: Uint8Array): void {
    const bytes = encodeReply(code, payload);
    sendWithFds(this.#fd, bytes, 0, bytes.length, null, 0);
  }

  #handle({ code, flags, payload }: Message, fds: number[]): void {
    this.messages.push(MESSAGES.get(code)?.name ?? String(code));
    const row = MESSAGES.get(code);
    switch (code) {
      case GET_FEATURES:
        return this.#reply(code, encodeU64(this.options.features));
      case SET_FEATURES:
        this.features = decodeU64(payload);
        if (this.features & ~this.options.features) throw new Error('features that were not offered');
        break;
      case GET_PROTOCOL_FEATURES:
        return this.#reply(code, encodeU64(this.options.protocol ?? 0n));
      case SET_PROTOCOL_FEATURES:
        this.protocol = decodeU64(payload);
        break;
      case GET_QUEUE_NUM:
        return this.#reply(code, encodeU64(BigInt(this.options.queuePairs ?? 1)));
      case SET_STATUS:
        this.status = Number(decodeU64(payload));
        break;
      case GET_STATUS:
        return this.#reply(code, encodeU64(BigInt(this.status)));
      case SET_MEM_TABLE:
        this.#regions = decodeMemoryTable(payload).map((row, i) => {
          const length = Number(row.mmapOffset + row.size);
          const buffer = map(fds[i]!, 0, length, { write: true, owner: 1 });
          close(fds[i]!);
          const view = new DataView(buffer, Number(row.mmapOffset), Number(row.size));
          return { guest: row.guestAddress, user: row.userAddress, size: row.size, buffer, view };
        });
        break;
      case SET_VRING_NUM:
      case SET_VRING_BASE:
      case SET_VRING_ENABLE:
      case GET_VRING_BASE: {
        const { index, num } = VRING_STATE.decode(payload);
        const ring = this.ring(index);
        if (code === SET_VRING_NUM) ring.size = num;
        else if (code === SET_VRING_BASE) ring.lastAvail = num;
        else if (code === SET_VRING_ENABLE) ring.enabled = num === 1;
        else return this.#reply(code, VRING_STATE.encode({ index, num: ring.lastAvail }));
        break;
      }
      case SET_VRING_ADDR: {
        const { index, descriptors, used, available } = VRING_ADDRESS.decode(payload);
        const ring = this.ring(index);
        ring.desc = this.#fromUser(descriptors);
        ring.avail = this.#fromUser(available);
        ring.used = this.#fromUser(used);
        ring.usedIndex = this.#u16(ring.used + 2n);
        break;
      }
      case SET_VRING_KICK:
      case SET_VRING_CALL:
      case SET_VRING_ERR: {
        const ring = this.ring(Number(decodeU64(payload) & 0xffn));
        const fd = fds[0] ?? -1;
        if (code === SET_VRING_KICK) ring.kickFd = swap(ring.kickFd, fd);
        else if (code === SET_VRING_CALL) ring.callFd = swap(ring.callFd, fd);
        else if (fd >= 0) close(fd);
        break;
      }
      default:
    }
    if (flags & FLAG_NEED_REPLY && !row?.reply) this.#reply(code, encodeU64(0n));
  }

  #fromUser(user: bigint): bigint {
    const region = this.#regions.find((r) => user >= r.user && user < r.user + r.size);
    if (!region) throw new Error(`ring address 0x${user.toString(16)} lies in no region`);
    return region.guest + (user - region.user);
  }

  #find(guest: bigint): { region: Region; offset: number } {
    const region = this.#regions.find((r) => guest >= r.guest && guest < r.guest + r.size);
    if (!region) throw new Error(`guest address 0x${guest.toString(16)} lies in no region`);
    return { region, offset: Number(guest - region.guest) };
  }

  #u16(guest: bigint): number {
    const { region, offset } = this.#find(guest);
    return region.view.getUint16(offset, true);
  }

  #setU16(guest: bigint, value: number): void {
    const { region, offset } = this.#find(guest);
    region.view.setUint16(offset, value, true);
  }

  /** Views of a range, one per region that it touches. */
  #pieces(guest: bigint, length: number): Uint8Array[] {
    const out: Uint8Array[] = [];
    while (length > 0) {
      const { region, offset } = this.#find(guest);
      const n = Math.min(length, region.view.byteLength - offset);
      out.push(new Uint8Array(region.view.buffer, region.view.byteOffset + offset, n));
      guest += BigInt(n);
      length -= n;
    }
    return out;
  }

  #nextHead(ring: Ring): number {
    const head = this.#u16(ring.avail + 4n + BigInt(2 * (ring.lastAvail % ring.size)));
    ring.lastAvail = (ring.lastAvail + 1) & 0xffff;
    return head;
  }

  #chain(ring: Ring, head: number): { parts: { at: bigint; length: number; write: boolean }[]; indirect: boolean } {
    let table = ring.desc;
    let entries = ring.size;
    let indirect = false;
    const parts: { at: bigint; length: number; write: boolean }[] = [];
    let index = head;
    for (;;) {
      if (index >= entries) throw new Error(`descriptor ${index} of ${entries}`);
      const { region, offset } = this.#find(table + BigInt(16 * index));
      const at = region.view.getBigUint64(offset, true);
      const length = region.view.getUint32(offset + 8, true);
      const flags = region.view.getUint16(offset + 12, true);
      const next = region.view.getUint16(offset + 14, true);
      if (flags & 4) {
        if (indirect || !bit(this.features, 28)) throw new Error('an indirect table where there must be none');
        if (flags & 1) throw new Error('an indirect descriptor with NEXT');
        indirect = true;
        table = at;
        entries = length / 16;
        index = 0;
        continue;
      }
      if (length === 0) throw new Error('a descriptor of length 0');
      parts.push({ at, length, write: (flags & 2) !== 0 });
      if (parts.length > ring.size) throw new Error('a loop');
      if ((flags & 1) === 0) return { parts, indirect };
      index = next;
    }
  }

  #use(ring: Ring, head: number, bytes: number): void {
    const { region, offset } = this.#find(ring.used + 4n + BigInt(8 * (ring.usedIndex % ring.size)));
    region.view.setUint32(offset, head, true);
    region.view.setUint32(offset + 4, bytes, true);
    ring.usedIndex = (ring.usedIndex + 1) & 0xffff;
  }

  #publish(ring: Ring, first: number): void {
    if (ring.usedIndex === first) return;
    this.#setU16(ring.used + 2n, ring.usedIndex);
    let wanted = (this.#u16(ring.avail) & 1) === 0;
    if (bit(this.features, 29)) {
      const event = this.#u16(ring.avail + 4n + BigInt(2 * ring.size));
      wanted = ((ring.usedIndex - event - 1) & 0xffff) < ((ring.usedIndex - first) & 0xffff);
      this.#setU16(ring.used + 4n + BigInt(8 * ring.size), ring.lastAvail);
    }
    if (wanted && ring.callFd >= 0) eventfdSignal(ring.callFd);
  }

  #place(ring: Ring, frame: Uint8Array, header: Uint8Array): boolean {
    const start = ring.lastAvail;
    const usedStart = ring.usedIndex;
    const mergeable = bit(this.features, 15);
    const size = this.headerBytes;
    const bytes = new Uint8Array(size + frame.length);
    bytes.set(header.subarray(0, 10));
    bytes.set(frame, size);
    let at = 0;
    let buffers = 0;
    while (at < bytes.length) {
      const available = this.#u16(ring.avail + 2n);
      if (available === ring.lastAvail || (buffers > 0 && !mergeable)) {
        ring.lastAvail = start;
        ring.usedIndex = usedStart;
        return false;
      }
      if (buffers === 0 && size === 12) bytes[10] = 1;
      const head = this.#nextHead(ring);
      const { parts } = this.#chain(ring, head);
      if (parts.some((part) => !part.write)) throw new Error('a receive chain has a read-only descriptor');
      const from = at;
      for (const part of parts) {
        for (const piece of this.#pieces(part.at, part.length)) {
          const n = Math.min(piece.length, bytes.length - at);
          piece.set(bytes.subarray(at, at + n));
          at += n;
        }
      }
      buffers++;
      this.#use(ring, head, at - from);
      if (at === bytes.length && mergeable) this.#setBuffers(ring, usedStart, buffers);
    }
    return true;
  }

  #setBuffers(ring: Ring, usedStart: number, buffers: number): void {
    const { region, offset } = this.#find(ring.used + 4n + BigInt(8 * (usedStart % ring.size)));
    const { parts } = this.#chain(ring, region.view.getUint32(offset, true));
    let skip = 10;
    for (const part of parts) {
      if (skip < part.length) return this.#setU16(part.at + BigInt(skip), buffers);
      skip -= part.length;
    }
  }
}

function swap(old: number, fd: number): number {
  if (old >= 0) close(old);
  return fd;
}
