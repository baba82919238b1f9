/**
 * A virtio-net driver for tests, on memory of its own, without a socket: two rings of either kind in a memfd, chains of any
 * shape.
 *
 * Memory of MEMORY_BYTES, rings in front, buffers behind; the memory table has two regions that adjoin at `cut`, so that a
 * buffer may lie across both. Written plainly, word by word, as the oracle of the switch's rings.
 */
import { close, map, memfd, release } from '#contract/os.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import type { RxOptions, TxOptions } from '#ports/vhost-user/queue-options.ts';
import { type RingPlace, STATE_CURSOR, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { MAX_VRINGS } from '#ports/vhost-user/wire.ts';

export const MEMORY_BYTES = 1 << 24;
const RING_BYTES = 1 << 17;
const BUFFERS_AT = 1 << 20;
/** Guest physical address of byte 0: above 4 GiB. */
export const GUEST_BASE = 0x1_4000_0000;

export interface Shape {
  /** Frame and header bytes at which a new descriptor begins, ascending. */
  cuts: readonly number[];
  indirect: boolean;
}

export interface Received {
  frame: Buffer;
  header: Buffer;
}

export interface DriverOptions {
  size?: number;
  rx?: Partial<RxOptions>;
  tx?: Partial<TxOptions>;
  /** Byte at which the second region begins. */
  cut?: number;
  /** Bytes of the file, and of one region over all of it, in front of the driver's memory. */
  high?: number;
  /** Bytes of memory, above 1 MiB; MEMORY_BYTES if not given. */
  bytes?: number;
  /** Packed rings: any size. */
  packed?: boolean;
}

let generation = 1_000_000;

/** One ring: its words, and what is in flight. */
class Ring {
  readonly size: number;
  readonly base: number;
  readonly view: DataView;
  nextDesc = 0;
  nextIndirect = 0;
  availIndex = 0;
  usedIndex = 0;
  /** Head descriptor → offsets and lengths of the chain's pieces. */
  readonly chains = new Map<number, [number, number][]>();

  constructor(view: DataView, base: number, size: number) {
    this.view = view;
    this.base = base;
    this.size = size;
  }

  get availAt(): number {
    return this.base + 16 * this.size;
  }
  get usedAt(): number {
    return (this.availAt + 6 + 2 * this.size + 3) & ~3;
  }
  get indirectAt(): number {
    return this.base + RING_BYTES / 2;
  }

  putDesc(at: number, offset: number, length: number, flags: number, next: number): void {
    this.view.setBigUint64(at, BigInt(GUEST_BASE + offset), true);
    this.view.setUint32(at + 8, length, true);
    this.view.setUint16(at + 12, flags, true);
    this.view.setUint16(at + 14, next, true);
  }

  /** Publishes a head without looking at what it is. */
  putHead(head: number): void {
    this.view.setUint16(this.availAt + 4 + 2 * (this.availIndex % this.size), head, true);
    this.setAvailIndex(this.availIndex + 1);
  }

  setAvailIndex(index: number): void {
    this.availIndex = index & 0xffff;
    this.view.setUint16(this.availAt + 2, this.availIndex, true);
  }

  /** @returns false when there are too few free descriptors. */
  addChain(pieces: [number, number][], write: boolean, indirect: boolean): boolean {
    const direct = indirect ? 1 : pieces.length;
    if (this.nextDesc + direct > this.size) return false;
    if (indirect && this.nextIndirect + pieces.length > RING_BYTES / 2 / 16) return false;
    const head = this.nextDesc;
    this.nextDesc += direct;
    const flag = write ? 2 : 0;
    const table = indirect ? this.indirectAt + 16 * this.nextIndirect : this.base;
    pieces.forEach(([offset, length], i) => {
      const index = indirect ? i : head + i;
      const more = i + 1 < pieces.length;
      this.putDesc(table + 16 * index, offset, length, flag | (more ? 1 : 0), more ? index + 1 : 0);
    });
    if (indirect) {
      this.nextIndirect += pieces.length;
      this.putDesc(this.base + 16 * head, table, 16 * pieces.length, 4, 0);
    }
    this.chains.set(head, pieces);
    this.putHead(head);
    return true;
  }

  /** Heads and lengths that came back; when all have, descriptors are free again. */
  takeUsed(): [number, number][] {
    const now = this.view.getUint16(this.usedAt + 2, true);
    const found: [number, number][] = [];
    while (this.usedIndex !== now) {
      const at = this.usedAt + 4 + 8 * (this.usedIndex % this.size);
      found.push([this.view.getUint32(at, true), this.view.getUint32(at + 4, true)]);
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
    }
    return found;
  }

  restart(): void {
    this.nextDesc = 0;
    this.nextIndirect = 0;
    this.chains.clear();
  }
}

/** A packed ring (virtio 1.2 section 2.8). Indices count chains; `at` and `seen` count entries from the first lap on. */
export class PackedRing extends Ring {
  at = 0;
  seen = 0;
  readonly spans = new Map<number, number>();

  override get usedAt(): number {
    return this.availAt + 4;
  }

  wrapOf(position: number): number {
    return Math.floor(position / this.size) % 2 === 0 ? 1 : 0;
  }

  wordAt(position: number): number {
    return this.base + 16 * (position % this.size) + 12;
  }

  /** As if `position` entries had been made available and used, one chain each. */
  startAt(position: number): void {
    this.at = position;
    this.seen = position;
    for (let i = 0; i < this.size; i++) {
      const lap = Math.floor(position / this.size) - (i < position % this.size ? 0 : 1);
      this.view.setUint16(this.base + 16 * i + 14, lap >= 0 && lap % 2 === 0 ? 0x8080 : 0, true);
    }
  }

  override addChain(pieces: [number, number][], write: boolean, indirect: boolean): boolean {
    const direct = indirect ? 1 : pieces.length;
    if (this.at + direct > this.seen + this.size) return false;
    if (indirect && this.nextIndirect + pieces.length > RING_BYTES / 2 / 16) return false;
    // Ids are the driver's own numbers, not places.
    const id = (this.nextDesc++ * 7919) & 0xffff;
    const flag = write ? 2 : 0;
    const head = this.at;
    if (indirect) {
      const table = this.indirectAt + 16 * this.nextIndirect;
      this.nextIndirect += pieces.length;
      pieces.forEach(([offset, length], i) => {
        // NEXT has no meaning here, nor has the id.
        this.putDesc(table + 16 * i, offset, length, 0xdead, flag);
      });
      this.putDesc(this.wordAt(head) - 12, table, 16 * pieces.length, id, 4 | this.#available(head));
    } else {
      // The head last: until then the chain is not there.
      for (let i = pieces.length - 1; i >= 0; i--) {
        const [offset, length] = pieces[i]!;
        const more = i + 1 < pieces.length ? 1 : 0;
        this.putDesc(
          this.wordAt(head + i) - 12,
          offset,
          length,
          more ? 0xbeef : id,
          flag | more | this.#available(head + i),
        );
      }
    }
    this.at += direct;
    this.availIndex++;
    this.chains.set(id, pieces);
    this.spans.set(id, direct);
    return true;
  }

  /** The entries of a chain but its head, as a driver leaves them that was stopped at that moment. */
  addUnfinished(entries: number): void {
    for (let i = 1; i < entries; i++)
      this.putDesc(
        this.wordAt(this.at + i) - 12,
        4096,
        64,
        1,
        this.#available(this.at + i) | (i + 1 < entries ? 1 : 0),
      );
  }

  override takeUsed(): [number, number][] {
    const found: [number, number][] = [];
    for (;;) {
      const flags = this.view.getUint16(this.wordAt(this.seen) + 2, true);
      if ((flags & 0x8080) !== (this.wrapOf(this.seen) === 1 ? 0x8080 : 0)) return found;
      const id = this.view.getUint16(this.wordAt(this.seen), true);
      const span = this.spans.get(id);
      if (span === undefined) throw new Error(`buffer id ${id} came back, which is not out`);
      this.spans.delete(id);
      found.push([id, this.view.getUint32(this.wordAt(this.seen) - 4, true)]);
      this.seen += span;
      this.usedIndex++;
    }
  }

  #available(position: number): number {
    return this.wrapOf(position) === 1 ? 0x80 : 0x8000;
  }
}

export class Driver {
  readonly fd: number;
  readonly buffer: ArrayBuffer;
  readonly bytes: Buffer;
  readonly rxRing: Ring;
  readonly txRing: Ring;
  readonly state = new SharedArrayBuffer(MAX_VRINGS * STATE_WORDS * 4);
  readonly attachment: VhostUserAttachment;
  readonly headerBytes: number;
  #nextTx = BUFFERS_AT;
  readonly #rxAt: number;
  #nextRx: number;

  constructor(portNo: number, options: DriverOptions = {}) {
    const size = options.size ?? 256;
    const high = options.high ?? 0;
    const length = options.bytes ?? MEMORY_BYTES;
    this.#rxAt = BUFFERS_AT + (length - BUFFERS_AT) / 2;
    this.#nextRx = this.#rxAt;
    this.fd = memfd('driver', high + length);
    this.buffer = map(this.fd, high, length, { write: true, owner: 0 });
    this.bytes = Buffer.from(this.buffer);
    const view = new DataView(this.buffer);
    this.rxRing = options.packed ? new PackedRing(view, 0, size) : new Ring(view, 0, size);
    this.txRing = options.packed ? new PackedRing(view, RING_BYTES, size) : new Ring(view, RING_BYTES, size);
    const rx: RxOptions = {
      headerBytes: 12,
      eventIdx: false,
      notifyOnEmpty: false,
      headersEmpty: false,
      gso: [1, 0x81, 4, 0x84, 3, 5],
      ...options.rx,
    };
    this.headerBytes = rx.headerBytes;
    const cut = options.cut ?? length / 2;
    const place = (index: number, ring: Ring): RingPlace => ({
      index,
      size,
      descriptorRegion: 0,
      descriptorOffset: high + ring.base,
      availableRegion: 0,
      availableOffset: high + ring.availAt,
      usedRegion: 0,
      usedOffset: high + ring.usedAt,
      kickFd: -1,
      callFd: -1,
    });
    const region = (offset: number, bytes: number) => ({
      guestAddress: GUEST_BASE + offset,
      userAddress: offset,
      size: bytes,
      fd: this.fd,
      mmapOffset: offset,
    });
    this.attachment = {
      kind: 'vhost-user',
      portNo,
      rxQueues: [0],
      generation: generation++,
      regions:
        high > 0
          ? [{ ...region(0, high + length), guestAddress: GUEST_BASE - high }]
          : [region(0, cut), region(cut, length - cut)],
      rings: [place(0, this.rxRing), place(1, this.txRing)],
      packed: options.packed ?? false,
      state: this.state,
      rx,
      tx: {
        headerBytes: rx.headerBytes,
        eventIdx: rx.eventIdx,
        mergeable: false,
        checksum: false,
        gso: [],
        mtu: 65_535,
        retries: 0,
        ...options.tx,
      },
    };
  }

  /** Both rings as if `index` entries had passed already. */
  startAt(index: number): void {
    const words = new Int32Array(this.state);
    for (const [i, ring] of [this.rxRing, this.txRing].entries()) {
      if (ring instanceof PackedRing) {
        ring.startAt(index);
        words[i * STATE_WORDS + STATE_CURSOR] = (index % ring.size) | (ring.wrapOf(index) << 15);
        continue;
      }
      words[i * STATE_WORDS + STATE_CURSOR] = index;
      ring.setAvailIndex(index);
      ring.usedIndex = index;
      ring.view.setUint16(ring.usedAt + 2, index, true);
    }
  }

  /** Puts a frame with its virtio-net header on the transmit ring. */
  send(frame: Uint8Array, shape: Shape = { cuts: [], indirect: false }, header?: Uint8Array): boolean {
    const whole = Buffer.concat([Buffer.from(header ?? new Uint8Array(this.headerBytes)), frame]);
    if (this.#nextTx + whole.length + 64 > this.#rxAt) return false;
    const pieces = this.#cut(this.#nextTx, whole.length, shape.cuts);
    if (!this.txRing.addChain(pieces, false, shape.indirect)) return false;
    this.bytes.set(whole, this.#nextTx);
    this.#nextTx += whole.length + 3;
    return true;
  }

  /** Offers a receive buffer. */
  post(length: number, shape: Shape = { cuts: [], indirect: false }): boolean {
    if (this.#nextRx + length + 64 > this.buffer.byteLength) return false;
    if (!this.rxRing.addChain(this.#cut(this.#nextRx, length, shape.cuts), true, shape.indirect)) return false;
    this.bytes.fill(0xee, this.#nextRx, this.#nextRx + length + 3);
    this.#nextRx += length + 3;
    return true;
  }

  /** Frames received since the last call, buffers merged (virtio 1.2 section 5.1.6.4). */
  receive(): Received[] {
    const used = this.rxRing.takeUsed();
    const found: Received[] = [];
    for (let i = 0; i < used.length; ) {
      const first = this.#read(...used[i]!);
      const header = first.subarray(0, this.headerBytes);
      const buffers = this.attachment.tx.mergeable ? header.readUInt16LE(10) : 1;
      const parts = [first.subarray(this.headerBytes)];
      for (let k = 1; k < buffers; k++) parts.push(this.#read(...used[i + k]!));
      found.push({ header, frame: Buffer.concat(parts) });
      i += Math.max(1, buffers);
    }
    return found;
  }

  /** Forgets all buffers; the rings must be empty. */
  restart(): void {
    this.rxRing.restart();
    this.txRing.restart();
    this.#nextTx = BUFFERS_AT;
    this.#nextRx = this.#rxAt;
  }

  close(): void {
    release(this.buffer);
    close(this.fd);
  }

  #cut(offset: number, length: number, cuts: readonly number[]): [number, number][] {
    const at = [0, ...cuts.filter((c) => c > 0 && c < length), length];
    return at.slice(1).map((end, i) => [offset + at[i]!, end - at[i]!]);
  }

  #read(head: number, length: number): Buffer {
    const parts: Buffer[] = [];
    let left = length;
    for (const [offset, bytes] of this.rxRing.chains.get(head)!) {
      parts.push(Buffer.from(this.bytes.subarray(offset, offset + Math.min(bytes, left))));
      left -= Math.min(bytes, left);
    }
    return Buffer.concat(parts);
  }
}
