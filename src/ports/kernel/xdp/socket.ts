/**
 * An AF_XDP socket on one queue of an interface: its umem, its four rings, and the state that workers share.
 *
 * The rings must be mapped before the socket is bound, so they are mapped here, in the main thread; workers see the same maps
 * (`alias`). Each socket has a umem of its own: the first RX_FRAMES frames circle through fill and rx ring, the others
 * through tx and completion ring. Every ring holds all frames that can be in it.
 */
import { address, close, map, mapAnonymous, OsError, release, xskBind, xskGet, xskOpen, xskSet } from '#contract/os.ts';
import {
  PGOFF_COMPLETION,
  PGOFF_FILL,
  PGOFF_RX,
  PGOFF_TX,
  type RingPlace,
  SO_BUSY_POLL,
  SO_BUSY_POLL_BUDGET,
  SO_PREFER_BUSY_POLL,
  SO_SNDBUFFORCE,
  SOL_SOCKET,
  SOL_XDP,
  STATE_FREE,
  STATE_FREE_COUNT,
  STATISTICS,
  TX_METADATA_BYTES,
  XDP_MMAP_OFFSETS,
  XDP_RX_RING,
  XDP_STATISTICS,
  XDP_TX_RING,
  XDP_UMEM_COMPLETION_RING,
  XDP_UMEM_FILL_RING,
  XDP_UMEM_REG,
  XDP_UMEM_TX_METADATA_LEN,
  type XskPlace,
} from './layout.ts';

/** Frames, and entries of the rings that they circle through: powers of two. */
const RX_FRAMES = 4096;
const TX_FRAMES = 2048;
/** Above what all tx frames cost as socket buffers: the ring is the limit, not the send buffer. */
const SEND_BUFFER = 64 << 20;
/** Microseconds that one busy poll may take. */
const BUSY_POLL_MICROS = 20;
const EBUSY = 16;
/** How often, and how far apart, a queue that is taken is asked for again. */
const BIND_TRIES = 40;
const BIND_WAIT_MS = 5;

export interface XskWish {
  readonly ifindex: number;
  readonly queue: number;
  /** 2048 or 4096. */
  readonly frameBytes: number;
  /** Flags of bind. */
  readonly flags: number;
  /** Frames to be sent have metadata in front. */
  readonly metadata: boolean;
  /** Packets of one busy poll; 0: none. */
  readonly busyPollBudget: number;
}

export class XskSocket {
  readonly place: XskPlace;
  readonly #fd: number;
  readonly #maps: ArrayBuffer[] = [];

