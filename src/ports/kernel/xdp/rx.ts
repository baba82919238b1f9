// hot
/**
 * Receive half of an AF_XDP socket: frames that the interface received on one queue.
 *
 * The kernel leaves a received frame alone, so it is read where it lies: the header window is copied into the scratch, the rest
 * stays in the umem as segments. Fill entries are written while descriptors are read, and shown by `complete`, when nobody
 * reads the frames any more. Since the fill ring has room for every rx frame, it is never full.
 */
import { DROP_BASE, dropReason, portCounter } from '#contract/catalogue.ts';
import { xskGet, xskReceive, xskSend } from '#contract/os.ts';
import {
  BURST,
  HEADROOM,
  MAX_FRAME,
  MAX_PACKET_SEGMENTS,
  type PacketBatch,
  SLOT_BYTES,
  WINDOW,
} from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import { RING_NEED_WAKEUP, SOL_XDP, STATE_LOST, STATISTICS, XDP_PKT_CONTD, XDP_STATISTICS } from './layout.ts';
import { recognisePartial } from './partial.ts';
import type { XskRings } from './ring.ts';

const MAX_BURST = BURST;
const WINDOW_BYTES = WINDOW;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const LONGEST = MAX_FRAME;
const SEGMENTS = MAX_PACKET_SEGMENTS;
const NEED_WAKEUP = RING_NEED_WAKEUP;
const CONTD = XDP_PKT_CONTD;
const ETHERNET = 14;
const recognise = recognisePartial;
const receive = xskReceive;
const send = xskSend;
/** Empty polls from one look at the kernel's wishes to the next. */
const LOOK_EVERY = 16;
/** Polls from one look at the kernel's counters to the next; another is before every sleep. */
const COUNT_EVERY = 1024;
const SOL = SOL_XDP;
const COUNTERS = XDP_STATISTICS;
const LOST = STATE_LOST;
/** Low words of the counters of frames that were lost. */
const DROPPED = 2 * STATISTICS.indexOf('rx_dropped');
const FULL = 2 * STATISTICS.indexOf('rx_ring_full');
const getCounters = xskGet;

const RX_PACKETS = portCounter('rx_packets');
const RX_BYTES = portCounter('rx_bytes');
const RX_BURSTS = portCounter('rx_bursts');
const KICKS = portCounter('kicks');
const CALLS = portCounter('calls');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('rx_bad_descriptor');
const KERNEL_FULL = DROP_BASE + dropReason('rx_kernel_full');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');

export interface XdpRxOptions {
  readonly needWakeup: boolean;
  readonly busyPoll: boolean;
  readonly partialChecksums: boolean;
}

