// hot
/**
 * Transmit half of an AF_XDP socket: plain frames, copied into free frames of the umem.
 *
 * `push` fetches the frames that the kernel is done with, takes free ones for what is to be sent and writes descriptors behind
 * the producer counter; `publish` moves the counter and calls the kernel where it wants that. The tx ring has room for every
 * tx frame, so it is never full: frames run out first.
 *
 * A shared queue is locked from before `push` until after `publish`; the stack of free frames lies in shared memory.
 */
import { xskSend } from '#contract/os.ts';
import { MAX_ROWS, type PacketBatch } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import { FinishedFrames, type FrameSink } from '../../frame/finished.ts';
import { lockQueue, unlockQueue } from '../../queue-lock.ts';
import { CALLS, CHECKSUMS, countSent, PORT_DOWN, RING_FULL, SEGMENTED, TOO_BIG } from '../../tx-counters.ts';
import {
  MAX_FRAME_BUFFERS,
  RING_NEED_WAKEUP,
  STATE_DOWN,
  STATE_FREE,
  STATE_FREE_COUNT,
  STATE_LOCK,
  TX_METADATA_BYTES,
  TXMD_CHECKSUM,
  XDP_PKT_CONTD,
  XDP_TX_METADATA,
} from './layout.ts';
import type { XskRings } from './ring.ts';

const LOCK = STATE_LOCK;
const DOWN = STATE_DOWN;
const FREE_COUNT = STATE_FREE_COUNT;
const FREE = STATE_FREE;
const NEED_WAKEUP = RING_NEED_WAKEUP;
const CONTD = XDP_PKT_CONTD;
const METADATA = XDP_TX_METADATA;
const METADATA_BYTES = TX_METADATA_BYTES;
const CHECKSUM = TXMD_CHECKSUM;
const MAX_BUFFERS = MAX_FRAME_BUFFERS;
const ROWS = MAX_ROWS;
const ETHERNET = 14;
const send = xskSend;
/** Calls of one publish, at most; the kernel takes 32 frames with each. What is left goes with the next burst or idle poll. */
const MAX_CALLS = 40;
const EAGAIN = -11;
const EBUSY = -16;
const ENXIO = -6;
const ENETDOWN = -100;

export interface XdpTxOptions {
  readonly longest: number;
  readonly needWakeup: boolean;
  readonly multiBuffer: boolean;
  readonly txChecksum: boolean;
}

export class XdpTxQueue implements TxQueue, FrameSink {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  readonly #rings: XskRings;
  readonly #counters: PortCounters;
  readonly #needWakeup: boolean;
  readonly #buffers: number;
  /** Bytes in front of a frame in its umem frame. */
  readonly #skip: number;
  readonly #frames: FinishedFrames;
  /** Descriptors written since the last publish. */
  #written = 0;

  constructor(portNo: number, shared: boolean, rings: XskRings, counters: PortCounters, options: XdpTxOptions) {
    this.portNo = portNo;
    this.queue = rings.queue;
    this.shared = shared;
    this.#rings = rings;
    this.#counters = counters;
    this.#needWakeup = options.needWakeup;
    this.#buffers = options.multiBuffer ? MAX_BUFFERS : 1;
    this.#skip = options.txChecksum ? METADATA_BYTES : 0;
    this.#frames = new FinishedFrames(options.longest, options.txChecksum);
  }

  close(): void {
    this.#frames.close();
  }