  /** @throws OsError: EPERM, ENOBUFS (locked memory), EBUSY (queue is taken), EOPNOTSUPP (no zero copy), EINVAL. */
  constructor(wish: XskWish) {
    this.#fd = checked('socket(AF_XDP)', xskOpen());
    try {
      this.place = this.#setUp(wish);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Losses that the kernel counted, by name. Empty when the interface is gone. */
  statistics(): Record<string, number> {
    const bytes = new Uint8Array(STATISTICS.length * 8);
    const got = xskGet(this.#fd, SOL_XDP, XDP_STATISTICS, bytes);
    const words = new DataView(bytes.buffer);
    return Object.fromEntries(
      STATISTICS.filter((_, i) => (i + 1) * 8 <= got).map((name, i) => [name, Number(words.getBigUint64(i * 8, true))]),
    );
  }

  /** No worker may use the place any more. */
  close(): void {
    close(this.#fd);
    for (const buffer of this.#maps.splice(0)) release(buffer);
  }

  #setUp({ ifindex, queue, frameBytes, flags, metadata, busyPollBudget }: XskWish): XskPlace {
    const umemBytes = (RX_FRAMES + TX_FRAMES) * frameBytes;
    const memory = mapAnonymous(umemBytes);
    this.#maps.push(memory);
    const umem = address(memory);
    const reg = new DataView(new ArrayBuffer(32));
    reg.setBigUint64(0, BigInt(umem), true);
    reg.setBigUint64(8, BigInt(umemBytes), true);
    reg.setUint32(16, frameBytes, true);
    if (metadata) {
      reg.setUint32(24, XDP_UMEM_TX_METADATA_LEN, true);
      reg.setUint32(28, TX_METADATA_BYTES, true);
    }
    this.#set('XDP_UMEM_REG', SOL_XDP, XDP_UMEM_REG, new Uint8Array(reg.buffer));
    this.#number('XDP_UMEM_FILL_RING', SOL_XDP, XDP_UMEM_FILL_RING, RX_FRAMES);
    this.#number('XDP_UMEM_COMPLETION_RING', SOL_XDP, XDP_UMEM_COMPLETION_RING, TX_FRAMES);
    this.#number('XDP_RX_RING', SOL_XDP, XDP_RX_RING, RX_FRAMES);
    this.#number('XDP_TX_RING', SOL_XDP, XDP_TX_RING, TX_FRAMES);
    // A wish: without CAP_NET_ADMIN the system's limit stays.
    xskSet(this.#fd, SOL_SOCKET, SO_SNDBUFFORCE, word(SEND_BUFFER));
    if (busyPollBudget > 0) {
      this.#number('SO_PREFER_BUSY_POLL', SOL_SOCKET, SO_PREFER_BUSY_POLL, 1);
      this.#number('SO_BUSY_POLL', SOL_SOCKET, SO_BUSY_POLL, BUSY_POLL_MICROS);
      this.#number('SO_BUSY_POLL_BUDGET', SOL_SOCKET, SO_BUSY_POLL_BUDGET, busyPollBudget);
    }
    const offsets = new Uint8Array(128);
    const got = checked('getsockopt(XDP_MMAP_OFFSETS)', xskGet(this.#fd, SOL_XDP, XDP_MMAP_OFFSETS, offsets));
    if (got !== offsets.length) throw new Error('AF_XDP port needs Linux 5.4 or newer: the rings have no flags');
    const rx = this.#ring(PGOFF_RX, offsets, 0, RX_FRAMES, 16);
    const tx = this.#ring(PGOFF_TX, offsets, 32, TX_FRAMES, 16);
    const fill = this.#ring(PGOFF_FILL, offsets, 64, RX_FRAMES, 8);
    const completion = this.#ring(PGOFF_COMPLETION, offsets, 96, TX_FRAMES, 8);
    this.#giveFrames(fill, frameBytes);
    const state = tellFreeFrames(frameBytes);
    checked(`bind(queue ${queue})`, this.#bind(flags, ifindex, queue));
    return { queue, fd: this.#fd, frameBytes, umem, umemBytes, rx, tx, fill, completion, state };
  }

  /** The kernel lets go of a closed socket's queue a moment later, in a work queue of its own. */
  #bind(flags: number, ifindex: number, queue: number): number {
    const never = new Int32Array(new SharedArrayBuffer(4));
    let result = xskBind(this.#fd, flags, ifindex, queue);
    for (let i = 0; result === -EBUSY && i < BIND_TRIES; i++) {
      Atomics.wait(never, 0, 0, BIND_WAIT_MS);
      result = xskBind(this.#fd, flags, ifindex, queue);
    }
    return result;
  }

  #set(name: string, level: number, option: number, value: Uint8Array): void {
    checked(`setsockopt(${name})`, xskSet(this.#fd, level, option, value));
  }

  #number(name: string, level: number, option: number, value: number): void {
    this.#set(name, level, option, word(value));
  }

  #ring(pgoff: number, offsets: Uint8Array, at: number, entries: number, descBytes: number): RingPlace {
    const view = new DataView(offsets.buffer);
    const field = (i: number) => Number(view.getBigUint64(at + i * 8, true));
    const descriptors = field(2);
    const bytes = descriptors + entries * descBytes;
    const buffer = map(this.#fd, pgoff, bytes, { write: true, owner: 0 });
    this.#maps.push(buffer);
    return {
      address: address(buffer),
      bytes,
      producer: field(0),
      consumer: field(1),
      descriptors,
      flags: field(3),
      entries,
    };
  }

  /** All rx frames to the kernel. */
  #giveFrames(fill: RingPlace, frameBytes: number): void {
    const buffer = this.#maps.find((candidate) => address(candidate) === fill.address)!;
    const words = new Uint32Array(buffer, fill.descriptors, RX_FRAMES * 2);
    for (let i = 0; i < RX_FRAMES; i++) words[2 * i] = i * frameBytes;
    Atomics.store(new Uint32Array(buffer, fill.producer, 1), 0, RX_FRAMES);
  }
}

function tellFreeFrames(frameBytes: number): SharedArrayBuffer {
  const state = new SharedArrayBuffer((STATE_FREE + TX_FRAMES) * 4);
  const words = new Int32Array(state);
  words[STATE_FREE_COUNT] = TX_FRAMES;
  for (let i = 0; i < TX_FRAMES; i++) words[STATE_FREE + i] = (RX_FRAMES + TX_FRAMES - 1 - i) * frameBytes;
  return state;
}

const word = (value: number): Uint8Array => new Uint8Array(Int32Array.of(value).buffer);

const checked = (call: string, result: number): number => {
  if (result < 0) throw new OsError(call, -result);
  return result;
};