export class XdpRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #rings: XskRings;
  readonly #counters: PortCounters;
  readonly #needWakeup: boolean;
  readonly #busyPoll: boolean;
  readonly #partial: boolean;
  /** Descriptors of this burst, whose frames are to be given back. */
  #taken = 0;
  /** Bytes of the frame that `#take` found. */
  #bytes = 0;
  #idlePolls = 0;
  #polls = 0;
  readonly #statistics = new Uint8Array(STATISTICS.length * 8);
  readonly #statisticsWords = new Uint32Array(this.#statistics.buffer);

  constructor(portNo: number, rings: XskRings, counters: PortCounters, options: XdpRxOptions) {
    this.portNo = portNo;
    this.queue = rings.queue;
    this.kickFd = rings.fd;
    this.#rings = rings;
    this.#counters = counters;
    this.#needWakeup = options.needWakeup;
    this.#busyPoll = options.busyPoll;
    this.#partial = options.partialChecksums;
  }

  poll(batch: PacketBatch, whole = false): number {
    const rx = this.#rings.rx;
    const words = rx.words;
    const consumer = words[rx.consumer]!;
    if (++this.#polls % COUNT_EVERY === 0) this.#countLosses();
    const waiting = (Atomics.load(words, rx.producer) - consumer) | 0;
    if (waiting <= 0) {
      this.#idle();
      return 0;
    }
    if (this.#taken > 0) this.complete();
    const untouched = whole && !this.#partial;
    const n = waiting <= rx.mask ? waiting : rx.mask + 1;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    let slot = 0;
    let bytes = 0;
    while (slot < MAX_BURST && this.#taken < n) {
      const problem = this.#take(batch, slot, consumer, n, untouched);
      if (problem < 0) break;
      if (problem === 0) {
        bytes += this.#bytes;
        slot++;
      } else slots[base + problem]! += 1;
    }
    Atomics.store(words, rx.consumer, (consumer + this.#taken) | 0);
    if (slot === 0) {
      this.complete();
      return 0;
    }
    batch.copy();
    slots[base + RX_PACKETS]! += slot;
    slots[base + RX_BYTES]! += bytes;
    slots[base + RX_BURSTS]! += 1;
    batch.count = slot;
    batch.inPort = this.portNo;
    return slot;
  }

  /**
   * Puts the next frame, descriptors #taken.. of those from `consumer` on, into a slot; its length into #bytes.
   * @param n descriptors that there are. @returns 0, the slot of a drop counter, or -1: the frame's end is not there yet.
   */
  #take(batch: PacketBatch, slot: number, consumer: number, n: number, untouched: boolean): number {
    const rings = this.#rings;
    const rx = rings.rx.words;
    const rxMask = rings.rx.mask;
    const fill = rings.fill.words;
    const fillMask = rings.fill.mask;
    const produced = fill[rings.fill.producer]!;
    const frameMask = ~(rings.frameBytes - 1);
    const limit = rings.bytes.length;
    const first = batch.nextSegment;
    const rowCount = batch.rowCount;
    let segment = first;
    let bytes = 0;
    let problem = 0;
    let i = this.#taken;
    let more = true;
    for (; more; i++) {
      if (i === n) {
        batch.rowCount = rowCount;
        return -1;
      }
      const d = rings.rx.first + (((consumer + i) & rxMask) << 2);
      const address = rx[d]!;
      const length = rx[d + 2]!;
      more = (rx[d + 3]! & CONTD) !== 0;
      const f = rings.fill.first + (((produced + i) & fillMask) << 1);
      fill[f] = address & frameMask;
      fill[f + 1] = 0;
      if (address < 0 || length < 0 || rx[d + 1] !== 0 || address + length > limit) problem = BAD_DESCRIPTOR;
      if (problem !== 0) continue;
      let head = 0;
      if (bytes === 0) {
        if (length < ETHERNET) problem = SHORT_FRAME;
        head = this.#window(batch, slot, address, length, untouched);
      }
      if (segment - first === SEGMENTS) problem = OVERSIZE;
      else if (length > head) {
        batch.segmentAddress[segment] = rings.umem + address + head;
        batch.segmentLength[segment] = length - head;
        segment++;
      }
      bytes += length;
    }
    this.#taken = i;
    if (problem === 0 && bytes > LONGEST) problem = OVERSIZE;
    if (problem !== 0) {
      batch.rowCount = rowCount;
      return problem;
    }
    batch.segmentFirst[slot] = first;
    batch.segmentCount[slot] = segment - first;
    batch.nextSegment = segment;
    batch.length[slot] = bytes;
    this.#bytes = bytes;
    return 0;
  }

  /** Lists the copy of the header window, and reads what the frame says about its checksum. @returns bytes in the window. */
  #window(batch: PacketBatch, slot: number, address: number, length: number, untouched: boolean): number {
    const start = slot * SLOT + HEAD;
    const head = untouched ? 0 : Math.min(length, WINDOW_BYTES);
    batch.start[slot] = start;
    batch.headLength[slot] = head;
    batch.vnetFlags[slot] = 0;
    batch.gsoType[slot] = 0;
    batch.gsoSize[slot] = 0;
    batch.vnetHeaderLength[slot] = 0;
    batch.csumStart[slot] = 0;
    batch.csumOffset[slot] = 0;
    if (head > 0) {
      const row = batch.rowCount * 3;
      batch.rows[row] = batch.scratchAddress + start;
      batch.rows[row + 1] = this.#rings.umem + address;
      batch.rows[row + 2] = head;
      batch.rowCount++;
    }
    if (this.#partial) recognise(this.#rings.bytes, address, length, batch, slot);
    return head;
  }

  complete(): void {
    const fill = this.#rings.fill;
    if (this.#taken > 0) {
      Atomics.store(fill.words, fill.producer, (fill.words[fill.producer]! + this.#taken) | 0);
      this.#taken = 0;
    }
    if (this.#needWakeup && (fill.words[fill.flags]! & NEED_WAKEUP) !== 0) this.#kick();
  }

  #kick(): void {
    this.#counters.slots[this.#counters.base + KICKS]! += 1;
    receive(this.#rings.fd);
  }

  /** Nothing came: a driver may wait for a call, and frames of a tx burst that it could not take may still lie there. */
  #idle(): void {
    if (this.#busyPoll) this.#kick();
    if (++this.#idlePolls % LOOK_EVERY !== 0) return;
    const fill = this.#rings.fill;
    if (this.#needWakeup && (fill.words[fill.flags]! & NEED_WAKEUP) !== 0) this.#kick();
    this.#sendLeftOver();
  }

  #sendLeftOver(): void {
    const tx = this.#rings.tx;
    if (tx.words[tx.producer] === tx.words[tx.consumer]) return;
    if (this.#needWakeup && (tx.words[tx.flags]! & NEED_WAKEUP) === 0) return;
    this.#counters.slots[this.#counters.base + CALLS]! += 1;
    send(this.#rings.fd);
  }

  /** Frames that the kernel had to drop since the last look, by whoever took it. */
  #countLosses(): void {
    const words = this.#statisticsWords;
    if (getCounters(this.#rings.fd, SOL, COUNTERS, this.#statistics) < 8) return;
    const state = this.#rings.state;
    const lost = (words[DROPPED]! + words[FULL]!) | 0;
    const fresh = (lost - state[LOST]!) | 0;
    if (fresh <= 0) return;
    state[LOST] = lost;
    this.#counters.slots[this.#counters.base + KERNEL_FULL]! += fresh;
  }

  /** The kernel makes the socket readable at every frame, wanted or not. */
  arm(): boolean {
    this.#countLosses();
    this.#sendLeftOver();
    const rx = this.#rings.rx;
    return ((Atomics.load(rx.words, rx.producer) - rx.words[rx.consumer]!) | 0) > 0;
  }

  disarm(): void {}
}