  lock(): boolean {
    return lockQueue(this.#rings.state, LOCK);
  }

  unlock(): void {
    unlockQueue(this.#rings.state, LOCK);
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    if (this.#rings.state[DOWN] !== 0 && !this.#isUp()) {
      slots[base + PORT_DOWN]! += n;
      return 0;
    }
    this.#reap();
    const frames = this.#frames;
    let packets = 0;
    let sent = 0;
    let bytes = 0;
    for (let i = 0; i < n; i++) {
      const reason = frames.push(batch, list[i]!, this);
      if (reason !== 0) {
        slots[base + reason]! += 1;
        continue;
      }
      packets++;
      sent += frames.frames;
      bytes += frames.bytes;
      if (frames.summed !== 0) slots[base + CHECKSUMS]! += 1;
      if (frames.segmented !== 0) slots[base + SEGMENTED]! += 1;
    }
    if (packets > 0) countSent(this.#counters, sent, bytes);
    return packets;
  }

  /** Asks the kernel whether the interface still takes no frames. */
  #isUp(): boolean {
    const result = send(this.#rings.fd);
    if (result < 0 && result !== EAGAIN && result !== EBUSY) return false;
    Atomics.store(this.#rings.state, DOWN, 0);
    return true;
  }

  /** Frames that the kernel has sent become free again. */
  #reap(): void {
    const { completion, state, frameBytes } = this.#rings;
    const words = completion.words;
    const consumer = words[completion.consumer]!;
    const done = (Atomics.load(words, completion.producer) - consumer) | 0;
    if (done <= 0) return;
    const frameMask = ~(frameBytes - 1);
    let free = state[FREE_COUNT]!;
    for (let i = 0; i < done; i++) {
      state[FREE + free++] = words[completion.first + (((consumer + i) & completion.mask) << 1)]! & frameMask;
    }
    state[FREE_COUNT] = free;
    Atomics.store(words, completion.consumer, (consumer + done) | 0);
  }

  put(batch: PacketBatch, frames: FinishedFrames): number {
    const { tx, state, umem, frameBytes } = this.#rings;
    const words = tx.words;
    const total = frames.frameBytes;
    const skip = this.#skip;
    const room = frameBytes - skip;
    const need = total <= room ? 1 : Math.ceil(total / room);
    if (need > this.#buffers || total < ETHERNET) return TOO_BIG;
    let free = state[FREE_COUNT]!;
    if (need > free) return RING_FULL;
    const pieceAddress = frames.pieceAddress;
    const pieceLength = frames.pieceLength;
    if (batch.rowCount + frames.pieceCount + need > ROWS) batch.copy();
    const rows = batch.rows;
    const producer = words[tx.producer]! + this.#written;
    let row = batch.rowCount * 3;
    let piece = 0;
    let pieceAt = 0;
    let left = total;
    for (let i = 0; i < need; i++) {
      const frame = state[FREE + --free]! + skip;
      const length = Math.min(left, room);
      left -= length;
      const d = tx.first + (((producer + i) & tx.mask) << 2);
      words[d] = frame;
      words[d + 1] = 0;
      words[d + 2] = length;
      words[d + 3] = left > 0 ? CONTD : 0;
      let at = 0;
      while (at < length) {
        const rest = pieceLength[piece]! - pieceAt;
        const gap = length - at;
        const take = Math.min(rest, gap);
        rows[row] = umem + frame + at;
        rows[row + 1] = pieceAddress[piece]! + pieceAt;
        rows[row + 2] = take;
        row += 3;
        at += take;
        pieceAt += take;
        if (pieceAt === pieceLength[piece]!) {
          piece++;
          pieceAt = 0;
        }
      }
    }
    batch.rowCount = (row / 3) | 0;
    if (frames.csumStart !== 0) this.#askChecksum(producer, frames.csumStart, frames.csumOffset);
    state[FREE_COUNT] = free;
    this.#written += need;
    return 0;
  }

  /** Metadata for the frame whose first descriptor is number `at`. */
  #askChecksum(at: number, start: number, offset: number): void {
    const { tx, words } = this.#rings;
    const d = tx.first + ((at & tx.mask) << 2);
    const w = (tx.words[d]! - METADATA_BYTES) >>> 2;
    words[w] = CHECKSUM;
    words[w + 1] = 0;
    words[w + 2] = start | (offset << 16);
    tx.words[d + 3]! |= METADATA;
  }

  mark(): number {
    return this.#written;
  }

  rewind(mark: number): void {
    const { tx, state, frameBytes } = this.#rings;
    const frameMask = ~(frameBytes - 1);
    const producer = tx.words[tx.producer]!;
    let free = state[FREE_COUNT]!;
    while (this.#written > mark) {
      this.#written--;
      state[FREE + free++] = tx.words[tx.first + (((producer + this.#written) & tx.mask) << 2)]! & frameMask;
    }
    state[FREE_COUNT] = free;
  }

  publish(): void {
    const { tx } = this.#rings;
    const words = tx.words;
    if (this.#written > 0) {
      Atomics.store(words, tx.producer, (words[tx.producer]! + this.#written) | 0);
      this.#written = 0;
    }
    if (this.#needWakeup && (Atomics.load(words, tx.flags) & NEED_WAKEUP) === 0) return;
    let calls = 0;
    let result = EAGAIN;
    while ((result === EAGAIN || result === EBUSY) && calls < MAX_CALLS) {
      if (Atomics.load(words, tx.consumer) === words[tx.producer]) break;
      result = send(this.#rings.fd);
      calls++;
    }
    if (result === ENETDOWN || result === ENXIO) Atomics.store(this.#rings.state, DOWN, 1);
    this.#counters.slots[this.#counters.base + CALLS]! += calls;
  }
}
